// What the host does for a call: cuts the side into parts by its layout's shape, sizes memory, launches. It waits for
// nothing: what the arrays hold is looked at on the device only.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "rows.cuh"

namespace jals {
namespace cuda {

constexpr int64_t kPartEntries = 2048;       // in a part, at least; a longer row is cut
constexpr int64_t kSumsBytes = 512 << 20;    // parts' sums take no more: parts are longer then
constexpr int64_t kMatrixBytes = 512 << 20;  // nor do systems that do not fit into shared memory: then fewer blocks run
constexpr int64_t kChunkBytes = 48 << 10;    // of gathered entries
constexpr int64_t kUnknowns = 8192;          // of a row at most: places in a matrix are 32-bit numbers
constexpr int kPlanThreads = 256;

using Allocate = std::function<void*(int64_t bytes)>;

// How the slots of a bucket are cut into parts of about `entries`.
template <class T>
Piecework<T> cut(const Bucket<T>& bucket, int64_t entries) {
  Piecework<T> cut{};
  static_cast<Bucket<T>&>(cut) = bucket;
  cut.part_slots = bucket.width;
  cut.part_pieces = cut.parts_of_piece = 1;
  if (bucket.piece_row) {
    cut.part_pieces = std::max<int64_t>(1, entries / std::max<int64_t>(1, bucket.width));
    // A row of p > part_pieces pieces has fewer than 2 p / part_pieces parts.
    cut.slab_items = bucket.rows + bucket.pieces / cut.part_pieces;
    cut.slab_sums = 2 * bucket.pieces / cut.part_pieces;
  } else {
    if (bucket.width > entries) cut.part_slots = entries;
    cut.parts_of_piece = std::max<int64_t>(1, (bucket.width + entries - 1) / entries);
    cut.slab_items = bucket.rows * cut.parts_of_piece;
    cut.slab_sums = cut.parts_of_piece > 1 ? cut.slab_items : 0;
  }
  return cut;
}

// Memory of a call, asked for at once: `take` says how much of what, in order, and `at` where it has come to lie.
class Needs {
 public:
  int64_t take(int64_t bytes) {
    const int64_t at = total;
    total += (std::max<int64_t>(bytes, 0) + 255) / 256 * 256;
    return at;
  }
  int64_t total = 0;
};

// False where the device has too little shared memory.
template <class Sums>
bool solve_by(const Side<typename Sums::Number>& side, const typename Sums::Number* mean,
              const typename Sums::Number* entry, int multiple, Stream stream, const Allocate& allocate) {
  using T = typename Sums::Number;
  using Finish = Finished<T, Sums::kOutside>;
  const Limits offered = limits();
  Work<T> work{};
  work.side = side;
  work.mean = mean, work.entry = entry;
  work.k = static_cast<int>(side.unknowns());
  work.size = (work.k + multiple - 1) / multiple * multiple;
  work.chunk = kChunk;
  const int64_t of_entry = Sums::kBuffers * (work.size + Sums::kSpareOfEntry) * int64_t(sizeof(T));
  const int64_t most = std::min(kChunkBytes, offered.shared / 3);
  while (Sums::kAnyChunk && work.chunk > 1 && work.chunk * of_entry > most) work.chunk /= 2;
  const int64_t bytes = Room<Sums>::bytes(work.size, work.chunk);
  if (bytes > offered.shared) return false;
  const int64_t system = matrix_size(work.size) * int64_t(sizeof(T));
  int64_t most_blocks = std::numeric_limits<int32_t>::max();
  if (Sums::kOutside) most_blocks = std::max<int64_t>(1, std::min(2 * offered.processors, kMatrixBytes / system));
  const int64_t of_sums = sums_size<T>(work.size) * int64_t(sizeof(T));
  int64_t entries = kPartEntries, longest = 0;
  auto sums_of = [&](int64_t entries) {
    int64_t count = 0;
    for (const Bucket<T>& bucket : side.buckets) count += bucket.slabs * cut(bucket, entries).slab_sums;
    return count;
  };
  for (const Bucket<T>& bucket : side.buckets)
    longest = std::max(longest, bucket.width * (bucket.piece_row ? bucket.pieces : 1));
  while (entries < longest && sums_of(entries) * of_sums > kSumsBytes) entries *= 2;

  for (size_t done = 0; done < side.buckets.size(); done += kBuckets) {
    work.buckets = static_cast<int>(std::min<size_t>(kBuckets, side.buckets.size() - done));
    Needs needs;
    int64_t items = 0, places = 0, sums = 0, at[kBuckets][4] = {};
    for (int b = 0; b < work.buckets; ++b) {
      Piecework<T>& bucket = work.bucket[b] = cut(side.buckets[done + b], entries);
      bucket.first_item = items, bucket.first_place = places, bucket.first_sums = sums;
      items += bucket.slabs * bucket.slab_items;
      sums += bucket.slabs * bucket.slab_sums;
      if (bucket.slab_sums) places += bucket.slabs * bucket.rows;
      if (!bucket.piece_row) continue;
      const int64_t numbers[4] = {bucket.pieces, bucket.rows + 1, 2 * bucket.slab_items, bucket.rows};
      for (int n = 0; n < 4; ++n) at[b][n] = needs.take(bucket.slabs * numbers[n] * int64_t(sizeof(int32_t)));
    }
    if (!items) continue;
    if (std::max({items, places, sums}) > std::numeric_limits<int32_t>::max() / 2) throw Failed{"a side has too many rows"};
    work.items = static_cast<int>(items), work.places = static_cast<int>(places);
    const int64_t blocks = std::min(items, most_blocks), finishing = std::min(places, most_blocks);
    const int64_t at_sums = needs.take(sums * of_sums);
    const int64_t at_matrices = needs.take(Sums::kOutside ? std::max(blocks, finishing) * system : 0);
    char* memory = needs.total ? static_cast<char*>(allocate(needs.total)) : nullptr;
    if (needs.total && !memory) throw NoMemory{needs.total};
    work.sums = reinterpret_cast<T*>(memory + at_sums);
    work.matrices = Sums::kOutside ? reinterpret_cast<T*>(memory + at_matrices) : nullptr;
    for (int b = 0; b < work.buckets; ++b) {
      Piecework<T>& bucket = work.bucket[b];
      if (!bucket.piece_row || !bucket.slabs) continue;
      int32_t** arrays[4] = {&bucket.order, &bucket.start, &bucket.part, &bucket.sum};
      for (int n = 0; n < 4; ++n) *arrays[n] = reinterpret_cast<int32_t*>(memory + at[b][n]);
      launch(plan_kernel<T>, bucket.slabs, kPlanThreads, 4 * kPlanThreads * int64_t(sizeof(int)), stream, bucket,
             side.num_rows);
    }
    launch(rows_kernel<Sums>, blocks, Sums::kThreads, bytes, stream, work);
    if (work.places)
      launch(finish_kernel<Finish>, finishing, Finish::kThreads, Room<Finish>::bytes(work.size, 0), stream, work);
  }
  return true;
}

// Solves a side's rows on the stream. `allocate(bytes)` returns memory of the device that lasts until the stream has done
// what is in it now, or null.
template <class T>
void solve_side(const Side<T>& side, const T* mean, const T* entry, Stream stream, const Allocate& allocate) {
  if (side.steps()) throw Failed{"there are no steps on a GPU"};
  const OnDeviceOf here(stream);
  const int64_t rows = side.num_rows, k = side.unknowns();
  if (k > kUnknowns) throw Failed{std::to_string(k) + " unknowns a row are too many"};
  // What no part of the layout writes is no solution: all ones is a NaN.
  auto unsolved = [&](T* numbers, int64_t each) {
    if (numbers) set_bytes(numbers, 0xff, rows * each * int64_t(sizeof(T)), stream);
  };
  unsolved(side.x, k);
  unsolved(side.value, 1);
  unsolved(side.norms, 2);
  unsolved(side.cholesky, k * k);
  unsolved(side.inverse, k * k);
  set_bytes(side.good, 0, rows, stream);
  const int n = static_cast<int>((k + 15) / 16 * 16);
  bool done = false;
  auto by = [&](auto sums, int multiple) {
    done = done || solve_by<decltype(sums)>(side, mean, entry, multiple, stream, allocate);
  };
  auto by_registers = [&](auto sums) {
    if (decltype(sums)::fits(n)) by(sums, 16);
  };
  if constexpr (sizeof(T) == sizeof(float)) {
    by_registers(InRegisters<1, 3>());
    by_registers(InRegisters<2, 5>());
    by_registers(InRegisters<4, 9>());
    by_registers(InRegisters<8, 7>());
    by_registers(InRegisters<16, 10>());
  }
  by(InMemory<T, false>(), kPanel);
  by(InMemory<T, true>(), kPanel);
  if (!done) throw Failed{std::to_string(k) + " unknowns a row are too many for this GPU"};
}

}  // namespace cuda
}  // namespace jals
