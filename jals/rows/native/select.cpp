// Scores are made a panel of items by a few queries at a time, in registers, and compared there with what an item must
// exceed: few do (about k log(items / k), in random order), and all others are never stored. Those that do are collected;
// when there are twice k or so, the k best of them stay, and the worst of these is the bar from then on.
//
// Whether an item is better decides no branch, as nothing could predict it.
//
// Compiled once for each instruction set: JALS_ISA names it, JALS_BYTES is the width of its vectors, of V numbers.

#include "select.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef JALS_ISA
#define JALS_ISA baseline
#define JALS_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

namespace jals {
namespace JALS_ISA {
namespace {

template <class T>
constexpr int64_t V = JALS_BYTES / sizeof(T);
template <class T>
using Vec __attribute__((vector_size(JALS_BYTES))) = T;

// The sums that stay in registers: 24 of 32, 12 of 16.
constexpr int64_t kVectors = 2;
constexpr int64_t kQueries = JALS_BYTES == 64 ? 12 : 6;
template <class T>
constexpr int64_t kItems = kVectors * V<T>;  // of a panel
constexpr int64_t kTogether = 8 * kQueries;  // queries that go through the table together,
constexpr int64_t kHeldBytes = 1 << 22;      // or fewer, so that no more is held of them

template <class T>
constexpr T kNone = -std::numeric_limits<T>::infinity();

// A score and its item as one number, the larger the better: of equal scores the lower item is.
template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = uint64_t;
};
template <>
struct KeyOf<double> {
  __extension__ using type = unsigned __int128;
};
template <class T>
using Key = typename KeyOf<T>::type;

template <class T>
using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
constexpr int kItem = 8 * sizeof(T);  // bits of a key that the item has
template <class T>
constexpr Int<T> kLow = std::numeric_limits<Int<T>>::max();

// -0 counts as 0.
template <class T>
INLINE Key<T> key(T score, int64_t item) {
  score += 0;
  Int<T> bits;
  std::memcpy(&bits, &score, sizeof bits);
  bits ^= (bits < 0 ? kLow<T> : 0) ^ std::numeric_limits<Int<T>>::min();  // as an unsigned number, in order
  return static_cast<Key<T>>(static_cast<std::make_unsigned_t<Int<T>>>(bits)) << kItem<T> | (kLow<int32_t> - item);
}

template <class T>
INLINE T score_of(Key<T> key) {
  const Int<T> bits = static_cast<Int<T>>(key >> kItem<T>) ^ std::numeric_limits<Int<T>>::min();
  const Int<T> as_stored = bits ^ (bits < 0 ? kLow<T> : 0);
  T score;
  std::memcpy(&score, &as_stored, sizeof score);
  return score;
}

template <class T>
INLINE int32_t item_of(Key<T> key) {
  return static_cast<int32_t>(kLow<int32_t> - static_cast<int64_t>(key & 0xffffffff));
}

// A bit for each lane where a exceeds b, which a NaN does not.
template <class T>
INLINE uint32_t exceeds(Vec<T> a, Vec<T> b) {
  [[maybe_unused]] constexpr bool kSingle = sizeof(T) == 4;
#if JALS_BYTES == 64
  if constexpr (kSingle) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  else return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#elif JALS_BYTES == 32
  if constexpr (kSingle) return _mm256_movemask_ps((__m256)(a > b));
  else return _mm256_movemask_pd((__m256d)(a > b));
#elif defined(__SSE2__)
  if constexpr (kSingle) return _mm_movemask_ps((__m128)(a > b));
  else return _mm_movemask_pd((__m128d)(a > b));
#else
  uint32_t bits = 0;
  UNROLL
  for (int64_t lane = 0; lane < V<T>; ++lane) bits |= uint32_t(a[lane] > b[lane]) << lane;
  return bits;
#endif
}

// The largest first. `room` is for as many again.
template <class K>
void sort(K* keys, int64_t size, K* room) {
  constexpr int64_t kShort = 8;
  for (int64_t begin = 0; begin < size; begin += kShort)
    for (int64_t i = begin + 1; i < std::min(begin + kShort, size); ++i) {
      const K here = keys[i];
      int64_t at = i;
      for (; at > begin && keys[at - 1] < here; --at) keys[at] = keys[at - 1];
      keys[at] = here;
    }
  K *from = keys, *to = room;
  for (int64_t length = kShort; length < size; length *= 2, std::swap(from, to))
    for (int64_t begin = 0; begin < size; begin += 2 * length) {
      const int64_t middle = std::min(begin + length, size), end = std::min(begin + 2 * length, size);
      int64_t a = begin, b = middle, at = begin;
      while ((a < middle) & (b < end)) {
        const bool first = from[a] > from[b];
        to[at++] = first ? from[a] : from[b];
        a += first;
        b += !first;
      }
      std::copy(from + a, from + middle, to + at);
      std::copy(from + b, from + end, to + at + middle - a);
    }
  if (from != keys) std::copy(from, from + size, keys);
}

// The k best first, the worst of them last; 0 < k < size.
template <class K>
void keep_best(K* held, int64_t size, int64_t k) {
  int64_t low = 0, high = size;  // the worst of the k lies between these
  for (int round = 0; high - low > 1; ++round) {
    if (round == 48) return std::nth_element(held + low, held + k - 1, held + high, std::greater<K>());
    K *a = held + low, *b = held + low + (high - low) / 2, *c = held + high - 1;
    K* middle = *a > *b ? (*b > *c ? b : *a > *c ? c : a) : (*a > *c ? a : *b > *c ? c : b);
    std::swap(*middle, *c);
    const K pivot = *c;
    int64_t at = low;
    for (int64_t i = low; i < high - 1; ++i) {
      const K here = held[i];
      held[i] = held[at];
      held[at] = here;
      at += here > pivot;
    }
    std::swap(held[at], *c);
    if (at == k - 1) return;
    (at > k - 1 ? high : low) = at > k - 1 ? at : at + 1;
  }
}

// What is known of one query on its way through the table.
template <class T>
struct Query {
  Key<T>* held;             // the k best so far are among these, in any order
  int64_t size;
  const int32_t *closed, *end;  // items that are closed to it, from the one that was asked for last
  const bool* mask;
};

template <class T>
void pack(const Selection<T>& all, int64_t panel, T* to) {
  const int64_t first = panel * kItems<T>, count = std::min(kItems<T>, all.items - first);
  if (count < kItems<T>) std::fill_n(to, all.rank * kItems<T>, T(0));
  for (int64_t i = 0; i < count; ++i) {
    const T* row = all.table + (first + i) * all.rank;
    for (int64_t r = 0; r < all.rank; ++r) to[r * kItems<T> + i] = row[r];
  }
}

template <class T>
INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The scores of kQueries queries, (rank, kQueries) numbers of theirs, with the items of a panel.
template <class T>
INLINE void scores(const T* queries, const T* panel, int64_t rank, Vec<T> (&made)[kQueries][kVectors]) {
  Vec<T> sums[kQueries][kVectors] = {};  // of its own, so that it lies in registers
  for (int64_t r = 0; r < rank; ++r, queries += kQueries, panel += kItems<T>) {
    const Vec<T> first = load(panel), second = load(panel + V<T>);
    UNROLL
    for (int64_t q = 0; q < kQueries; ++q) {
      sums[q][0] += queries[q] * first;
      sums[q][1] += queries[q] * second;
    }
  }
  UNROLL
  for (int64_t q = 0; q < kQueries; ++q) {
    UNROLL
    for (int64_t v = 0; v < kVectors; ++v) made[q][v] = sums[q][v];
  }
}

// Takes the items from `first` on that have a bit, if they are open; returns what an item must exceed then.
template <class T>
T take(const Selection<T>& all, Query<T>& query, T bar, uint32_t bits, const T* score, int64_t first) {
  for (; bits; bits &= bits - 1) {
    const int64_t at = __builtin_ctz(bits), item = first + at;
    while (query.closed < query.end && *query.closed < item) ++query.closed;
    const bool closed = (query.closed < query.end && *query.closed == item) || (query.mask && query.mask[item]);
    query.held[query.size] = key<T>(score[at], item);
    query.size += !closed;
    if (query.size < 2 * all.k) continue;
    keep_best(query.held, query.size, all.k);
    query.size = all.k;
    bar = score_of<T>(query.held[all.k - 1]);
  }
  return bar;
}

template <class T>
struct Workspace {
  Query<T>* query;  // (queries)
  Key<T>* held;     // (queries, 2 k)
  T* numbers;       // (groups, rank, kQueries): those of the queries, 0 where there is none
  T* bar;           // (groups, kQueries): what an item must exceed, inf where there is no query
  T* panel;         // (rank, kItems)
  T* scores;        // (kQueries, kItems)
  int64_t bytes;

