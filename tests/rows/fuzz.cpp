// Fuzz of the kernel on its own, without XLA, for one instruction set (as kernel.cpp is compiled):
//
//     fuzz [cases] [seed]
//
// A case draws a side in a layout of its own, solves it on pools of several kinds, which must agree bit for bit, and
// compares with plain sums in long double; so are steps towards the solution. Padding holds numbers that would show, or
// crash, if they were read. The first case that fails ends the run and names the seed that draws it again.
//
// With JALS_EMULATOR the kernel is the GPUs', played by this CPU (emulator/), and instead of pools there are GPUs whose
// threads take their turns in one order or the other.

#include "kernel.cpp"
#include "steps.cpp"

#include "schedule.hpp"

#include "fuzzing.hpp"

#ifdef JALS_EMULATOR
#include "cuda/launch.cuh"
#endif

#include <array>
#include <tuple>

namespace jals {
namespace {

using namespace JALS_ISA;
using Real = long double;

// ---- cases ----

struct Entry {
  int32_t other;
  double value, weight;
};

template <class T>
struct Slots {  // a bucket's arrays
  std::vector<int32_t> row, other, entry, piece_row;
  std::vector<T> value, weight;
  std::vector<uint8_t> byte;
  std::vector<uint16_t> word;
};

template <class T>
struct Results {
  std::vector<T> x, value, cholesky, inverse, norms;
  std::vector<char> good;

  Results(int64_t rows, int64_t k)
      : x(rows * k, T(7)), value(rows, T(7)), cholesky(rows * k * k, T(7)), inverse(rows * k * k, T(7)),
        norms(rows * 2, T(7)), good(rows, 7) {}
  bool operator==(const Results& other) const {
    auto same = [](const auto& a, const auto& b) {
      return a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]);
    };
    return same(x, other.x) && same(value, other.value) && same(cholesky, other.cholesky) && same(inverse, other.inverse) &&
           same(norms, other.norms) && same(good, other.good);
  }
};

#ifdef JALS_EMULATOR
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

// What a row should be: the pivots of fewer entries than unknowns may or may not be seen to be rounding.
enum class Kind { good, bad, either };

template <class T>
class Case : private Draws {
 public:
  explicit Case(uint64_t seed) : Draws(seed) {
    draw_shape();
    draw_numbers();
    draw_layout();
    constexpr int64_t sizes[] = {227 << 10, 99 << 10, 12 << 10};
    if (kEmulated) shared_ = any_of(sizes);
  }

  // Why the case fails; "" where it passes.
  std::string check() {
    Results<T> one = results();
    if (std::string why = solve_on(Threads{1}, one); !why.empty()) return why;
    for (int64_t threads : {2, 5}) {
      Results<T> more = results();
      if (std::string why = solve_on(Threads{threads}, more); !why.empty()) return why;
      if (!(more == one)) return std::to_string(threads) + " threads do not agree with one";
    }
    if (std::string why = compare(one); !why.empty()) return why;
    Results<T> alone = results(), late = results();
    if (std::string why = solve_on(Busy{}, alone); !why.empty()) return why;
    if (!(alone == one)) return "a pool whose tasks never start does not agree";
    Busy busy;
    if (std::string why = solve_on(busy, late); !why.empty()) return why;
    if (!(late == one)) return "a pool whose tasks start late does not agree";
    if (std::string why = check_damaged(one); !why.empty()) return why;
    if (std::string why = check_steps(); !why.empty()) return why;
    let_go();  // what belongs to XLA is gone when the call has returned
    busy.run();
    return "";
  }

