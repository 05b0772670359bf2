// The kernels: parts of rows added up, most of them whole rows that are solved at once; and the rest finished.
#pragma once

#include "gram.cuh"
#include "solve.cuh"
#include "tensor.cuh"

namespace jals {
namespace cuda {

// Copies between a block's matrix and right-hand side and the sums of a part; `constant` is this thread's share.
template <class Sums, class T>
DEVICE void leave_sums(const Room<Sums>& room, T* to, double constant) {
  const int size = matrix_size(room.n);
  for (int i = thread(); i < size; i += threads()) to[i] = room.matrix()[i];
  for (int i = thread(); i < room.n; i += threads()) to[size + i] = room.rhs()[i];
  constant = block_sum(constant, room.of_warps());
  if (thread() == 0) *reinterpret_cast<double*>(to + size + room.n) = constant;
}

template <class Sums, class T>
DEVICE double add_sums(const Room<Sums>& room, const T* from, int64_t parts) {
  const int size = matrix_size(room.n);
  const int64_t each = sums_size<T>(room.n);
  for (int i = thread(); i < size + room.n; i += threads()) {
    T sum = from[i];
    for (int64_t p = 1; p < parts; ++p) sum += from[p * each + i];
    (i < size ? room.matrix()[i] : room.rhs()[i - size]) = sum;
  }
  double constant = 0;
  for (int64_t p = thread(); p < parts; p += threads())
    constant += *reinterpret_cast<const double*>(from + p * each + size + room.n);
  __syncthreads();
  return constant;
}

template <class T, class Sums>
DEVICE Room<Sums> room_of(const Work<T>& work, char* memory) {
  T* matrix = Sums::kOutside ? work.matrices + int64_t(blockIdx.x) * matrix_size(work.size) : nullptr;
  return {memory, matrix, work.k, work.size, work.chunk};
}

template <class Sums>
__global__ void __launch_bounds__(Sums::kThreads, Sums::kBlocks) rows_kernel(const __grid_constant__ Work<typename Sums::Number> work) {
  using T = typename Sums::Number;
  SHARED_MEMORY(memory);
  const Room<Sums> room = room_of<T, Sums>(work, memory);
  for (int item = blockIdx.x; item < work.items; item += gridDim.x) {
    if (thread() == 0) *room.part() = part_of(work, item);
    __syncthreads();
    const bool nothing = room.part()->row < 0;
    __syncthreads();
    if (nothing) continue;
    Sums sums;
    sums.clear(room);
    const double constant = add_entries(work, room, sums);
    sums.store(room);
    const int at = room.part()->sums;
    if (at >= 0) leave_sums(room, work.sums + at * sums_size<T>(room.n), constant);
    else solve_row(work, room.part()->row, room, constant);
    __syncthreads();
  }
}

// A room without chunks, for rows whose sums are there.
template <class T, bool Outside>
struct Finished {
  using Number = T;
  static constexpr int kBuffers = 0, kSpareOfEntry = 0, kThreads = 256;
  static constexpr bool kOutside = Outside, kSharesMemory = false;
  static constexpr int kBlocks = kBlocksOf<T>;
};

template <class Sums>
__global__ void __launch_bounds__(Sums::kThreads, Sums::kBlocks) finish_kernel(const __grid_constant__ Work<typename Sums::Number> work) {
  using T = typename Sums::Number;
  SHARED_MEMORY(memory);
  const Room<Sums> room = room_of<T, Sums>(work, memory);
  for (int place = blockIdx.x; place < work.places; place += gridDim.x) {
    int64_t row, first;
    const int64_t parts = parts_of_place(work, place, row, first);
    if (!parts) continue;
    const double constant = add_sums(room, work.sums + first * sums_size<T>(room.n), parts);
    solve_row(work, row, room, constant);
    __syncthreads();
  }
}

}  // namespace cuda
}  // namespace jals
