// Hands a half-sweep's rows out to threads.
//
// Work is cut into items by the layout alone, never by the number of threads, and each item's result depends on nothing
// else: so the result is the same to the bit whatever the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernel.hpp"
#include "memory.hpp"

namespace jals {

constexpr int64_t kPartEntries = 32768;  // a longer row is cut into parts, at most kMaxParts
constexpr int64_t kMaxParts = 16;
constexpr int64_t kItemsWanted = 512;  // rows are grouped into about so many items

// The rows of a layout with their entries: a CSR view of it. Padding ends a piece, so a piece's length is found by
// bisection. False where it is no layout of this many rows and entries, as `build_side` makes them: then nothing of it
// may be read. (`other` is looked at where it is read, see `readable`.)
template <class T>
bool view_rows(const Side<T>& side, std::vector<Row>& rows, std::vector<Run>& runs) {
  std::vector<int64_t> first, order;
  std::vector<char> seen(side.num_rows);
  int64_t entries = 0;
  // If so, and there are as many entries as should be, no padding was taken for one; of a part nobody knows how many.
  bool padding_ends = true;
  for (size_t b = 0; b < side.buckets.size(); ++b) {
    const Bucket<T>& bucket = side.buckets[b];
    auto add_run = [&](Row& row, int64_t piece) {
      const int32_t* entry = bucket.entry + piece * bucket.width;
      const int64_t length = std::lower_bound(entry, entry + bucket.width, true, [&](int32_t e, bool) {
                               return e < side.num_entries;
                             }) - entry;
      for (int64_t slot = length; slot < bucket.width; ++slot) padding_ends &= entry[slot] >= side.num_entries;
      for (int64_t slot = 0; side.part && slot < length; ++slot) padding_ends &= entry[slot] < side.num_entries;
      if (!length) return;
      runs.push_back({static_cast<int32_t>(b), piece * bucket.width, length});
      row.entries += length;
      entries += length;
      ++row.runs;
    };
    for (int64_t s = 0; s < bucket.slabs; ++s) {
      const int32_t* row = bucket.row + s * bucket.rows;
      if (bucket.piece_row) {  // the pieces of each place, by counting
        const int32_t* place = bucket.piece_row + s * bucket.pieces;
        first.assign(bucket.rows + 2, 0);
        order.resize(bucket.pieces);
        for (int64_t p = 0; p < bucket.pieces; ++p) {
          if (place[p] < 0 || place[p] > bucket.rows) return false;
          ++first[place[p] + 1];
        }
        for (int64_t r = 0; r <= bucket.rows; ++r) first[r + 1] += first[r];
        for (int64_t p = 0; p < bucket.pieces; ++p) order[first[place[p]]++] = p;
      }
      for (int64_t r = 0; r < bucket.rows; ++r) {
        if (row[r] == side.num_rows) continue;
        if (row[r] < 0 || row[r] > side.num_rows || seen[row[r]]++) return false;
        rows.push_back({row[r], static_cast<int64_t>(runs.size()), 0, 0});
        if (!bucket.width) continue;
        if (!bucket.piece_row) {
          add_run(rows.back(), s * bucket.pieces + r);
        } else {  // counting has moved each start to the start of the next
          for (int64_t i = r ? first[r - 1] : 0; i < first[r]; ++i) add_run(rows.back(), s * bucket.pieces + order[i]);
        }
      }
    }
  }
  return padding_ends && (side.part || entries == side.num_entries) && static_cast<int64_t>(rows.size()) == side.num_rows;
}

// No row has a solution.
template <class T>
void refuse_rows(const Side<T>& side) {
  const int64_t rows = side.num_rows, k = side.unknowns();
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  std::fill_n(side.x, rows * k, nan);
  std::fill_n(side.good, rows, false);
  if (side.value) std::fill_n(side.value, rows, nan);
  if (side.norms) std::fill_n(side.norms, rows * 2, nan);
  for (T* matrices : {side.cholesky, side.inverse})
    if (matrices) std::fill_n(matrices, rows * k * k, nan);
}

// A row that several threads add up. Whoever finishes the last part solves it; nobody waits.
struct LongRow {
  int64_t row;
  int64_t parts;
  std::atomic<int64_t> left;
  std::unique_ptr<Memory> sums;
  std::once_flag once;
};

struct Item {
  int64_t first_row, rows;  // of the list of rows; a part of a long row has rows = 0
  int64_t long_row, part;
};

// A half-sweep under way. Helpers that start after its end find no item left, so nobody has to wait for them: they
// share ownership, and touch nothing else.
template <class T>
class HalfSweep {
 public:
  HalfSweep(Side<T> side, Kernel<T> kernel) : side_(std::move(side)), kernel_(kernel) {
    if (view_rows(side_, rows_, runs_)) {
      make_items();
      if (side_.gram && kernel_.pack) {
        packed_ = std::make_unique<Memory>(kernel_.packed * sizeof(T));
        T* packed = reinterpret_cast<T*>(packed_->get());
        kernel_.pack(side_, packed);
        side_.packed = packed;
      }
    } else {
      refuse_rows(side_);
    }
  }

