// The memory of a block: a row's system, and the entries at hand.
#pragma once

#include "work.cuh"

namespace jals {
namespace cuda {

constexpr int kPanel = 8;  // columns of the factorization

// A matrix's lower triangle, in panels of kPanel columns: each from its diagonal down, column after column, with kSpare
// numbers behind a column so that neighbours lie in other banks. n is a multiple of kPanel.
constexpr int kSpare = 4;
__host__ __device__ constexpr int64_t panel_at(int n, int column) {  // of `column` times kPanel's first
  return int64_t(column) * (n + 2 * kSpare - column / 2);
}
__host__ __device__ constexpr int64_t matrix_size(int n) { return panel_at(n, n); }

// What a part leaves: the matrix, the right-hand side, and the loss as a double.
template <class T>
__host__ __device__ constexpr int64_t sums_size(int n) {
  return matrix_size(n) + n + int64_t(sizeof(double) / sizeof(T));
}

// Entries at hand; of each what is added up, and what the loss is made of.
template <class T>
struct Chunk {
  T* z;        // (chunk, stride)
  int* other;  // -1 for one that is not there
  T *w, *p, *gap, *t, *q;
  int* count;  // of entries
};

// A x = b of one row.
template <class T>
struct Room {
  int k, n, stride;
  T* matrix;
  T* rhs;       // (n)
  T* x;         // (n)
  T* scale;     // (n), 1 / (the factor's diagonal)
  T* diagonal;  // (kPanel, kPanel + 1), the square at a panel's top, and the right-hand side there
  double* of_warps;
  Chunk<T> chunk[2];

  DEVICE T* panel(int column) const { return matrix + panel_at(n, column); }
  DEVICE int height(int column) const { return n + kSpare - column; }
  // What column j holds below its panel's top; `column(j)[i]` for i >= j.
  DEVICE T* column(int j) const {
    const int first = j / kPanel * kPanel;
    return panel(first) + (j - first) * height(first) - first;
  }
};

__host__ __device__ constexpr int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Lays out a block's shared memory: Buffers chunks, with `Spare` numbers behind each entry's; where Shares is set they lie
// where the matrix will be. Returns its bytes; `room` may be null.
template <class T, int Buffers, int Spare, bool Shares>
__host__ __device__ int64_t lay_out(const Work<T>& work, char* memory, T* matrix, Room<T>* room) {
  const int n = work.size, stride = n + Spare;
  const int64_t chunks = aligned(int64_t(Buffers) * work.chunk * stride * sizeof(T));
  const int64_t matrices = work.matrices ? 0 : aligned(matrix_size(n) * sizeof(T));
  const bool shares = Shares && matrices;
  int64_t at = shares ? (chunks > matrices ? chunks : matrices) : chunks + matrices;
  auto take = [&](int64_t bytes) {
    char* here = memory + at;
    at += aligned(bytes);
    return here;
  };
  Room<T> found{};
  found.k = work.k, found.n = n, found.stride = stride;
  found.matrix = work.matrices ? matrix : reinterpret_cast<T*>(memory + (shares ? 0 : chunks));
  found.rhs = reinterpret_cast<T*>(take(n * sizeof(T)));
  found.x = reinterpret_cast<T*>(take(n * sizeof(T)));
  found.scale = reinterpret_cast<T*>(take(n * sizeof(T)));
  found.diagonal = reinterpret_cast<T*>(take(kPanel * (kPanel + 1) * sizeof(T)));
  found.of_warps = reinterpret_cast<double*>(take(kWarp * sizeof(double)));
  for (int b = 0; b < Buffers; ++b) {
    Chunk<T>& chunk = found.chunk[b];
    chunk.z = reinterpret_cast<T*>(memory) + int64_t(b) * work.chunk * stride;
    chunk.other = reinterpret_cast<int*>(take((kChunk + 1) * sizeof(int)));
    chunk.count = chunk.other + kChunk;
    for (T** numbers : {&chunk.w, &chunk.p, &chunk.gap, &chunk.t, &chunk.q})
      *numbers = reinterpret_cast<T*>(take(kChunk * sizeof(T)));
  }
  if (room) *room = found;
  return at;
}

}  // namespace cuda
}  // namespace jals
