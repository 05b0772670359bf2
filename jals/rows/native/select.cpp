// Reads each query's scores once. Few items beat the k-th best so far (about k log(items / k) in random order), so a
// stretch of items is first asked whether any does, then each vector of it; and only an item that does is looked for
// among those that are closed.
//
// Compiled once for each instruction set: JALS_ISA names it, JALS_BYTES is the width of its vectors, of V numbers.

#include "select.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#ifndef JALS_ISA
#define JALS_ISA baseline
#define JALS_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

namespace jals {
namespace JALS_ISA {
namespace {

template <class T>
constexpr int64_t V = JALS_BYTES / sizeof(T);
template <class T>
using Vec __attribute__((vector_size(JALS_BYTES))) = T;

constexpr int64_t kVectors = 8;  // in a stretch

// The heap's top is the worst: the least score, of equal ones the last item.
template <class T>
struct Better {
  bool operator()(const Found<T>& one, const Found<T>& two) const {
    return one.score > two.score || (one.score == two.score && one.item < two.item);
  }
};

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

template <class M>
INLINE bool any(M mask) {
  int64_t words[sizeof mask / 8], all = 0;
  std::memcpy(words, &mask, sizeof mask);
  UNROLL
  for (size_t i = 0; i < sizeof mask / 8; ++i) all |= words[i];
  return all != 0;
}

template <class T, bool kOffset>
void one_query(const Selection<T>& all, int64_t query, Found<T>* heap) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  const T* score = all.score + query * all.columns;
  const T* offset = kOffset ? all.offset + all.first : nullptr;
  const bool* mask = all.mask ? all.mask + query * all.items + all.first : nullptr;
  const int32_t *closed = nullptr, *closed_end = nullptr;
  if (all.start) {
    const int64_t start = std::clamp<int64_t>(all.start[query], 0, all.pairs);
    closed = all.closed + start;
    closed_end = all.closed + std::clamp<int64_t>(all.stop[query], start, all.pairs);
  }
  const Better<T> better;
  int64_t size = 0;
  for (int64_t place = query * all.k; place < (query + 1) * all.k && all.before[place] >= 0; ++place)
    heap[size++] = {all.before_score[place], all.before[place]};
  std::reverse(heap, heap + size);  // the worst first: a heap
  // what an item must exceed, as those before have lower numbers; a NaN exceeds nothing
  T least = size == all.k ? heap[0].score : none;
  auto look = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T here = kOffset ? score[i] + offset[i] : score[i];
      if (!(here > least) || (mask && mask[i])) continue;
      const int32_t item = static_cast<int32_t>(all.first + i);
      if (std::binary_search(closed, closed_end, item)) continue;
      if (size == all.k) std::pop_heap(heap, heap + size--, better);
      heap[size++] = {here, item};
      std::push_heap(heap, heap + size, better);
      if (size == all.k) least = heap[0].score;
    }
  };
  int64_t i = 0;
  for (; i + kVectors * V<T> <= all.count; i += kVectors * V<T>) {
    const Vec<T> bar = Vec<T>{} + least;
    Vec<T> largest = bar;
    UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vec<T> here = scores<T, kOffset>(score + i + v * V<T>, kOffset ? offset + i + v * V<T> : nullptr);
      largest = here > largest ? here : largest;
    }
    if (!any(largest > bar)) continue;
    for (int64_t from = i; from < i + kVectors * V<T>; from += V<T>)
      if (any(scores<T, kOffset>(score + from, kOffset ? offset + from : nullptr) > bar)) look(from, from + V<T>);
  }
  look(i, all.count);
  std::sort_heap(heap, heap + size, better);
  for (int64_t place = 0; place < all.k; ++place) {
    all.item[query * all.k + place] = place < size ? heap[place].item : -1;
    all.best[query * all.k + place] = place < size ? heap[place].score : none;
  }
}

template <class T>
void select(const Selection<T>& all, int64_t first, int64_t last, Found<T>* heap) {
  for (int64_t query = first; query < last; ++query)
    all.offset ? one_query<T, true>(all, query, heap) : one_query<T, false>(all, query, heap);
}

}  // namespace

template <class T>
Select<T> make_select() {
  return select<T>;
}
template Select<float> make_select<float>();
template Select<double> make_select<double>();

}  // namespace JALS_ISA
}  // namespace jals
