// The k largest scores of each query. select.cpp is compiled once for each instruction set.
#pragma once

#include <cstdint>

namespace jals {

template <class T>
struct Selection {
  int64_t queries, items, k, pairs;
  int64_t first, count;   // of the items whose scores are here
  int64_t columns;        // of the table of scores, at least count
  const T* score;         // (queries, columns)
  const int32_t* before;  // (queries, k) and
  const T* before_score;  // (queries, k), the best of the items before these, as `item` and `best`
  const T* offset;        // (items), added to each query's, or null
  const bool* mask;       // (queries, items), true: closed; or null
  const int32_t* start;   // (queries): closed[start ... stop - 1], increasing, are closed to the query; or null
  const int32_t* stop;
  const int32_t* closed;  // (pairs)
  int32_t* item;          // (queries, k): the largest first, equal ones by item; -1 where none is left
  T* best;                // (queries, k): their scores; -inf where none is left
};

// Selects for queries first ... last - 1; `workspace` has room for k entries.
template <class T>
struct Found {
  T score;
  int32_t item;
};
template <class T>
using Select = void (*)(const Selection<T>& selection, int64_t first, int64_t last, Found<T>* workspace);

}  // namespace jals