  Workspace(const Selection<T>& all, int64_t queries, char* at) {
    char* const begin = at;
    auto next = [&](auto*& array, int64_t count) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(at);
      at += (count * sizeof *array + 63) / 64 * 64;
    };
    const int64_t groups = (queries + kQueries - 1) / kQueries;
    next(query, queries);
    next(held, queries * 2 * all.k);
    next(numbers, groups * all.rank * kQueries);
    next(bar, groups * kQueries);
    next(panel, all.rank * kItems<T>);
    next(scores, kQueries * kItems<T>);
    bytes = at - begin;
  }
};

template <class T>
int64_t together(const Selection<T>& all) {
  const int64_t groups = kHeldBytes / (2 * all.k * int64_t(sizeof(Key<T>))) / kQueries;
  return std::clamp<int64_t>(groups * kQueries, kQueries, kTogether);
}

template <class T>
int64_t workspace(const Selection<T>& all, int64_t first, int64_t last) {
  return Workspace<T>(all, last - first, nullptr).bytes;
}

template <class T>
void begin(const Selection<T>& all, int64_t first, int64_t queries, const Workspace<T>& work) {
  for (int64_t place = 0; place < (queries + kQueries - 1) / kQueries * kQueries; ++place) {
    const int64_t q = first + place;
    const bool there = place < queries;
    work.bar[place] = there ? kNone<T> : -kNone<T>;
    T* numbers = work.numbers + place / kQueries * all.rank * kQueries + place % kQueries;
    for (int64_t r = 0; r < all.rank; ++r) numbers[r * kQueries] = there ? all.query[q * all.rank + r] : T(0);
    if (!there) continue;
    Query<T>& query = work.query[place];
    query = {work.held + place * 2 * all.k, 0, nullptr, nullptr, all.mask ? all.mask + q * all.items : nullptr};
    if (!all.start) continue;
    const int64_t start = std::clamp<int64_t>(all.start[q], 0, all.pairs);
    query.closed = all.closed + start;
    query.end = all.closed + std::clamp<int64_t>(all.stop[q], start, all.pairs);
  }
}

template <class T>
void find(const Selection<T>& all, int64_t first, int64_t last, char* memory) {
  const int64_t queries = last - first;
  const Workspace<T> work(all, queries, memory);
  begin(all, first, queries, work);
  for (int64_t item = 0; item < all.items; item += kItems<T>) {
    const T* panel = work.panel;
    if (all.packed) panel = all.packed + item * all.rank;
    else pack(all, item / kItems<T>, work.panel);
    const int64_t count = std::min(kItems<T>, all.items - item);
    Vec<T> offset[kVectors] = {};
    if (all.offset) std::memcpy(offset, all.offset + item, count * sizeof(T));
    const uint32_t there = count < kItems<T> ? (uint32_t(1) << count) - 1 : ~uint32_t(0);
    for (int64_t place = 0; place < queries; place += kQueries) {
      Vec<T> sums[kQueries][kVectors];
      scores<T>(work.numbers + place * all.rank, panel, all.rank, sums);
      uint32_t better[kQueries], which = 0;
      UNROLL
      for (int64_t q = 0; q < kQueries; ++q) {
        better[q] = 0;
        UNROLL
        for (int64_t v = 0; v < kVectors; ++v) {
          sums[q][v] += offset[v];
          better[q] |= exceeds<T>(sums[q][v], Vec<T>{} + work.bar[place + q]) << (v * V<T>);
        }
        better[q] &= there;
        which |= uint32_t(better[q] != 0) << q;
      }
      if (!which) continue;
      UNROLL
      for (int64_t q = 0; q < kQueries; ++q) std::memcpy(work.scores + q * kItems<T>, sums[q], sizeof sums[q]);
      for (; which; which &= which - 1) {
        const int64_t q = __builtin_ctz(which);
        T& bar = work.bar[place + q];
        bar = take(all, work.query[place + q], bar, better[q], work.scores + q * kItems<T>, item);
      }
    }
  }
  for (int64_t place = 0; place < queries; ++place) {
    const Query<T>& query = work.query[place];
    if (query.size > all.k) keep_best(query.held, query.size, all.k);
    const int64_t size = std::min(query.size, all.k), to = (first + place) * all.k;
    sort(query.held, size, query.held + all.k);
    for (int64_t i = 0; i < all.k; ++i) {
      all.item[to + i] = i < size ? item_of<T>(query.held[i]) : -1;
      all.best[to + i] = i < size ? score_of<T>(query.held[i]) : kNone<T>;
    }
  }
}

}  // namespace

template <class T>
Select<T> make_select() {
  return {kItems<T>, together<T>, pack<T>, workspace<T>, find<T>};
}
template Select<float> make_select<float>();
template Select<double> make_select<double>();

}  // namespace JALS_ISA
}  // namespace jals
