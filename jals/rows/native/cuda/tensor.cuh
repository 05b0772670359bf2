// The sums over entries in float32 on the tensor cores: W warps hold the lower triangle in registers, each up to Tiles
// tiles of 16 x 16 of it.
//
// Tensor cores take numbers of 11 bits. With z = A + a, A being the nearest such number, z z' is AA' + Aa' + aA' up to
// 2^-22 of it. They round sums toward zero, so that each product of 8 entries begins at zero and is added to the total by
// an ordinary addition.
#pragma once

#include "entries.cuh"

namespace jals {
namespace cuda {

template <int W, int Tiles>
struct InRegisters {
  using Number = float;
  static constexpr int kBuffers = 2, kSpareOfEntry = 8, kThreads = kWarp * W;
  static constexpr bool kOutside = false, kSharesMemory = true;
  static constexpr bool kAnyChunk = false;
  static constexpr int kBlocks = W == 4 ? 3 : 16 / W;  // on a processor at a time: 168 and 128 registers a thread

  // Tiles lie row after row; this warp's are `first` up to `first + count`.
  int row, column, count;
  float sum[Tiles][2][4], rhs;

  __host__ __device__ static constexpr int tiles(int n) { return n / 16 * (n / 16 + 1) / 2; }
  // Whether it can hold the system of n unknowns: its tiles, and a column of the right-hand side for each thread.
  static constexpr bool fits(int n) { return tiles(n) <= W * Tiles && n <= kThreads; }

  DEVICE void clear(const Room<InRegisters>& room) {
    const int all = tiles(room.n), each = (all + W - 1) / W, first = min(warp() * each, all);
    count = min(each, all - first);
    row = 0;
    while ((row + 1) * (row + 2) / 2 <= first) ++row;
    column = first - row * (row + 1) / 2;
    UNROLLED for (int n = 0; n < Tiles; ++n)
      UNROLLED for (int m = 0; m < 8; ++m) sum[n][m / 4][m % 4] = 0;
    rhs = 0;
  }

  static DEVICE void split(float number, float& large, float& rest) {
    large = to_tf32(number);
    rest = number - large;
  }

  DEVICE void add(const Work<float>&, const Room<InRegisters>& room, const Chunk<float>& chunk) {
    const int own = anew(lane()), g = own / 4, t = own % 4;
    ONE_BY_ONE for (int e = 0; e < *chunk.count; e += 8) {
      // Of entries t and t + 4 a lane has numbers g and g + 8 of the row's tiles, and of the column's.
      const float* z = chunk.z + (e + t) * room.stride() + g;
      const int later = 4 * room.stride();
      const float w[2] = {chunk.w[e + t], chunk.w[e + t + 4]};
      float left[4], left_rest[4];
      // Else the places of all tiles would be held in registers.
      int i = anew(row), j = anew(column);
      const int mine = anew(count);
      UNROLLED for (int n = 0; n < Tiles; ++n) {
        if (n >= mine) break;
        if (n == 0 || j == 0)
          UNROLLED for (int m = 0; m < 4; ++m) split(w[m / 2] * z[m / 2 * later + 16 * i + 8 * (m % 2)], left[m], left_rest[m]);
        UNROLLED for (int half = 0; half < 2; ++half) {
          float right[2], right_rest[2];
          UNROLLED for (int m = 0; m < 2; ++m) split(z[m * later + 16 * j + 8 * half], right[m], right_rest[m]);
          float product[4] = {0, 0, 0, 0};
          multiply(product, left_rest, right);
          multiply(product, left, right_rest);
          multiply(product, left, right);
          UNROLLED for (int m = 0; m < 4; ++m) sum[n][half][m] += product[m];
        }
        if (++j > i) ++i, j = 0;
      }
    }
    if (thread() < room.n) {
      float part = 0;
      ONE_BY_ONE for (int e = 0; e < *chunk.count; ++e) part += chunk.p[e] * chunk.z[e * room.stride() + thread()];
      rhs += part;
    }
  }

  // Into the matrix and the right-hand side.
  DEVICE void store(const Room<InRegisters>& room) {
    const int g = lane() / 4, t = lane() % 4;
    int i = row, j = column;
    UNROLLED for (int n = 0; n < Tiles; ++n) {
      if (n >= count) break;
      UNROLLED for (int m = 0; m < 8; ++m) {
        const int r = 16 * i + g + 8 * (m % 4 / 2), c = 16 * j + 8 * (m / 4) + 2 * t + m % 2;
        if (r >= c) room.column(c)[r] = sum[n][m / 4][m % 4];
      }
      if (++j > i) ++i, j = 0;
    }
    if (thread() < room.n) room.rhs()[thread()] = rhs;
    __syncthreads();
  }
};

}  // namespace cuda
}  // namespace jals
