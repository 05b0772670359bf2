// Reads each query's scores once. Few items beat the k-th best so far (about k log(items / k) in random order), so a
// stretch of items is first asked whether any does, which the compiler makes vectors of; and only an item that does is
// looked for among those that are closed.

#include "select.hpp"

#include <algorithm>
#include <limits>

#ifndef JALS_ISA
#define JALS_ISA baseline
#endif

namespace jals {
namespace JALS_ISA {
namespace {

constexpr int64_t kStretch = 64;

// The heap's top is the worst: the least score, of equal ones the last item.
template <class T>
struct Better {
  bool operator()(const Found<T>& one, const Found<T>& two) const {
    return one.score > two.score || (one.score == two.score && one.item < two.item);
  }
};

template <class T, bool kOffset>
inline bool any_above(const T* score, const T* offset, int64_t count, T least) {
  int above = 0;
  for (int64_t i = 0; i < count; ++i) above |= (kOffset ? score[i] + offset[i] : score[i]) > least;
  return above;
}

template <class T, bool kOffset>
void one_query(const Selection<T>& all, int64_t query, Found<T>* heap) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  const T* score = all.score + query * all.items;
  const bool* mask = all.mask ? all.mask + query * all.items : nullptr;
  const int32_t *closed = nullptr, *closed_end = nullptr;
  if (all.start) {
    const int64_t start = std::clamp<int64_t>(all.start[query], 0, all.pairs);
    closed = all.closed + start;
    closed_end = all.closed + std::clamp<int64_t>(all.stop[query], start, all.pairs);
  }
  const Better<T> better;
  int64_t size = 0;
  T least = none;  // what an item must exceed; a NaN exceeds nothing
  for (int64_t begin = 0; begin < all.items; begin += kStretch) {
    const int64_t count = std::min(kStretch, all.items - begin);
    const T* offset = kOffset ? all.offset + begin : nullptr;
    // of a known length, so that no remainder is left to a loop of single items
    const bool above = count == kStretch ? any_above<T, kOffset>(score + begin, offset, kStretch, least)
                                         : any_above<T, kOffset>(score + begin, offset, count, least);
    if (!above) continue;
    for (int64_t i = begin; i < begin + count; ++i) {
      const T here = kOffset ? score[i] + all.offset[i] : score[i];
      if (!(here > least) || (mask && mask[i]) || std::binary_search(closed, closed_end, static_cast<int32_t>(i))) continue;
      if (size == all.k) {
        std::pop_heap(heap, heap + size, better);
        --size;
      }
      heap[size++] = {here, static_cast<int32_t>(i)};
      std::push_heap(heap, heap + size, better);
      if (size == all.k) least = heap[0].score;
    }
  }
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
