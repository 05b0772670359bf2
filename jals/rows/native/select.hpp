// The k largest scores of each query. select.cpp is compiled once for each instruction set.
#pragma once

#include <cstdint>

namespace jals {

template <class T>
struct Selection {
  int64_t queries, items, k, pairs;
  const T* score;         // (queries, items)
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
