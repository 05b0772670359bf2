// The k largest inner products of each query with the rows of a table: made in registers, and looked at there.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

#include "memory.hpp"
#include "parallel.hpp"

namespace jals {

template <class T>
struct Selection {
  int64_t queries, items, rank, k, pairs;
  const T* query;         // (queries, rank)
  const T* table;         // (items, rank)
  const T* packed;        // its panels one after another, or null: then each is packed where it is needed
  const T* offset;        // (items), added to each query's; or null
  const bool* mask;       // (queries, items), true: closed; or null
  const int32_t* start;   // (queries): closed[start ... stop - 1], increasing, are closed to the query; or null
  const int32_t* stop;
  const int32_t* closed;  // (pairs)
  int32_t* item;          // (queries, k): the largest first, equal ones by item; -1 where none is left
  T* best;                // (queries, k): their scores; -inf where none is left
};

// A panel holds some items: the first number of each of their rows, then the second of each.
template <class T>
struct Select {
  int64_t items;  // of a panel
  // How many queries go through the table together, at most.
  int64_t (*queries)(const Selection<T>& selection);
  // Writes panel number `panel`, (rank, items), with zeros for what is beyond the last item.
  void (*pack)(const Selection<T>& selection, int64_t panel, T* to);
  // Bytes that `find` works in, for queries first ... last - 1.
  int64_t (*workspace)(const Selection<T>& selection, int64_t first, int64_t last);
  void (*find)(const Selection<T>& selection, int64_t first, int64_t last, char* workspace);
};

// Finds those of all queries. What comes of one depends on nothing else, so it is the same to the bit whatever the pool.
// False if memory ran out.
template <class T, class Pool>
bool select_all(Selection<T> all, Select<T> kernel, Pool& pool) {
  if (!all.queries) return true;
  const int64_t each = (all.queries + pool.num_threads() - 1) / std::max<int64_t>(pool.num_threads(), 1);
  const int64_t together = std::min(kernel.queries(all), each), pieces = (all.queries + together - 1) / together;
  // Several pieces read each panel: then all are packed once, and else each in the piece that reads it.
  std::shared_ptr<Memory> packed;
  if (pieces > 2) {
    const int64_t panels = (all.items + kernel.items - 1) / kernel.items, size = kernel.items * all.rank;
    packed = std::make_shared<Memory>(panels * size * sizeof(T));
    T* to = reinterpret_cast<T*>(packed->get());
    for_each(pool, panels, [=](int64_t panel) { kernel.pack(all, panel, to + panel * size); });
    all.packed = to;
  }
  auto failed = std::make_shared<std::atomic<bool>>(false);
  for_each(pool, pieces, [=](int64_t piece) {
    const int64_t first = piece * together, last = std::min(first + together, all.queries);
    try {
      if (!*failed) kernel.find(all, first, last, Memory(kernel.workspace(all, first, last)).get());
    } catch (const std::bad_alloc&) {
      *failed = true;
    }
  });
  return !*failed;
}

}  // namespace jals
