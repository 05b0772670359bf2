// The sums over entries for any number of unknowns and either type: sum w z z' is added up where the matrix lies, a
// thread a tile of 4 x 4 numbers of it at a time.
#pragma once

#include "entries.cuh"

namespace jals {
namespace cuda {

template <class T, bool Outside>
struct InMemory {
  using Number = T;
  static constexpr int kBuffers = 1, kSpareOfEntry = 4, kThreads = 256;
  static constexpr bool kOutside = Outside, kSharesMemory = false;
  static constexpr int kBlocks = kBlocksOf<T>;
  static constexpr bool kAnyChunk = true;
  static constexpr int kTile = 4;

  DEVICE void clear(const Room<InMemory>& room) {
    for (int64_t i = thread(); i < matrix_size(room.n); i += threads()) room.matrix()[i] = T(0);
    for (int i = thread(); i < room.n; i += threads()) room.rhs()[i] = T(0);
    __syncthreads();
  }

  DEVICE void add(const Work<T>&, const Room<InMemory>& room, const Chunk<T>& chunk) {
    const int side = room.n / kTile, tiles = side * (side + 1) / 2, count = *chunk.count;
    for (int tile = thread(); tile < tiles; tile += threads()) {
      int i = static_cast<int>((sqrtf(8.0f * tile + 1.0f) - 1.0f) / 2.0f);  // tiles of a triangle, row after row
      while (i * (i + 1) / 2 > tile) --i;
      while ((i + 1) * (i + 2) / 2 <= tile) ++i;
      const int j = tile - i * (i + 1) / 2;
      T sum[kTile][kTile] = {};
      const T *left = chunk.z + i * kTile, *right = chunk.z + j * kTile;
      for (int e = 0; e < count; ++e, left += room.stride(), right += room.stride()) {
        T weighted[kTile], other[kTile];
        UNROLLED for (int a = 0; a < kTile; ++a) weighted[a] = chunk.w[e] * left[a], other[a] = right[a];
        UNROLLED for (int b = 0; b < kTile; ++b)
          UNROLLED for (int a = 0; a < kTile; ++a) sum[b][a] += weighted[a] * other[b];
      }
      UNROLLED for (int b = 0; b < kTile; ++b) {
        T* to = room.column(j * kTile + b) + i * kTile;
        UNROLLED for (int a = 0; a < kTile; ++a)
          if (i != j || a >= b) to[a] += sum[b][a];
      }
    }
    for (int c = thread(); c < room.n; c += threads()) {
      T sum = 0;
      for (int e = 0; e < count; ++e) sum += chunk.p[e] * chunk.z[e * room.stride() + c];
      room.rhs()[c] += sum;
    }
  }

  DEVICE void store(const Room<InMemory>&) {}
};

}  // namespace cuda
}  // namespace jals
