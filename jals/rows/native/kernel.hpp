// What one instruction set's build of the kernel offers. kernel.cpp is compiled once for each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows.hpp"

namespace jals {

template <class T>
struct Kernel {
  size_t workspace;   // bytes that one thread needs, 64-byte aligned
  size_t sums;        // bytes of one part's sums, a multiple of 64

  // Forms and solves the systems of `count` rows.
  void (*solve)(const Side<T>& side, const Run* runs, const Row* rows, int64_t count, char* workspace);
  // The sums over a part of a long row's entries.
  void (*add_up)(const Side<T>& side, const Run* runs, const Row& part, char* workspace, char* sums);
  // Solves a row from its parts' sums, added in their order.
  void (*finish)(const Side<T>& side, int64_t row, const char* sums, int64_t parts, char* workspace);
};

// Each fills in a kernel for systems of this rank.
template <class T>
using MakeKernel = Kernel<T> (*)(int64_t rank);

}  // namespace jals
