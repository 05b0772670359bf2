// The memory of a block: a row's system, and the entries at hand.
//
// `Sums` is how sums over entries are added up (gram.cuh, tensor.cuh): `Number`, their type; kBuffers, chunks that it
// uses in turn; kSpareOfEntry, numbers behind an entry's; kOutside, whether the matrix lies in global memory.
#pragma once

#include "work.cuh"

namespace jals {
namespace cuda {

constexpr int kPanel = 8;  // columns of the factorization

// Blocks of 256 threads on a processor at a time, at least: what registers allow.
template <class T>
constexpr int kBlocksOf = sizeof(T) == 4 ? 2 : 1;

// A matrix's lower triangle, in panels of kPanel columns: each from its diagonal down, column after column, with kSpare
// numbers behind a column so that neighbours lie in other banks. n is a multiple of kPanel, and so whatever begins with a
// row that is one lies at a multiple of 16 bytes.
constexpr int kSpare = 4;
__host__ __device__ constexpr int panel_at(int n, int first) { return first * (n + 2 * kSpare - first / 2); }
__host__ __device__ constexpr int matrix_size(int n) { return panel_at(n, n); }

// What a part leaves: the matrix, the right-hand side, and the loss as a double.
template <class T>
__host__ __device__ constexpr int64_t sums_size(int n) {
  return matrix_size(n) + n + int(sizeof(double) / sizeof(T));
}

__host__ __device__ constexpr int aligned(int bytes) { return (bytes + 15) / 16 * 16; }

// Entries at hand; of each what is added up, and what the loss is made of.
template <class T>
struct Chunk {
  T* z;        // (chunk, stride)
  int* other;  // -1 for one that is not there
  T *w, *p, *gap, *t, *q;
  int* count;  // of entries
};

// A x = b of one row, and the chunks: a block's shared memory, but where Sums is so the matrix, and how it is divided.
// Chunks lie where the matrix will be where Sums can have both there.
template <class Sums>
struct Room {
  using T = typename Sums::Number;

  char* memory;
  T* outside;  // the matrix, where it does not lie in shared memory
  int k, n, size;  // unknowns; with what fills up; entries of a chunk

  DEVICE double* of_warps() const { return reinterpret_cast<double*>(memory); }            // (kWarp)
  DEVICE double* losses() const { return reinterpret_cast<double*>(memory + kLosses); }   // (kWarp), see `Entries`
  DEVICE Part* part() const { return reinterpret_cast<Part*>(memory + kPart); }
  DEVICE Chunk<T> chunk(int b) const {
    int* other = reinterpret_cast<int*>(memory + kOthers) + b * (kChunk + 1);
    T* numbers = reinterpret_cast<T*>(memory + kNumbers) + b * 5 * kChunk;
    return {z() + b * size * stride(), other, numbers, numbers + kChunk, numbers + 2 * kChunk, numbers + 3 * kChunk,
            numbers + 4 * kChunk, other + kChunk};
  }
  // (kPanel, kPanel + 1), the square at a panel's top, and the right-hand side there.
  DEVICE T* diagonal() const { return reinterpret_cast<T*>(memory + kDiagonal); }
  DEVICE T* rhs() const { return reinterpret_cast<T*>(memory + kRest); }  // (n)
  DEVICE T* x() const { return rhs() + n; }                               // (n)
  DEVICE T* scale() const { return x() + n; }                             // (n), 1 / (the factor's diagonal)
  DEVICE T* z() const { return scale() + n; }                             // (chunks, size, stride)
  DEVICE int stride() const { return n + Sums::kSpareOfEntry; }
  DEVICE T* matrix() const {
    return Sums::kOutside ? outside : Sums::kSharesMemory ? z() : z() + Sums::kBuffers * size * stride();
  }
  // What column j holds, from its panel's top on: column(j)[i] for i >= j.
  DEVICE T* column(int j) const {
    const int first = j / kPanel * kPanel;
    return matrix() + panel_at(n, first) + (j - first) * height(first) - first;
  }
  DEVICE int height(int first) const { return n + kSpare - first; }

  static constexpr int kLosses = kWarp * sizeof(double);
  static constexpr int kPart = 2 * kLosses;
  static constexpr int kOthers = kPart + aligned(sizeof(Part));
  static constexpr int kNumbers = kOthers + aligned(Sums::kBuffers * (kChunk + 1) * sizeof(int));
  static constexpr int kDiagonal = kNumbers + aligned(Sums::kBuffers * 5 * kChunk * sizeof(T));
  static constexpr int kRest = kDiagonal + aligned(kPanel * (kPanel + 1) * sizeof(T));

  // How much of shared memory it takes.
  static int64_t bytes(int n, int size) {
    const int64_t chunks = int64_t(Sums::kBuffers) * size * (n + Sums::kSpareOfEntry);
    const int64_t matrix = Sums::kOutside ? 0 : matrix_size(n);
    const int64_t both = Sums::kSharesMemory ? (chunks > matrix ? chunks : matrix) : chunks + matrix;
    return kRest + (3 * n + both) * int64_t(sizeof(T));
  }
};

}  // namespace cuda
}  // namespace jals