  int64_t items() const { return static_cast<int64_t>(items_.size()); }

  // Works until no item is left to take.
  void work() {
    std::unique_ptr<Memory> workspace;
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= items()) return;
      try {
        if (!workspace) workspace = std::make_unique<Memory>(kernel_.workspace);
        if (!failed_) run(items_[i], workspace->get());
      } catch (const std::bad_alloc&) {
        failed_ = true;
      }
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == items()) {
        std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_all();
      }
    }
  }

  // Waits for the items that others have taken: they are running. False if memory ran out.
  bool wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [&] { return done_.load(std::memory_order_acquire) == items(); });
    return !failed_;
  }

 private:
  void make_items() {
    std::vector<Row> whole;
    int64_t entries = 0;
    for (const Row& row : rows_) entries += row.entries;
    const int64_t k = side_.unknowns(), row_cost = 16 + k / 3;  // solving, in entries
    for (const Row& row : rows_) {
      if (row.entries <= kPartEntries || !kernel_.sums) {
        whole.push_back(row);
        continue;
      }
      const int64_t size = std::max(kPartEntries, (row.entries + kMaxParts - 1) / kMaxParts);
      cut(row, size);
    }
    if (!kernel_.sums)  // then the longest come first
      std::stable_partition(whole.begin(), whole.end(), [](const Row& row) { return row.entries > kPartEntries; });
    rows_.swap(whole);
    const int64_t cost = (entries + row_cost * static_cast<int64_t>(rows_.size())) / kItemsWanted + 1;
    int64_t first = 0, sum = 0;
    for (int64_t r = 0; r < static_cast<int64_t>(rows_.size()); ++r) {
      sum += rows_[r].entries + row_cost;
      const bool enough = sum >= cost && (r + 1 - first >= kernel_.together || sum >= kPartEntries);
      if (enough || r + 1 == static_cast<int64_t>(rows_.size())) {
        items_.push_back({first, r + 1 - first, 0, 0});
        first = r + 1;
        sum = 0;
      }
    }
  }

  // Long rows come first: their parts are the largest items.
  void cut(const Row& row, int64_t size) {
    auto long_row = std::make_unique<LongRow>();
    long_row->row = row.row;
    const std::vector<Run> all(runs_.begin() + row.first_run, runs_.begin() + row.first_run + row.runs);
    Row part{row.row, static_cast<int64_t>(runs_.size()), 0, 0};
    for (Run run : all) {
      while (run.length) {
        const int64_t take = std::min(run.length, size - part.entries);
        runs_.push_back({run.bucket, run.slot, take});
        ++part.runs;
        part.entries += take;
        run.slot += take;
        run.length -= take;
        if (part.entries == size) {
          add_part(part);
          part = {row.row, static_cast<int64_t>(runs_.size()), 0, 0};
        }
      }
    }
    if (part.entries) add_part(part);
    long_row->parts = part_number_;
    long_row->left = part_number_;
    part_number_ = 0;
    long_rows_.push_back(std::move(long_row));
  }

  void add_part(const Row& part) {
    items_.push_back({static_cast<int64_t>(parts_.size()), 0, static_cast<int64_t>(long_rows_.size()), part_number_++});
    parts_.push_back(part);
  }

  void run(const Item& item, char* workspace) {
    if (item.rows) return kernel_.solve(side_, runs_.data(), rows_.data() + item.first_row, item.rows, workspace);
    LongRow& row = *long_rows_[item.long_row];
    std::call_once(row.once, [&] { row.sums = std::make_unique<Memory>(row.parts * kernel_.sums); });
    kernel_.add_up(side_, runs_.data(), parts_[item.first_row], workspace, row.sums->get() + item.part * kernel_.sums);
    if (row.left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      kernel_.finish(side_, row.row, row.sums->get(), row.parts, workspace);
      row.sums.reset();
    }
  }

  Side<T> side_;
  Kernel<T> kernel_;
  std::vector<Row> rows_, parts_;
  std::vector<Run> runs_;
  std::vector<Item> items_;
  std::vector<std::unique_ptr<LongRow>> long_rows_;
  std::unique_ptr<Memory> packed_;
  int64_t part_number_ = 0;
  std::atomic<int64_t> next_{0}, done_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Solves a side's rows. The calling thread works itself, and so do as many of the pool's as start in time. False if
// memory ran out.
template <class T, class Pool>
bool solve_side(Side<T> side, Kernel<T> kernel, Pool& pool) {
  auto sweep = std::make_shared<HalfSweep<T>>(std::move(side), kernel);
  const int64_t helpers = std::min<int64_t>(pool.num_threads() - 1, sweep->items() - 1);
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([sweep] { sweep->work(); });
  sweep->work();
  return sweep->wait();
}

}  // namespace jals
