// The k largest scores of each query, of scores that come some items at a time.
#pragma once

#include <cstdint>

namespace jals {

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
struct Selection {
  int64_t queries, items, k, pairs;
  int64_t room;           // that each query has in `held`: 2 k at least
  int64_t first, count;   // of the items whose scores are here
  int64_t columns;        // of the table of scores, at least count
  T* score;               // (queries, columns); those that are closed by number become -inf
  const T* offset;        // (items), added to each query's, or null
  const bool* mask;       // (queries, items), true: closed; or null
  const int32_t* start;   // (queries): closed[start ... stop - 1], increasing, are closed to the query; or null
  const int32_t* stop;
  const int32_t* closed;  // (pairs)
  // What is carried from items to the items after: the k best are among the first `size` of those held, in any order.
  Key<T>* held;           // (queries, room)
  int32_t* size;          // (queries)
  T* bar;                 // (queries): what an item must exceed, -inf to begin with
  // What comes of it in the end.
  int32_t* item;          // (queries, k): the largest first, equal ones by item; -1 where none is left
  T* best;                // (queries, k): their scores; -inf where none is left
};

// For queries first ... last - 1: `add` takes the scores that are here, `sorted` writes what comes of it.
template <class T>
struct Select {
  void (*add)(const Selection<T>& selection, int64_t first, int64_t last);
  void (*sorted)(const Selection<T>& selection, int64_t first, int64_t last);
};

}  // namespace jals
