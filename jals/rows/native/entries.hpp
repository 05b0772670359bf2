// A row's entries: where they lie in the slots, and their numbers.
#pragma once

#include "panels.hpp"
#include "rows.hpp"

namespace jals {
namespace JALS_ISA {
namespace {

constexpr int64_t kChunk = 1024;  // entries added up before they join the row's total, so that rounding stays small

// One block: entries of one run.
struct Block {
  const int32_t* other = nullptr;
  int64_t bucket = 0, slot = 0, n = 0;
};

// The blocks of consecutive rows, one after the other.
template <class T>
class Blocks {
 public:
  Blocks(const Side<T>& side, const Run* runs, const Row* rows, int64_t count, int64_t size)
      : side_(side), runs_(runs), rows_(rows), count_(count), size_(size) {}

  // The next block; rows without entries are skipped. n = 0 at the end.
  Block next() {
    while (row_ < count_) {
      const Row& row = rows_[row_];
      if (run_ < row.runs) {
        const Run& run = runs_[row.first_run + run_];
        if (at_ < run.length) {
          const int64_t n = std::min(size_, run.length - at_), slot = run.slot + at_;
          at_ += n;
          return {side_.buckets[run.bucket].other + slot, run.bucket, slot, n};
        }
        at_ = 0;
        ++run_;
      } else {
        run_ = 0;
        ++row_;
      }
    }
    return {};
  }

 private:
  const Side<T>& side_;
  const Run* runs_;
  const Row* rows_;
  int64_t count_, size_, row_ = 0, run_ = 0, at_ = 0;
};

// f(the table's numbers): they are T, or bfloat16 where it is stored so.
template <class T, class F>
INLINE void with_table(const Side<T>& side, F&& f) {
  if constexpr (sizeof(T) == 4)
    if (side.narrow) return f(side.narrow);
  f(side.table);
}

template <class T>
INLINE void prefetch(const Side<T>& side, const Block& ahead, int64_t from, int64_t to) {
  with_table(side, [&](auto* table) INLINE_LAMBDA {
    const int64_t bytes = side.rank * sizeof *table;
    for (int64_t s = from; s < std::min(to, ahead.n); ++s) {
      const char* z = reinterpret_cast<const char*>(table + ahead.other[s] * side.rank);
      for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(z + b, 0, 3);
      if (bytes % 64) __builtin_prefetch(z + bytes - 1, 0, 3);
    }
  });
}

// total -= term, with what rounding loses added to `lost`: jals/factors.py, `remainder`.
template <class T>
INLINE void take_off(Vec<T>& total, Vec<T>& lost, Vec<T> term) {
  const Vec<T> now = total - term, part = now - total;
  lost += (total - (now - part)) - (term + part);
  total = now;
}

// The first of n numbers from an array, of T or bfloat16, V at most, and zeros.
template <class T, class Number>
INLINE Vec<T> load_some(const Number* from, int64_t n) {
  if (n >= V<T>) return load<T>(from);
  Number some[V<T>] = {};
  if (n > 0) std::memcpy(some, from, n * sizeof(Number));
  return load<T>(some);
}

// Whether a block's entries can be read: their rows of the table are there.
template <class T>
INLINE bool readable(const Side<T>& side, const Block& block) {
  using Ints __attribute__((vector_size(JALS_BYTES))) = int32_t;
  constexpr int64_t lanes = JALS_BYTES / sizeof(int32_t);
  const int32_t others = static_cast<int32_t>(side.others);
  Ints off = {};
  int64_t s = 0;
  for (; s + lanes <= block.n; s += lanes) {
    Ints o;
    std::memcpy(&o, block.other + s, sizeof o);
    off |= (o < 0) | (o >= others);
  }
  int32_t any = 0;
  for (int i = 0; i < lanes; ++i) any |= off[i];
  for (; s < block.n; ++s) any |= (block.other[s] < 0) | (block.other[s] >= others);
  return !any;
}

// 0, 1 ... V - 1
template <class T>
INLINE Mask<T> lane_numbers() {
  Mask<T> lanes;
  for (int i = 0; i < V<T>; ++i) lanes[i] = i;
  return lanes;
}

// The numbers of up to V entries; beyond the last, w and q are 0.
template <class T>
struct Entries {
  Vec<T> w, t, q, gap;  // gap: t less what of the score is held

  INLINE Vec<T> loss(Vec<T> left) const { return w * left * left + q * (1 - 2 * (t - left)); }  // left: t - s
};

template <class T, class Code>
INLINE Vec<T> decoded(const Side<T>& side, const void* codes, int64_t slot, int64_t n) {
  Code some[V<T>] = {};
  const Code* from = static_cast<const Code*>(codes) + slot;
  if (n >= V<T>) std::memcpy(some, from, sizeof some);
  else std::copy_n(from, n, some);
  T wide[V<T>];
  for (int i = 0; i < V<T>; ++i) wide[i] = T(some[i]);
  return side.entry[5] + side.entry[6] * load<T>(wide);
}

// n ones, V at most, and zeros.
template <class T>
INLINE Vec<T> ones(int64_t n) {
  T some[V<T>];
  for (int i = 0; i < V<T>; ++i) some[i] = T(i < n);
  return load<T>(some);
}

// The values of n entries from a slot on, V at most.
template <class T>
INLINE Vec<T> values(const Side<T>& side, const Bucket<T>& bucket, int64_t slot, int64_t n) {
  switch (bucket.value_bytes) {
    case 1: return decoded<T, uint8_t>(side, bucket.value, slot, n);
    case 2: return decoded<T, uint16_t>(side, bucket.value, slot, n);
    default: return load_some<T>(static_cast<const T*>(bucket.value) + slot, n);
  }
}

// Those of the n entries of a block from s on.
template <class T>
INLINE Entries<T> read_entries(const Side<T>& side, const Block& block, int64_t s, int64_t n) {
  const Vec<T> r = values(side, side.buckets[block.bucket], block.slot + s, n);
  const T* weight = side.buckets[block.bucket].weight;
  const Vec<T> v = weight ? load_some<T>(weight + block.slot + s, n) : ones<T>(n);
  const Vec<T> t = side.entry[2] + side.entry[3] * r;
  Vec<T> gap = t, lost = {};
  take_off<T>(gap, lost, side.mean + Vec<T>{});
  if (side.held_bias) {
    T held[V<T>] = {};
    for (int64_t i = 0; i < n; ++i) held[i] = side.held_bias[block.other[s + i]];
    take_off<T>(gap, lost, load<T>(held));
  }
  return {v * (side.entry[0] + side.entry[1] * r), t, v * side.entry[4], gap + lost};
}

}  // namespace
}  // namespace JALS_ISA
}  // namespace jals
