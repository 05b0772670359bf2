// Sorting a table's entries by row, and laying them out in slots, on all cores. What is given is checked as it is read:
// an index out of range is told, and nothing is written beyond an array.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace {

// task(t) for t below `tasks`, each on a thread of its own; the last here. False where no thread or memory was to be had.
bool on_threads(int64_t tasks, const std::function<void(int64_t)>& task) {
  std::vector<char> failed(tasks);
  auto guarded = [&](int64_t t) {
    try {
      task(t);
    } catch (const std::exception&) {
      failed[t] = 1;
    }
  };
  std::vector<std::thread> threads;
  for (int64_t t = 0; t + 1 < tasks; ++t) {
    try {
      threads.emplace_back(guarded, t);
    } catch (const std::exception&) {  // no more threads: here, then
      guarded(t);
    }
  }
  guarded(tasks - 1);
  for (std::thread& thread : threads) thread.join();
  return std::count(failed.begin(), failed.end(), 1) == 0;
}

int64_t cut(int64_t n, int64_t part, int64_t parts) { return n / parts * part + std::min(part, n % parts); }

}  // namespace

#define PUBLIC extern "C" __attribute__((visibility("default")))

// What the functions below are called with, counted up with every change: ../grouping.py compares it.
PUBLIC int jals_grouping() { return 1; }

// Counts the entries of each row, and where `order` is not null sorts them by row, in input order within a row: start
// (rows + 1), where each row's begin in order (entries). False where a row is out of range, or memory is short.
PUBLIC bool jals_group(const int32_t* row, int64_t entries, int64_t rows, int64_t threads, int64_t* start,
                       int32_t* order) {
  try {
    const int64_t parts = std::max<int64_t>(1, std::min(threads, entries / std::max<int64_t>(rows, 1 << 16)));
    std::vector<std::vector<int32_t>> next(parts);  // a part's entries of each row; then where its next one goes
    std::vector<char> off(parts);
    bool done = on_threads(parts, [&](int64_t p) {
      next[p].assign(rows, 0);
      for (int64_t e = cut(entries, p, parts); e < cut(entries, p + 1, parts); ++e) {
        if (row[e] < 0 || row[e] >= rows) off[p] = 1;
        else ++next[p][row[e]];
      }
    });
    if (!done || std::count(off.begin(), off.end(), 1)) return false;
    start[0] = 0;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t at = start[r];
      for (auto& each : next) {
        const int64_t count = each[r];
        each[r] = static_cast<int32_t>(at);
        at += count;
      }
      start[r + 1] = at;
    }
    return !order || on_threads(parts, [&](int64_t p) {
      for (int64_t e = cut(entries, p, parts); e < cut(entries, p + 1, parts); ++e) order[next[p][row[e]]++] = static_cast<int32_t>(e);
    });
  } catch (const std::exception&) {
    return false;
  }
}

// Whether no row has another one twice: 1 or 0; -1 where an index is out of range, or memory is short. `order` and `start`
// as `jals_group` leaves them; null where the entries are in order.
PUBLIC int jals_distinct(const int32_t* order, const int64_t* start, int64_t rows, const int32_t* other, int64_t others,
                         int64_t threads) {
  try {
    const int64_t entries = start[rows], parts = std::max<int64_t>(1, std::min(threads, entries / std::max<int64_t>(others, 1 << 16)));
    std::vector<char> twice(parts), off(parts);
    const bool done = on_threads(parts, [&](int64_t p) {
      std::vector<int32_t> last(others, -1);  // the row that had each other one last
      const int64_t* first = std::lower_bound(start, start + rows, cut(entries, p, parts));
      const int64_t* end = p + 1 == parts ? start + rows : std::lower_bound(start, start + rows, cut(entries, p + 1, parts));
      for (int64_t r = first - start; r < end - start && !off[p]; ++r)
        for (int64_t e = start[r]; e < start[r + 1]; ++e) {
          const int32_t o = other[order ? order[e] : e];
          if (o < 0 || o >= others) {
            off[p] = 1;
            break;
          }
          if (last[o] == r) twice[p] = 1;
          last[o] = static_cast<int32_t>(r);
        }
    });
    if (!done || std::count(off.begin(), off.end(), 1)) return -1;
    return std::count(twice.begin(), twice.end(), 1) == 0;
  } catch (const std::exception&) {
    return -1;
  }
}

// Piece p takes `length[p]` of the sorted entries from `begin[p]` on: their other rows go to others (pieces, width), 0 in
// padding, and their numbers to numbers (pieces, width), `entries` in padding. False where a piece is out of range.
PUBLIC bool jals_fill(const int32_t* begin, const int32_t* length, int64_t pieces, int64_t width, const int32_t* order,
                      const int32_t* other, int64_t entries, int64_t threads, int32_t* others, int32_t* numbers) {
  try {
    const int64_t parts = std::max<int64_t>(1, std::min({threads, pieces, pieces * width / (1 << 16)}));
    std::vector<char> off(parts);
    const bool done = on_threads(parts, [&](int64_t part) {
      for (int64_t p = cut(pieces, part, parts); p < cut(pieces, part + 1, parts); ++p) {
        const int64_t from = begin[p], n = length[p];
        if (n < 0 || n > width || from < 0 || from + n > entries) {
          off[part] = 1;
          return;
        }
        int32_t *o = others + p * width, *e = numbers + p * width;
        for (int64_t i = 0; i < n; ++i) e[i] = order ? order[from + i] : static_cast<int32_t>(from + i);
        for (int64_t i = 0; i < n; ++i) o[i] = other[e[i]];
        std::fill(o + n, o + width, 0);
        std::fill(e + n, e + width, static_cast<int32_t>(entries));
      }
    });
    return done && !std::count(off.begin(), off.end(), 1);
  } catch (const std::exception&) {
    return false;
  }
}

