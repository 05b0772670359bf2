// What a half-sweep works on, as plain pointers: the arrays of a layout, and the numbers of the normal equations.
// The formulas are those of jals/normal.py.
#pragma once

#include <cstdint>
#include <vector>

namespace jals {

constexpr int64_t kPad = 16;  // no vector has more numbers
constexpr int kEntry = 7;     // numbers that say what an entry adds
using Narrow = uint16_t;      // a number in bfloat16: the upper half of a float

// Rows whose pieces share one width (jals/layouts.py, Bucket).
template <class T>
struct Bucket {
  int64_t slabs, rows, pieces, width;
  const int32_t* row;        // (slabs, rows); num_rows where unused
  const int32_t* other;      // (slabs, pieces, width); what is out of range leaves its row without a solution
  const int32_t* entry;      // (slabs, pieces, width); num_entries in padding, which only ends a piece
  const int32_t* piece_row;  // (slabs, pieces), the piece's place in `row`; null where piece p is all of row p
  const void* value;         // (slabs, pieces, width), numbers or codes
  int value_bytes;           // of one: 1 or 2 of a code c, which stands for low + step c; else sizeof(T)
  const T* weight;           // (slabs, pieces, width); null for 1
};

// One call: solve (sum w z z' + pairs gram + P) x = sum p z + P m for every row. k = rank + 1 with biases, else rank. The
// numbers that are arrays: they may lie where only a device can read them.
template <class T>
struct Operands {
  int64_t num_rows, num_entries, others, rank;
  bool part;           // whether these are some of a table's rows, with some of its entries
  const T* table;      // (others, rank): z, without the 1 that stands for the bias; or null, and
  const Narrow* narrow;  // the same in bfloat16
  const T* held_bias;  // (others); null without biases
  const T* prior;      // m: (num_rows, k) or (1, k); null for 0
  bool prior_per_row;
  const T* reg;        // (num_rows), lambda of the rank columns
  const T* reg_bias;   // (num_rows), lambda of the bias; null without biases
  const T* precision;  // the rest of P, (num_rows, k, k) or (1, k, k); null for 0
  bool precision_per_row;
  const T* gram;       // (k, k); null for 0
  const T* pairs;      // (num_rows), what multiplies gram in each row; null for 1
  const bool* blank;   // (num_rows): the matrix counts as the identity, and its right-hand side as m
  const bool* strict;  // (num_rows): pivots must exceed k eps (largest diagonal element)
  const T* rhs;        // (num_rows, k), takes the right-hand side's place; null for the equations' own
  T* x;                // (num_rows, k); NaN where not good
  bool* good;          // (num_rows): every pivot positive, and large enough where strict
  const T* start;      // (num_rows, k), where `value` is reckoned from; null for 0
  T* value;            // (num_rows): the row's part of the loss at x (with a start its entries' loss there less what
                       // the row's part falls from there to x); null when not asked for
  T* cholesky;         // (num_rows, k, k), the lower factor; null when not asked for
  T* inverse;          // (num_rows, k, k), of the matrix; null when not asked for
  T* norms;            // (num_rows, 2), of the matrix (Frobenius) and the right-hand side; null when not asked for

  // For some steps from `start` instead of a solution (steps.cpp), else 0. The table then has the bias's column of ones,
  // and columns of zeros up to a multiple of kPad: `rank` of them, and so have start, x, prior and gram.
  int64_t columns;     // that are no padding
  int64_t cg_steps;    // of conjugate gradients; or 0, and
  int64_t block;       // columns that are solved for at a time, the others held
  const T* packed;     // gram, as `Kernel::pack` leaves it; null without
  int64_t unknowns() const { return rank + (held_bias && !columns); }
  bool steps() const { return columns; }
};

// The same with the numbers that are read here, and what the rows' entries are.
template <class T>
struct Side : Operands<T> {
  std::vector<Bucket<T>> buckets;
  T mean;      // 0 where there is none
  // w = weight (entry[0] + entry[1] value), t = entry[2] + entry[3] value, q = weight entry[4]; of values that are codes
  // low is entry[5], and step entry[6].
  T entry[kEntry];
};

// A run of a row's entries in the slots of one piece.
struct Run {
  int32_t bucket;
  int64_t slot;    // the first slot, counted within the bucket
  int64_t length;
};

// One row to solve, or one part of a row too long for one thread.
struct Row {
  int64_t row;
  int64_t first_run, runs;
  int64_t entries;
};

}  // namespace jals
