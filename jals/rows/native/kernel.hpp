// What one instruction set's build of the kernel offers. kernel.cpp is compiled once for each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows.hpp"

namespace jals {

template <class T>
struct Kernel {
  size_t workspace;   // bytes that one thread needs, 64-byte aligned
  size_t sums;        // bytes of one part's sums, a multiple of 64; 0 where rows cannot be cut into parts
  int64_t together;   // rows that are worked on at a time
  size_t packed;      // numbers that `pack` writes

  // Lays out the side's gram for `solve` to find in `packed`; null where it is read as it is.
  void (*pack)(const Side<T>& side, T* packed);
  // Forms and solves the systems of `count` rows; or steps towards their solutions.
  void (*solve)(const Side<T>& side, const Run* runs, const Row* rows, int64_t count, char* workspace);
  // The sums over a part of a long row's entries.
  void (*add_up)(const Side<T>& side, const Run* runs, const Row& part, char* workspace, char* sums);
  // Solves a row from its parts' sums, added in their order.
  void (*finish)(const Side<T>& side, int64_t row, const char* sums, int64_t parts, char* workspace);
};

}  // namespace jals