  // With one index off, the row that it is of has no solution, or no row has; the others are what they were.
  std::string check_damaged(const Results<T>& right) {
    std::vector<std::pair<int64_t, int64_t>> there;  // (bucket, slot) of the entries
    for (size_t b = 0; b < slots_.size(); ++b)
      for (size_t s = 0; s < slots_[b].entry.size(); ++s)
        if (slots_[b].entry[s] < side_.num_entries) there.push_back({b, s});
    constexpr int32_t far[] = {-1, -7, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
    int32_t wrong = any_of(far);
    int64_t b = whole(0, int64_t(slots_.size()) - 1), at = -1, hurt = -1;  // hurt: the row; -1 for all
    const int64_t kind = kEmulated ? 2 : whole(0, 3);  // a GPU does not see that a layout is none, and reads what there is
    std::vector<int32_t>* array = kind == 0 ? &slots_[b].row : &slots_[b].piece_row;
    if (kind < 2) {
      if (array->empty()) return "";
      at = whole(0, int64_t(array->size()) - 1);
      const int64_t most = kind == 0 ? side_.num_rows : side_.buckets[b].rows;
      if (chance(0.3)) wrong = int32_t(most + 1 + whole(0, 2));
      if (kind == 0 && most && chance(0.4)) wrong = chance(0.3) ? int32_t(most) : int32_t(whole(0, most - 1));
      if (wrong == (*array)[at]) return "";  // else a row is there twice, or nowhere
    } else {  // a row of the table that is not there, or padding before an entry
      if (there.empty()) return "";
      std::tie(b, at) = there[whole(0, int64_t(there.size()) - 1)];
      if (kind == 2) hurt = row_of_slot(b, at);
      array = kind == 2 ? &slots_[b].other : &slots_[b].entry;
      if (kind == 2 && chance(0.3)) wrong = int32_t(side_.others + whole(0, 2));
    }
    const int64_t end = kind == 3 ? (at / side_.buckets[b].width + 1) * side_.buckets[b].width - 1 : at;
    if (kind == 3) wrong = (*array)[end];
    if (kind == 3 && wrong < side_.num_entries) return "";  // the piece has no padding
    const int32_t before = std::exchange((*array)[at], wrong);
    if (end != at) (*array)[end] = before;
    Results<T> got = results();
    std::string why = solve_on(Threads{3}, got);
    (*array)[at] = before;
    if (end != at) (*array)[end] = wrong;
    bool all = true;
    for (int64_t r = 0; r < side_.num_rows; ++r) all &= refused(got, r);
    for (int64_t r = 0; r < side_.num_rows && why.empty() && !all; ++r) {
      const bool same = !std::memcmp(&got.x[r * k_], &right.x[r * k_], k_ * sizeof(T)) && got.good[r] == right.good[r];
      if (hurt >= 0 && r != hurt && !same) why = "row " + std::to_string(r) + " is another one";
      if ((hurt < 0 || r == hurt) && !refused(got, r)) why = "row " + std::to_string(r) + " has a solution";
    }
    return why.empty() ? "" : why + " where an index of kind " + std::to_string(kind) + " is off";
  }

  // Steps on the same side, from a start of their own: conjugate gradients, or a block of columns at a time.
  std::string check_steps() {
    if (!precision_.empty() || side_.num_rows == 0 || kEmulated) return "";
    const int64_t rows = side_.num_rows, width = (k_ + kPad - 1) / kPad * kPad;
    auto padded = [&](const std::vector<T>& from, int64_t columns, int64_t to) {
      const int64_t count = from.size() / columns;
      std::vector<T> wide(count * to);
      for (int64_t r = 0; r < count; ++r) std::copy_n(&from[r * columns], columns, &wide[r * to]);
      return wide;
    };
    std::vector<T> table = padded(table_, side_.rank, width), prior = padded(prior_, k_, width), gram = padded(gram_, k_, width);
    for (int64_t i = 0; bias_ && i < side_.others; ++i) table[i * width + side_.rank] = 1;
    if (!gram.empty()) gram.resize(width * width);
    const std::vector<T> start = normals(rows * k_, 1), wide = padded(start, k_, width);
    Side<T> side = side_;
    side.rank = width, side.columns = k_;
    side.cg_steps = chance(0.5) ? whole(1, 3) : 0;
    side.block = whole(1, k_ + 3);
    std::vector<Narrow> narrow;
    if constexpr (sizeof(T) == 4)
      if (!narrow_.empty()) narrow = stored(table);
    side.table = narrow.empty() ? table.data() : nullptr, side.narrow = narrow.empty() ? nullptr : narrow.data();
    side.start = wide.data();
    side.prior = prior.empty() ? nullptr : prior.data(), side.gram = gram.empty() ? nullptr : gram.data();
    side.rhs = side.cholesky = side.inverse = side.norms = nullptr;
    const std::string what = side.cg_steps ? "conjugate gradients, " : "blocks of " + std::to_string(side.block) + ", ";
    auto step = [&](int64_t threads, std::vector<T>& x, std::vector<T>& value, std::vector<char>& good) {
      x.assign(rows * width, T(7)), value.assign(rows, T(7)), good.assign(rows, 7);
      side.x = x.data(), side.value = value_ ? value.data() : nullptr, side.good = reinterpret_cast<bool*>(good.data());
      Threads pool{threads};
      return solve_side(side, JALS_ISA::make_steps<T>(side), pool);
    };
    auto same = [&](const std::vector<T>& a, const std::vector<T>& b, int64_t r, int64_t size) {
      return !std::memcmp(&a[r * size], &b[r * size], size * sizeof(T));
    };
    std::vector<T> x, value, more, more_value;
    std::vector<char> good, more_good;
    if (!step(1, x, value, good) || !step(5, more, more_value, more_good)) return "memory ran out";
    for (int64_t r = 0; r < rows; ++r) {
      const std::string row = what + "row " + std::to_string(r) + ": ";
      if (!same(x, more, r, width) || !same(value, more_value, r, 1)) return row + "5 threads do not agree with one";
      if (kinds_[r] != Kind::good || (reg_[r] == 0 && !blank_[r])) continue;
      if (!good[r]) return row + "is not good";
      if (std::string why = compare_steps(side, r, &start[r * k_], &x[r * width], value[r]); !why.empty()) return row + why;
    }
    for (size_t b = 0; b < slots_.size(); ++b)  // the row that an index off is of has no steps, the others are what they were
      for (size_t s = 0; s < slots_[b].entry.size(); ++s) {
        if (slots_[b].entry[s] >= side_.num_entries || chance(0.9)) continue;
        const int64_t hurt = row_of_slot(b, s);
        const int32_t before = std::exchange(slots_[b].other[s], int32_t(side_.others));
        if (!step(2, more, more_value, more_good)) return "memory ran out";
        slots_[b].other[s] = before;
        for (int64_t r = 0; r < rows; ++r)
          if (r == hurt ? more_good[r] || !std::isnan(more[r * width]) : !same(x, more, r, width))
            return what + "row " + std::to_string(r) + " where an index of row " + std::to_string(hurt) + " is off";
        return "";
      }
    return "";
  }

  std::string compare_steps(const Side<T>& side, int64_t r, const T* start, const T* got, T value) const {
    const int64_t k = k_;
    const T* m = prior_.empty() ? nullptr : &prior_[side_.prior_per_row ? r * k : 0];
    std::vector<Real> a(k * k), b(k), x(start, start + k), left(k), z(k, 1);
    Real loss = 0, size = 0, largest = 0, least = std::numeric_limits<Real>::infinity();
    for (int64_t i = 0; i < k; ++i) {
      const Real reg = i < side_.rank ? reg_[r] : reg_bias_[r];
      least = std::min(least, reg);
      b[i] = m ? reg * m[i] : 0;
      for (int64_t j = 0; j < k; ++j)
        a[i * k + j] = (gram_.empty() ? Real(0) : Real(gram_[i * k + j]) * (pairs_.empty() ? T(1) : pairs_[r])) + (i == j) * reg;
    }
    for (const Entry& entry : rows_[r]) {
      for (int64_t i = 0; i < side_.rank; ++i) z[i] = table_[entry.other * side_.rank + i];
      const Real v = T(entry.value), weight = T(entry.weight), w = weight * (side_.entry[0] + side_.entry[1] * v);
      const Real q = weight * side_.entry[4], t = side_.entry[2] + side_.entry[3] * v;
      const Real gap = t - side_.mean - (bias_ ? held_bias_[entry.other] : T(0));
      Real score = 0, sizes = std::abs(t) + std::abs(gap);
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) a[i * k + j] += w * z[i] * z[j];
        b[i] += (w * gap + q) * z[i];
        score += z[i] * got[i], sizes += std::abs(z[i] * got[i]);
      }
      loss += w * (gap - score) * (gap - score) + q * (1 - 2 * (t - gap + score));
      size += w * sizes * sizes + std::abs(q) * (1 + 2 * sizes);
    }
    const bool stays = blank_[r] || (rows_[r].empty() && gram_.empty());
    for (int64_t i = 0; stays && i < k; ++i) x[i] = m ? m[i] : T(0);
    for (int64_t i = 0; i < k; ++i) largest = std::max(largest, a[i * k + i]);
    auto residual = [&] {
      for (int64_t i = 0; i < k; ++i) {
        left[i] = b[i];
        for (int64_t j = 0; j < k; ++j) left[i] -= a[i * k + j] * x[j];
      }
    };
    if (!stays && side.cg_steps) {
      std::vector<Real> direction(k), moved(k);
      residual();
      Real length = 0;
      for (int64_t i = 0; i < k; ++i) direction[i] = left[i] / a[i * k + i], length += left[i] * direction[i];
      for (int64_t step = 0; step < side.cg_steps && length > 0; ++step) {
        Real under = 0, next = 0;
        for (int64_t i = 0; i < k; ++i) {
          moved[i] = 0;
          for (int64_t j = 0; j < k; ++j) moved[i] += a[i * k + j] * direction[j];
          under += direction[i] * moved[i];
        }
        for (int64_t i = 0; i < k; ++i) x[i] += length / under * direction[i], left[i] -= length / under * moved[i];
        for (int64_t i = 0; i < k; ++i) next += left[i] * left[i] / a[i * k + i];
        for (int64_t i = 0; i < k; ++i) direction[i] = left[i] / a[i * k + i] + next / length * direction[i];
        length = next;
      }
    }
    for (int64_t first = 0; !stays && !side.cg_steps && first < k; first += side.block) {
      const int64_t n = std::min(side.block, k - first);
      residual();
      std::vector<Real> part(n * n), d(left.begin() + first, left.begin() + first + n);  // by elimination
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) part[i * n + j] = a[(first + i) * k + first + j];
      for (int64_t c = 0; c < n; ++c)
        for (int64_t i = c + 1; i < n; ++i) {
          const Real times = part[i * n + c] / part[c * n + c];
          for (int64_t j = c; j < n; ++j) part[i * n + j] -= times * part[c * n + j];
          d[i] -= times * d[c];
        }
      for (int64_t i = n - 1; i >= 0; --i) {
        for (int64_t j = i + 1; j < n; ++j) d[i] -= part[i * n + j] * d[j];
        x[first + i] += d[i] /= part[i * n + i];
      }
    }
    Real off = 0, scale = 1;
    for (int64_t i = 0; i < k; ++i) {
      if (!(std::abs(x[i] - got[i]) <= off)) off = std::abs(x[i] - got[i]);
      scale = std::max({scale, std::abs(x[i]), std::abs(Real(start[i]))});
    }
    const Real eps = std::numeric_limits<T>::epsilon(), most = 32 * eps * (1 + largest / least) * std::sqrt(Real(k));
    if (most < 0.1 && !(off <= most * scale)) return "is off by " + text(off / scale) + ", bound " + text(most);
    const Real unsure = eps * (8 + 4 * std::sqrt(std::min<Real>(rows_[r].size(), kChunk) + 2 * k)) * size;
    if (!blank_[r] && !(std::abs(value - loss) <= unsure) && value_) return "value " + text(value) + ", not " + text(loss);
    return "";
  }

  bool refused(const Results<T>& got, int64_t r) const {
    bool marked = !got.good[r] && (!value_ || std::isnan(got.value[r]));
    for (int64_t i = 0; i < k_; ++i) marked &= std::isnan(got.x[r * k_ + i]);
    for (int64_t i = r * k_ * k_; i < (r + 1) * k_ * k_; ++i)
      marked &= (!cholesky_ || std::isnan(got.cholesky[i])) && (!inverse_ || std::isnan(got.inverse[i]));
    return marked;
  }

  int64_t row_of_slot(int64_t b, int64_t slot) const {
    const Bucket<T>& bucket = side_.buckets[b];
    const int64_t piece = slot / bucket.width, slab = piece / bucket.pieces;
    const int64_t place = cut_[b] ? slots_[b].piece_row[piece] : piece % bucket.pieces;
    return slots_[b].row[slab * bucket.rows + place];
  }

  std::string describe() const {
    std::string text = std::string(sizeof(T) == 4 ? "float" : "double") + ", rank " + std::to_string(side_.rank);
    auto add = [&](bool there, const char* name) { text += there ? std::string(", ") + name : ""; };
    add(bias_, "bias"), add(!prior_.empty(), "prior"), add(!precision_.empty(), "precision");
    add(!gram_.empty(), "gram"), add(!pairs_.empty(), "pairs"), add(!rhs_.empty(), "rhs"), add(cholesky_, "cholesky"), add(value_, "value");
    add(!start_.empty(), "start"), add(inverse_, "inverse"), add(norms_, "norms"), add(side_.part, "part");
    add(!narrow_.empty(), "bfloat16"), add(value_bytes_ == 1, "bytes"), add(value_bytes_ == 2, "words"), add(!weighted_, "no weights");
    return text + ", entries by row:" + degrees_;
  }

 private:
  Results<T> results() const { return Results<T>(side_.num_rows, k_); }

  void draw_shape() {
    const bool giant = chance(0.04);
    const int64_t around = V<T> * whole(1, chance(0.2) ? 150 / V<T> : 2);
    side_.rank = giant ? whole(1, 20) : chance(0.5) ? whole(1, 24) : std::max<int64_t>(1, around + whole(-1, 1));
    bias_ = chance(0.4);
    k_ = side_.rank + bias_;
    side_.num_rows = chance(0.02) ? 0 : whole(1, side_.rank > 40 ? 6 : 24);
    side_.others = whole(1, 60);
    rows_.resize(side_.num_rows);
    for (auto& row : rows_) {
      constexpr int64_t edges[] = {15, 16, 17, 127, 128, 129, 1023, 1024, 1025, 2048};
      int64_t entries = chance(0.2) ? 0 : whole(1, 3 * k_);
      if (chance(0.03)) entries = any_of(edges);
      row.resize(entries);
    }
    if (giant && side_.num_rows) {  // more than a part, sometimes more than kMaxParts of the least size
      constexpr int64_t edges[] = {kPartEntries - 1, kPartEntries, kPartEntries + 1, 2 * kPartEntries, 2 * kPartEntries + 1};
      rows_[whole(0, side_.num_rows - 1)].resize(side_.rank < 4 && chance(0.1) ? 600000 : any_of(edges));
    }
    for (const auto& row : rows_) {
      side_.num_entries += row.size();
      degrees_ += " " + std::to_string(row.size());
    }
  }

  std::vector<T> normals(int64_t n, double scale) {
    std::vector<T> numbers(n);
    for (T& number : numbers) number = T(scale * normal());
    return numbers;
  }

  // Numbers in bfloat16, after which the given ones are these.
  static std::vector<Narrow> stored(std::vector<float>& numbers) {
    std::vector<Narrow> halves;
    for (float& number : numbers) {
      uint32_t bits;
      std::memcpy(&bits, &number, 4);
      halves.push_back(Narrow(bits >> 16));
      bits &= 0xffff0000;
      std::memcpy(&number, &bits, 4);
    }
    return halves;
  }

  // A symmetric matrix without direction of its own: B B' / columns of B, times sign.
  std::vector<T> symmetric(int64_t columns, double sign) {
    const std::vector<T> b = normals(k_ * columns, 1);
    std::vector<T> matrix(k_ * k_);
    for (int64_t i = 0; i < k_; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < columns; ++c) sum += double(b[i * columns + c]) * b[j * columns + c];
        matrix[i * k_ + j] = matrix[j * k_ + i] = T(sign * sum / columns);
      }
    return matrix;
  }

  double drawn_value() {
    if (value_bytes_ == sizeof(T)) return std::abs(normal());
    return side_.entry[5] + side_.entry[6] * double(whole(0, std::min(1 << 8 * value_bytes_, 1 << 9) - 1));
  }

  void draw_numbers() {
    const bool plain = chance(0.4);  // all w are 1
    value_bytes_ = chance(0.5) ? sizeof(T) : any_of(std::array{1, 2});
    weighted_ = chance(0.6);
    side_.entry[5] = T(whole(0, 6) / 2.0), side_.entry[6] = T(1.0 / (1 << whole(0, 8)));
    for (int c = 0; c < 5; ++c) side_.entry[c] = T(plain ? c == 0 || c == 3 : c < 2 ? std::abs(normal()) : normal());
    for (auto& row : rows_)
      for (Entry& entry : row)
        entry = {int32_t(whole(0, side_.others - 1)), drawn_value(),
                 plain || !weighted_ ? 1 : chance(0.1) ? 0 : 2 * std::abs(normal())};

    const int64_t rows = side_.num_rows;
    table_ = normals(side_.others * side_.rank, 1 / std::sqrt(double(side_.rank)));
    if constexpr (sizeof(T) == 4)
      if (chance(0.4)) narrow_ = stored(table_);
    side_.mean = chance(0.5) ? T(normal()) : T(0);
    if (bias_) held_bias_ = normals(side_.others, 1);
    if (chance(0.4)) prior_ = normals((side_.prior_per_row = chance(0.5)) ? rows * k_ : k_, 1);
    if (chance(0.2)) gram_ = symmetric(2 * k_ + 3, 0.3);
    for (int64_t r = 0; !gram_.empty() && side_.mean == 0 && r < rows; ++r) pairs_.push_back(T(0.5 + std::abs(normal())));
    if (chance(0.25)) {
      side_.precision_per_row = chance(0.5);
      for (int64_t r = 0; r < (side_.precision_per_row ? rows : 1); ++r) {
        const std::vector<T> matrix = symmetric(2 * k_ + 3, 0.5);
        precision_.insert(precision_.end(), matrix.begin(), matrix.end());
      }
    }
    value_ = chance(0.5);
    cholesky_ = chance(0.5);
    inverse_ = chance(0.5);
    norms_ = chance(0.5);
    if (chance(0.4)) start_ = normals(rows * k_, 1);
    side_.part = chance(0.2);
    if (chance(0.2)) rhs_ = normals(rows * k_, 1);
    for (int64_t r = 0; r < rows; ++r) {
      const bool held = !gram_.empty() || !precision_.empty(), empty = rows_[r].empty();
      const bool free = chance(0.15) && (empty || held || int64_t(rows_[r].size()) < k_);  // lambda is 0
      Kind kind = Kind::good;
      T reg = T(0.05 + std::abs(normal()));
      if (free) {
        reg = 0;
        if (!held && !(empty && chance(0.5))) kind = empty ? Kind::bad : Kind::either;
      }
      // Many times the same few rows of the table: rounding of their sums may be more than lambda.
      if (side_.others < k_ && rows_[r].size() > 4096) kind = Kind::either;
      const bool blank = free && !held && empty && kind == Kind::good;
      if (!free && chance(0.02)) {  // as far below zero as no entries can lift
        reg = T(-10 * (1 + double(rows_[r].size())) * 100);
        kind = Kind::bad;
      }
      reg_.push_back(reg);
      reg_bias_.push_back(reg > 0 ? reg / 2 : reg);
      blank_.push_back(blank);
      strict_.push_back(reg == 0);
      kinds_.push_back(kind);
    }
  }

  // Each row goes to one of a few buckets: whole, cut into pieces, or of width 0.
  void draw_layout() {
    const int64_t rows = side_.num_rows;
    std::vector<int64_t> order(rows);
    for (int64_t r = 0; r < rows; ++r) order[r] = r;
    std::shuffle(order.begin(), order.end(), random_);
    const int64_t kinds = whole(2, 4);
    std::vector<std::vector<int64_t>> mine(kinds);
    for (int64_t r : order) mine[rows_[r].empty() && chance(0.7) ? 0 : whole(1, kinds - 1)].push_back(r);
    slots_.resize(kinds);
    int64_t number = 0;
    for (int64_t b = 0; b < kinds; ++b) fill(slots_[b], mine[b], b == 0, number);
  }

  void fill(Slots<T>& slots, const std::vector<int64_t>& mine, bool empty, int64_t& number) {
    Bucket<T> bucket{};
    int64_t longest = 0;
    for (int64_t r : mine) longest = std::max(longest, int64_t(rows_[r].size()));
    const bool cut = !empty && chance(0.6);
    bucket.width = empty ? 0 : cut ? whole(1, chance(0.3) ? 700 : 12) : longest + whole(0, 3);
    if (cut) bucket.width = std::max(bucket.width, longest / 2000);
    bucket.rows = whole(1, int64_t(mine.size()) + 1);
    bucket.slabs = (int64_t(mine.size()) + bucket.rows - 1) / bucket.rows + chance(0.1);

    struct Piece {
      int64_t place, row, first, length;
    };
    std::vector<std::vector<Piece>> pieces(bucket.slabs);
    slots.row.assign(bucket.slabs * bucket.rows, int32_t(side_.num_rows));
    for (int64_t i = 0; i < int64_t(mine.size()); ++i) {
      slots.row[i] = int32_t(mine[i]);
      const int64_t entries = rows_[mine[i]].size();
      for (int64_t first = 0; cut && first < entries; first += bucket.width)
        pieces[i / bucket.rows].push_back({i % bucket.rows, mine[i], first, std::min(bucket.width, entries - first)});
      if (!cut) pieces[i / bucket.rows].push_back({i % bucket.rows, mine[i], 0, entries});
    }
    bucket.pieces = cut ? 0 : bucket.rows;
    for (const auto& slab : pieces) bucket.pieces = std::max(bucket.pieces, int64_t(slab.size()));
    if (cut) bucket.pieces = std::max<int64_t>(1, bucket.pieces + whole(0, 2));

    const int64_t total = bucket.slabs * bucket.pieces;
    slots.other.assign(total * bucket.width, 1 << 30);
    slots.entry.assign(total * bucket.width, int32_t(side_.num_entries));
    slots.value.assign(total * bucket.width, std::numeric_limits<T>::quiet_NaN());
    slots.weight = slots.value;
    slots.byte.assign(total * bucket.width, 255), slots.word.assign(total * bucket.width, 65535);
    if (cut) slots.piece_row.assign(total, int32_t(bucket.rows));
    for (int64_t s = 0; s < bucket.slabs; ++s) {
      if (cut) std::shuffle(pieces[s].begin(), pieces[s].end(), random_);
      for (int64_t p = 0; p < int64_t(pieces[s].size()); ++p) {
        const Piece& piece = pieces[s][p];
        if (cut) slots.piece_row[s * bucket.pieces + p] = int32_t(piece.place);
        for (int64_t i = 0; i < piece.length; ++i) {
          const int64_t at = (s * bucket.pieces + p) * bucket.width + i;
          const Entry& entry = rows_[piece.row][piece.first + i];
          slots.other[at] = entry.other;
          slots.entry[at] = int32_t(number++);
          slots.value[at] = T(entry.value);
          const T code = std::round((T(entry.value) - side_.entry[5]) / side_.entry[6]);
          if (value_bytes_ == 1) slots.byte[at] = uint8_t(code);
          if (value_bytes_ == 2) slots.word[at] = uint16_t(code);
          slots.weight[at] = T(entry.weight);
        }
      }
    }
    side_.buckets.push_back(bucket);
    cut_.push_back(cut);
  }

  template <class Pool>
  std::string solve_on(Pool&& pool, Results<T>& results) {
    auto bools = [](const std::vector<char>& flags) { return reinterpret_cast<const bool*>(flags.data()); };
    auto given = [](const std::vector<T>& numbers) { return numbers.empty() ? nullptr : numbers.data(); };
    side_.table = narrow_.empty() ? table_.data() : nullptr;
    side_.narrow = narrow_.empty() ? nullptr : narrow_.data();
    side_.held_bias = bias_ ? held_bias_.data() : nullptr;
    side_.prior = given(prior_);
    side_.reg = reg_.data();
    side_.reg_bias = bias_ ? reg_bias_.data() : nullptr;
    side_.precision = given(precision_);
    side_.gram = given(gram_);
    side_.pairs = given(pairs_);
    side_.blank = bools(blank_);
    side_.strict = bools(strict_);
    side_.rhs = given(rhs_);
    side_.start = given(start_);
    for (size_t b = 0; b < slots_.size(); ++b) {
      Bucket<T>& bucket = side_.buckets[b];
      const Slots<T>& slots = slots_[b];
      bucket.row = slots.row.data();
      bucket.other = slots.other.data();
      bucket.entry = slots.entry.data();
      bucket.piece_row = cut_[b] ? slots.piece_row.data() : nullptr;
      const void* values[] = {slots.byte.data(), slots.word.data(), slots.value.data()};
      bucket.value = values[std::min<size_t>(value_bytes_, 3) - 1];
      bucket.value_bytes = value_bytes_;
      bucket.weight = weighted_ ? slots.weight.data() : nullptr;
    }
    side_.x = results.x.data();
    side_.good = reinterpret_cast<bool*>(results.good.data());
    side_.value = value_ ? results.value.data() : nullptr;
    side_.cholesky = cholesky_ ? results.cholesky.data() : nullptr;
    side_.inverse = inverse_ ? results.inverse.data() : nullptr;
    side_.norms = norms_ ? results.norms.data() : nullptr;
#ifdef JALS_EMULATOR
    cuda::turned = pool.num_threads() > 1;
    cuda::shared_bytes = shared_;
    std::vector<std::vector<double>> memory;
    auto allocate = [&](int64_t bytes) {
      memory.emplace_back(bytes / sizeof(double) + 1, NAN);
      return memory.back().data();
    };
    const cuda::Stream stream = 1;  // of a device that is another than the thread's
    const cuda::OnDeviceOf here(stream);
    cuda::solve_side(side_, &side_.mean, side_.entry, stream, allocate);
    return "";
#else
    return solve_side(side_, JALS_ISA::make<T>(side_.rank), pool) ? "" : "memory ran out";
#endif
  }

  void let_go() {
    for (auto* numbers : {&table_, &held_bias_, &prior_, &reg_, &reg_bias_, &precision_, &gram_, &pairs_, &rhs_, &start_})
      std::vector<T>().swap(*numbers);
    std::vector<Narrow>().swap(narrow_);
    std::vector<Slots<T>>().swap(slots_);
  }

  // ---- the plain way ----

  std::string compare(const Results<T>& got) const {
    for (int64_t r = 0; r < side_.num_rows; ++r)
      if (std::string why = compare_row(got, r); !why.empty()) return "row " + std::to_string(r) + ": " + why;
    return "";
  }

  std::string compare_row(const Results<T>& got, int64_t r) const {
    const int64_t k = k_, rank = side_.rank;
    // The system, and the same sums of absolute values, which rounding is measured against.
    std::vector<Real> a(k * k), b(k), a_size(k * k), b_size(k), z(k, 1), pull(k);
    Real constant = 0, constant_size = 0;
    for (const Entry& entry : rows_[r]) {
      for (int64_t i = 0; i < rank; ++i) z[i] = table_[entry.other * rank + i];
      const Real value = T(entry.value), weight = T(entry.weight);
      const Real w = weight * (side_.entry[0] + side_.entry[1] * value), q = weight * side_.entry[4];
      const Real held = Real(side_.mean) + (bias_ ? held_bias_[entry.other] : T(0));
      const Real t = side_.entry[2] + side_.entry[3] * value, p = w * (t - held) + q;
      const Real size = w * (std::abs(t) + std::abs(held)) + std::abs(q);
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j <= i; ++j) a[i * k + j] += w * z[i] * z[j], a_size[i * k + j] += w * std::abs(z[i] * z[j]);
        b[i] += p * z[i];
        b_size[i] += size * std::abs(z[i]);
      }
      Real score = held, score_size = std::abs(held);
      for (int64_t i = 0; i < k && !start_.empty(); ++i)
        score += z[i] * start_[r * k + i], score_size += std::abs(z[i] * start_[r * k + i]);
      constant += w * (t - score) * (t - score) + q * (1 - 2 * score);
      constant_size += w * (std::abs(t) + score_size) * (std::abs(t) + score_size) + std::abs(q) * (1 + 2 * score_size);
    }
    const T* m = prior_.empty() ? nullptr : &prior_[side_.prior_per_row ? r * k : 0];
    const T* precision = precision_.empty() ? nullptr : &precision_[side_.precision_per_row ? r * k * k : 0];
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        Real held = precision ? precision[i * k + j] : T(0);
        if (i == j) held += i < rank ? reg_[r] : reg_bias_[r];
        if (m) pull[i] += held * m[j];
        if (m) b_size[i] += std::abs(held * m[j]);
        if (j > i) continue;
        const Real more = held + (gram_.empty() ? T(0) : gram_[i * k + j]) * (pairs_.empty() ? T(1) : pairs_[r]);
        a[i * k + j] += more, a_size[i * k + j] += std::abs(more);
      }
      b[i] += pull[i];
      if (m && start_.empty()) constant += pull[i] * m[i], constant_size += std::abs(pull[i] * m[i]);
    }
    if (blank_[r]) {
      constant = 0;
      for (int64_t i = 0; i < k; ++i) {
        a[i * k + i] = a_size[i * k + i] = 1;
        b[i] = m ? m[i] : T(0);
        b_size[i] = std::abs(b[i]);
        constant += b[i] * b[i];  // the loss is 0 at m
      }
      if (!start_.empty()) constant = 0;
      constant_size = constant;
    }
    for (int64_t i = 0; i < k && !rhs_.empty(); ++i) b[i] = rhs_[r * k + i], b_size[i] = std::abs(b[i]);
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = i + 1; j < k; ++j) a[i * k + j] = a[j * k + i], a_size[i * k + j] = a_size[j * k + i];

    // Good or not, a row's system has norms.
    for (int64_t part = 0; part < 2 && norms_; ++part) {
      Real squares = 0, sizes = 0;
      for (Real number : part ? b : a) squares += number * number;
      for (Real number : part ? b_size : a_size) sizes += number * number;
      const Real off = std::abs(got.norms[2 * r + part] - std::sqrt(squares));
      const Real most = (8 + k + std::sqrt(Real(rows_[r].size()))) * std::numeric_limits<T>::epsilon() * std::sqrt(sizes);
      if (!(off <= most)) return "norm " + text(got.norms[2 * r + part]) + ", not " + text(std::sqrt(squares));
    }

    const T* x = &got.x[r * k];
    const T* l = &got.cholesky[r * k * k];
    if (got.good[r] ? kinds_[r] == Kind::bad : kinds_[r] == Kind::good)
      return got.good[r] ? "is good, but has no solution" : "is not good";
    if (!got.good[r]) {
      return refused(got, r) ? "" : "is not good, but not NaN everywhere";
    }

    // Rounding grows with the entries of a chunk and the unknowns; at random it grows with their square root.
    const Real n = rows_[r].size();
    const Real bound = std::numeric_limits<T>::epsilon() * (8 + 4 * std::sqrt(std::min<Real>(n, kChunk) + 2 * k + n / kChunk));
    Real off = 0, size = 0, against = 0, best = 0, best_size = 0;
    for (int64_t i = 0; i < k; ++i) {
      Real left = b[i], whole = b_size[i];
      for (int64_t j = 0; j < k; ++j) left -= a[i * k + j] * x[j], whole += a_size[i * k + j] * std::abs(x[j]);
      if (!(std::abs(left) <= off)) off = std::abs(left);
      size = std::max(size, whole);
      against = std::max(against, a_size[i * k + i]);
      best += b[i] * x[i];
      best_size += std::abs(Real(x[i])) * whole;
    }
    // At a solution whose residual is e, b'x errs by x'e, as does what the kernel takes for it; and d'A d by d'e.
    if (!start_.empty()) {
      best = best_size = 0;
      for (int64_t i = 0; i < k && !blank_[r]; ++i)
        for (int64_t j = 0; j < k; ++j) {
          const Real di = Real(start_[r * k + i]) - x[i], dj = Real(start_[r * k + j]) - x[j];
          best += di * a[i * k + j] * dj;
          best_size += a_size[i * k + j] * (std::abs(di) + std::abs(Real(x[i]))) * (std::abs(dj) + std::abs(Real(x[j])));
        }
    }
    if (!(off <= bound * size)) return "backward error " + text(off / size) + ", bound " + text(bound);
    const Real apart = std::abs(got.value[r] - (constant - best)), unsure = bound * (constant_size + 2 * best_size);
    if (value_ && (rhs_.empty() || !start_.empty()) && !(apart <= unsure)) return "value " + text(got.value[r]) + ", not " + text(constant - best);
    // Each column of the inverse is a solution of its own.
    for (int64_t c = 0; c < k && inverse_; ++c) {
      const T* column = &got.inverse[(r * k + c) * k];  // its rows are its columns
      Real off = 0, size = 1;
      for (int64_t i = 0; i < k; ++i) {
        Real left = i == c, whole = 0;
        for (int64_t j = 0; j < k; ++j) left -= a[i * k + j] * column[j], whole += a_size[i * k + j] * std::abs(column[j]);
        if (!(std::abs(left) <= off)) off = std::abs(left);
        size = std::max(size, whole);
        if (column[i] != got.inverse[(r * k + i) * k + c]) return "inverse is not symmetric";
      }
      if (!(off <= bound * size)) return "inverse wrong by " + text(off / size) + ", bound " + text(bound);
    }
    for (int64_t i = 0; i < k && cholesky_; ++i)
      for (int64_t j = 0; j < k; ++j) {
        Real sum = 0;
        for (int64_t c = 0; c <= std::min(i, j); ++c) sum += Real(l[i * k + c]) * l[j * k + c];
        if (j > i ? l[i * k + j] != 0 : !(std::abs(sum - a[i * k + j]) <= bound * against) || !(l[i * k + i] > 0))
          return "factor wrong at " + std::to_string(i) + ", " + std::to_string(j);
      }
    return "";
  }

  static std::string text(Real number) {
    char characters[32];
    std::snprintf(characters, sizeof characters, "%.3Lg", number);
    return characters;
  }

  Side<T> side_{};
  int64_t k_ = 0, shared_ = 0;  // shared_: the memory that a GPU's block has
  bool bias_ = false, value_ = false, cholesky_ = false, inverse_ = false, norms_ = false;
  int value_bytes_ = sizeof(T);
  bool weighted_ = true;
  std::vector<std::vector<Entry>> rows_;
  std::string degrees_;
  std::vector<Slots<T>> slots_;
  std::vector<bool> cut_;
  std::vector<T> table_, held_bias_, prior_, reg_, reg_bias_, precision_, gram_, pairs_, rhs_, start_;
  std::vector<Narrow> narrow_;
  std::vector<char> blank_, strict_;
  std::vector<Kind> kinds_;
};

}  // namespace
}  // namespace jals

int main(int count, char** words) { return jals::fuzz<jals::Case>(count, words); }
