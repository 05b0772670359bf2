// What a launch works on: a side's operands on the device, cut into parts that a block adds up.
//
// A part is some pieces of one row, or a range of one piece's slots; most rows are one part, whose block solves them at
// once. The parts of a longer row leave their sums in memory, and a second launch adds these up in order and solves. How
// rows are cut depends on the layout alone, so results repeat to the bit.
#pragma once

#include "../rows.hpp"
#include "device.cuh"

namespace jals {
namespace cuda {

constexpr int kBuckets = 16;  // in one launch: a launch's arguments are 4 KiB at most
constexpr int kChunk = 32;    // entries that are gathered at a time: a warp reads a slot a lane

template <class T>
struct Piecework : Bucket<T> {
  int64_t first_item;      // of this launch; an item is a part, or nothing
  int64_t slab_items;      // items of a slab
  int64_t first_place;     // of this launch; a place is a row of a slab, or nothing
  int64_t parts_of_piece;  // more than 1 where pieces are wider than a part
  int64_t part_pieces;     // pieces in a part; more than 1 only where rows are cut into pieces
  int64_t part_slots;      // slots of each of a part's pieces
  int64_t first_sums;      // where parts' sums lie in `Work::sums`
  int64_t slab_sums;       // how many of them a slab may have
  // Made by `plan_kernel` where rows are cut into pieces, else null:
  int32_t* order;  // (slabs, pieces), the pieces of each place, one after the other
  int32_t* start;  // (slabs, rows + 1), where each place's begin
  int32_t* part;   // (slabs, slab_items, 2), the place and the number of each part; place -1 for nothing
  int32_t* sum;    // (slabs, rows), where a place's sums begin, of the slab's; -1 where it is one part
};

template <class T>
struct Work {
  Operands<T> side;
  const T *mean, *entry;  // as in Side
  int k;                  // unknowns
  int size;               // k, and more that solve to 0, up to a multiple of 8 or 16
  int chunk;              // entries gathered at a time, kChunk or a power of two below
  int items, places;
  int buckets;
  Piecework<T> bucket[kBuckets];
  T* sums;         // (parts, `sums_size`)
  T* matrices;     // (blocks, `matrix_size`), where these do not lie in shared memory
};

static_assert(sizeof(Work<double>) <= 4096, "what a launch can be given");

// What a block adds up.
struct Part {
  int row = -1;     // of the side; -1 for nothing
  int bucket;       // of the launch
  int slab;         // the first of the slab's pieces
  int first;        // the first piece, by the bucket's `order` in the slab where there is one
  int pieces;
  int from, slots;  // of each piece
  int sums;         // where they are left, or -1 where the row is solved
};

template <class T>
DEVICE int bucket_of(const Work<T>& work, int64_t at, int64_t Piecework<T>::*first) {
  int b = 0;
  while (b + 1 < work.buckets && at >= work.bucket[b + 1].*first) ++b;
  return b;
}

template <class T>
DEVICE Part part_of(const Work<T>& work, int item) {
  const int b = bucket_of(work, item, &Piecework<T>::first_item);
  const Piecework<T>& bucket = work.bucket[b];
  const int64_t local = item - bucket.first_item, slab = local / bucket.slab_items, j = local % bucket.slab_items;
  int64_t place = j / bucket.parts_of_piece, number = j % bucket.parts_of_piece;
  if (bucket.piece_row) {
    const int32_t* part = bucket.part + 2 * local;
    place = part[0], number = part[1];
    if (place < 0) return {};
  }
  const int64_t at = slab * bucket.rows + place;
  const int32_t row = bucket.row[at];
  if (row < 0 || row >= work.side.num_rows) return {};
  Part part{row, b, static_cast<int>(slab * bucket.pieces), 0, 1, 0, static_cast<int>(bucket.part_slots), -1};
  if (bucket.piece_row) {
    const int32_t* start = bucket.start + at + slab;  // (slabs, rows + 1)
    const int32_t size = static_cast<int32_t>(bucket.part_pieces);
    part.first = start[0] + static_cast<int>(number) * size;
    part.pieces = min(size, start[1] - part.first);
    if (bucket.sum[at] >= 0)
      part.sums = static_cast<int>(bucket.first_sums + slab * bucket.slab_sums + bucket.sum[at] + number);
  } else {
    part.first = static_cast<int>(place);
    part.from = static_cast<int>(number * bucket.part_slots);
    part.slots = min(part.slots, static_cast<int>(bucket.width) - part.from);
    if (bucket.parts_of_piece > 1) part.sums = static_cast<int>(bucket.first_sums + at * bucket.parts_of_piece + number);
  }
  return part;
}

// The sums of a row of several parts: where they begin, and how many; 0 for a row that has been solved.
template <class T>
DEVICE int64_t parts_of_place(const Work<T>& work, int place, int64_t& row, int64_t& sums) {
  const Piecework<T>& bucket = work.bucket[bucket_of(work, place, &Piecework<T>::first_place)];
  const int64_t at = place - bucket.first_place, slab = at / bucket.rows;
  row = bucket.row[at];
  if (row < 0 || row >= work.side.num_rows) return 0;
  if (!bucket.piece_row) {
    sums = bucket.first_sums + at * bucket.parts_of_piece;
    return bucket.parts_of_piece > 1 ? bucket.parts_of_piece : 0;
  }
  if (bucket.sum[at] < 0) return 0;
  sums = bucket.first_sums + slab * bucket.slab_sums + bucket.sum[at];
  const int32_t* start = bucket.start + at + slab;  // (slabs, rows + 1)
  return (start[1] - start[0] + bucket.part_pieces - 1) / bucket.part_pieces;
}

// Sorts a slab's pieces by their places and cuts the places' rows into parts: one block a slab.
template <class T>
__global__ void plan_kernel(Piecework<T> bucket, int64_t num_rows) {
  SHARED_MEMORY(memory);
  int* tile = reinterpret_cast<int*>(memory);  // (threads), some pieces' places
  int* sums = tile + threads();                // (3, threads)
  const int64_t slab = blockIdx.x, rows = bucket.rows, pieces = bucket.pieces;
  const int32_t* piece_row = bucket.piece_row + slab * pieces;
  int32_t* order = bucket.order + slab * pieces;
  int32_t* start = bucket.start + slab * (rows + 1);
  int32_t* part = bucket.part + 2 * slab * bucket.slab_items;
  auto each_piece = [&](int64_t place, auto&& use) {
    for (int64_t first = 0; first < pieces; first += threads()) {
      __syncthreads();
      tile[thread()] = first + thread() < pieces ? piece_row[first + thread()] : -1;
      __syncthreads();
      for (int i = 0; i < threads(); ++i)
        if (tile[i] == place) use(static_cast<int32_t>(first + i));
    }
  };
  int before[3] = {};  // pieces, parts, and parts of several, of the places before
  for (int64_t base = 0; base < rows; base += threads()) {
    const int64_t place = base + thread(), row = place < rows ? bucket.row[slab * rows + place] : num_rows;
    const bool used = row >= 0 && row < num_rows;
    int own[3] = {}, until[3];
    each_piece(used ? place : -2, [&](int32_t) { ++own[0]; });
    if (used) own[1] = own[0] ? static_cast<int>((own[0] + bucket.part_pieces - 1) / bucket.part_pieces) : 1;
    own[2] = own[1] > 1 ? own[1] : 0;
    for (int n = 0; n < 3; ++n) sums[n * threads() + thread()] = until[n] = own[n];
    for (int far = 1; far < threads(); far *= 2) {  // inclusive sums over the threads
      __syncthreads();
      for (int n = 0; n < 3; ++n)
        if (thread() >= far) until[n] += sums[n * threads() + thread() - far];
      __syncthreads();
      for (int n = 0; n < 3; ++n) sums[n * threads() + thread()] = until[n];
    }
    for (int n = 0; n < 3; ++n) until[n] += before[n] - own[n];
    if (place < rows) {
      start[place] = until[0];
      bucket.sum[slab * rows + place] = own[2] ? until[2] : -1;
      for (int i = 0; i < own[1]; ++i) {
        part[2 * (until[1] + i)] = static_cast<int32_t>(place);
        part[2 * (until[1] + i) + 1] = i;
      }
    }
    int at = until[0];
    each_piece(used ? place : -2, [&](int32_t piece) { order[at++] = piece; });
    __syncthreads();
    for (int n = 0; n < 3; ++n) before[n] += sums[n * threads() + threads() - 1];
    __syncthreads();
  }
  if (thread() == 0) start[rows] = before[0];
  for (int64_t i = before[1] + thread(); i < bucket.slab_items; i += threads()) part[2 * i] = -1;
}

}  // namespace cuda
}  // namespace jals