namespace {

// value or weight columns, whatever a number's bytes: `from[entry]` of the used slots to `to`, 0 in padding.
template <class Number>
void take(const void* from, void* to, const int32_t* entry, int64_t slots, int64_t used) {
  const Number* numbers = static_cast<const Number*>(from);
  Number* taken = static_cast<Number*>(to);
  for (int64_t i = 0; i < used; ++i) taken[i] = numbers[entry[i]];
  std::fill(taken + used, taken + slots, Number{});
}

void take(const void* from, void* to, int bytes, int64_t at, const int32_t* entry, int64_t slots, int64_t used) {
  void* place = static_cast<char*>(to) + at * bytes;
  switch (bytes) {
    case 1: return take<uint8_t>(from, place, entry, slots, used);
    case 2: return take<uint16_t>(from, place, entry, slots, used);
    case 4: return take<uint32_t>(from, place, entry, slots, used);
    default: return take<uint64_t>(from, place, entry, slots, used);
  }
}

// One number for an entry, its user and its item together, that no others share but by a chance of 2^-64.
uint64_t mixed(int32_t entry, int32_t user, int32_t item) {
  uint64_t all = uint64_t(uint32_t(entry)) * 0x9E3779B97F4A7C15u;
  all = (all ^ (all >> 32) ^ (uint64_t(uint32_t(user)) << 32 | uint32_t(item))) * 0xD6E8FEB86659FD93u;
  all = (all ^ (all >> 32)) * 0xD6E8FEB86659FD93u;
  return all ^ (all >> 32);
}

}  // namespace

// The sum of `mixed` over a table's entries.
PUBLIC uint64_t jals_fingerprint(const int32_t* user, const int32_t* item, int64_t entries) {
  uint64_t sum = 0;
  for (int64_t e = 0; e < entries; ++e) sum += mixed(static_cast<int32_t>(e), user[e], item[e]);
  return sum;
}

// A bucket's numbers in the order of its slots. Adds to `sum` the sum of `mixed` over the slots in use: that of all buckets
// is `jals_fingerprint` of the table where every entry lies in one slot, that of its row and other row (`row_first`: rows are
// users). Adds to `count` the
// entries of weight > 0 of each row (null: of all), to `lies` a 1 for each row that lies here. Returns 0; -1 where an index
// is out of range or an entry follows padding in its piece, -2 where memory is short.
PUBLIC int64_t jals_arrange(const int32_t* row, const int32_t* other, const int32_t* entry, const int32_t* piece_row,
                            const void* value, const void* weight, void* values, void* weights, int32_t* count, int32_t* lies,
                            uint64_t* sum, bool row_first, int64_t slabs, int64_t slab_rows, int64_t pieces, int64_t width, int64_t rows,
                            int64_t others, int64_t entries, int value_bytes, int weight_bytes, int64_t threads) {
  try {
    for (int64_t i = 0; i < slabs * slab_rows; ++i) {
      if (row[i] < 0 || row[i] > rows) return -1;
      if (row[i] < rows) ++lies[row[i]];
    }
    const int64_t total = slabs * pieces, parts = std::max<int64_t>(1, std::min({threads, total, total * width / (1 << 16)}));
    std::vector<char> off(parts);
    std::vector<uint64_t> sums(parts);
    auto positive = [&](int32_t e) {
      return !weight || (weight_bytes == 4 ? static_cast<const float*>(weight)[e] > 0 : static_cast<const double*>(weight)[e] > 0);
    };
    std::vector<int32_t> counted(total);  // of each piece: the pieces of a row may lie in the parts of two threads
    auto row_of_piece = [&](int64_t p) -> int64_t {
      const int64_t slab = p / pieces, place = piece_row ? piece_row[p] : p % pieces;
      if (place < 0 || place > slab_rows) return -1;
      return place == slab_rows ? rows : row[slab * slab_rows + place];
    };
    const bool done = on_threads(parts, [&](int64_t part) {
      for (int64_t p = cut(total, part, parts); p < cut(total, part + 1, parts); ++p) {
        const int32_t *e = entry + p * width, *o = other + p * width;
        const int64_t here = row_of_piece(p);
        bool right = here >= 0;
        int64_t n = 0;
        while (right && n < width && e[n] != entries) {
          right = e[n] >= 0 && e[n] < entries && o[n] >= 0 && o[n] < others && here < rows;
          if (!right) break;
          const int32_t own = static_cast<int32_t>(here);
          sums[part] += row_first ? mixed(e[n], own, o[n]) : mixed(e[n], o[n], own);
          counted[p] += positive(e[n++]);
        }
        for (int64_t i = n; right && i < width; ++i) right = e[i] == entries && o[i] >= 0 && o[i] < others;
        if (!right) n = 0, off[part] = 1;
        take(value, values, value_bytes, p * width, e, width, n);
        if (weight) take(weight, weights, weight_bytes, p * width, e, width, n);
      }
    });
    if (!done) return -2;
    if (std::count(off.begin(), off.end(), 1)) return -1;
    for (uint64_t each : sums) *sum += each;
    for (int64_t p = 0; p < total; ++p)
      if (counted[p]) count[row_of_piece(p)] += counted[p];
    return 0;
  } catch (const std::exception&) {
    return -2;
  }
}
