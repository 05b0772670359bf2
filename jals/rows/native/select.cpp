// Reads each query's scores once. Few items beat the k-th best so far (about k log(items / k) in random order), so a
// stretch of items is first asked whether any does, then which. Those that do are only collected; when there are twice k
// or so, the k best of them stay, and the worst of these is the bar from then on.
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
#define INLINE_LAMBDA __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace jals {
namespace JALS_ISA {
namespace {

template <class T>
constexpr int64_t V = JALS_BYTES / sizeof(T);
template <class T>
using Vec __attribute__((vector_size(JALS_BYTES))) = T;

constexpr int64_t kVectors = 8;  // in a stretch
template <class T>
constexpr T kNone = -std::numeric_limits<T>::infinity();

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

template <class T, bool kOffset>
INLINE Vec<T> scores(const T* score, const T* offset) {
  Vec<T> v;
  std::memcpy(&v, score, sizeof v);
  if constexpr (kOffset) {
    Vec<T> more;
    std::memcpy(&more, offset, sizeof more);
    v += more;
  }
  return v;
}

// A bit for each lane where a exceeds b, which a NaN does not.
template <class T>
INLINE uint32_t exceeds(Vec<T> a, Vec<T> b) {
  constexpr bool kSingle = sizeof(T) == 4;
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

template <class T, bool kOffset>
void add_query(const Selection<T>& all, int64_t query) {
  T* score = all.score + query * all.columns;
  const T* offset = kOffset ? all.offset + all.first : nullptr;
  const bool* mask = all.mask ? all.mask + query * all.items + all.first : nullptr;
  if (all.start) {
    const int64_t start = std::clamp<int64_t>(all.start[query], 0, all.pairs);
    const int32_t *closed = all.closed + start,
                  *end = all.closed + std::clamp<int64_t>(all.stop[query], start, all.pairs);
    for (closed = std::lower_bound(closed, end, all.first); closed < end; ++closed) {
      const int64_t at = *closed - all.first;
      if (at >= all.count) break;
      if (at >= 0) score[at] = kNone<T>;
    }
  }
  Key<T>* held = all.held + query * all.room;
  int64_t size = std::clamp<int64_t>(all.size[query], 0, all.room - 1);
  T bar = all.bar[query];
  auto take = [&](int64_t i) INLINE_LAMBDA {
    held[size] = key<T>(kOffset ? score[i] + offset[i] : score[i], all.first + i);
    size += !(mask && mask[i]);
    if (size < all.room) return;
    keep_best(held, size, all.k);
    size = all.k;
    bar = score_of<T>(held[size - 1]);
  };
  int64_t i = 0;
  for (; i + kVectors * V<T> <= all.count; i += kVectors * V<T>) {
    auto at = [&](int64_t v) INLINE_LAMBDA {
      return scores<T, kOffset>(score + i + v * V<T>, kOffset ? offset + i + v * V<T> : nullptr);
    };
    const Vec<T> low = Vec<T>{} + bar;
    Vec<T> largest = low;
    UNROLL
    for (int64_t v = 0; v < kVectors; ++v) largest = at(v) > largest ? at(v) : largest;
    if (!exceeds<T>(largest, low)) continue;
    uint32_t which[kVectors];
    UNROLL
    for (int64_t v = 0; v < kVectors; ++v) which[v] = exceeds<T>(at(v), low);
    for (int64_t v = 0; v < kVectors; ++v)
      for (uint32_t bits = which[v]; bits; bits &= bits - 1) take(i + v * V<T> + __builtin_ctz(bits));
  }
  for (; i < all.count; ++i)
    if ((kOffset ? score[i] + offset[i] : score[i]) > bar) take(i);
  all.size[query] = static_cast<int32_t>(size);
  all.bar[query] = bar;
}

template <class T>
void add(const Selection<T>& all, int64_t first, int64_t last) {
  for (int64_t query = first; query < last; ++query)
    all.offset ? add_query<T, true>(all, query) : add_query<T, false>(all, query);
}

template <class T>
void sorted(const Selection<T>& all, int64_t first, int64_t last) {
  for (int64_t query = first; query < last; ++query) {
    Key<T>* held = all.held + query * all.room;
    int64_t size = std::clamp<int64_t>(all.size[query], 0, all.room - 1);
    if (size > all.k) keep_best(held, size, all.k);
    size = std::min(size, all.k);
    sort(held, size, held + all.k);
    for (int64_t place = 0; place < all.k; ++place) {
      all.item[query * all.k + place] = place < size ? item_of<T>(held[place]) : -1;
      all.best[query * all.k + place] = place < size ? score_of<T>(held[place]) : kNone<T>;
    }
  }
}

}  // namespace

template <class T>
Select<T> make_select() {
  return {add<T>, sorted<T>};
}
template Select<float> make_select<float>();
template Select<double> make_select<double>();

}  // namespace JALS_ISA
}  // namespace jals
