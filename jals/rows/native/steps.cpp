// Some steps from where rows are towards their solution: of conjugate gradients, or a block of columns at a time, the
// others held (Rendle, Krichene, Zhang, Koren: iALS++, arXiv 2110.14044).
//
// Rows go together in tiles of V. What they need of the Gram over all pairs is one matrix product a tile, which reads
// the Gram once for V rows: alone, a row would read rank^2 numbers for as many multiplications. All else is by row.
//
// Compiled once for each instruction set, see panels.hpp. The formulas are those of jals/rows/rowsolve.py.

#include "kernel.hpp"

#include <memory>

#include "entries.hpp"
#include "memory.hpp"

namespace jals {
namespace JALS_ISA {
namespace {

// Entries whose scores are made at a time, each in sums of its own: enough to hide the additions' latency.
template <class T>
constexpr int kScores = std::min(V<T>, 8);

// Columns that are solved for at a time: all of them by conjugate gradients.
template <class T>
int64_t block_columns(const Side<T>& side) {
  return side.cg_steps ? side.rank : std::min(side.block, side.columns);
}

// ---- the Gram over all pairs ----

// Panels of each block of columns: numbers first ... first + V - 1 of all rows, then the next V; zeros beyond the block.
template <class T>
void pack(const Side<T>& side, T* to) {
  const int64_t rank = side.rank, size = block_columns(side);
  for (int64_t first = 0; first < side.columns; first += size) {
    const int64_t end = std::min(first + size, rank);
    for (int64_t column = first; column < end; column += V<T>)
      for (int64_t s = 0; s < rank; ++s, to += V<T>) {
        const int64_t lanes = std::min<int64_t>(V<T>, end - column);
        std::memset(to, 0, V<T> * sizeof(T));
        std::memcpy(to, side.gram + s * rank + column, lanes * sizeof(T));
      }
  }
}

// Numbers of one side's rows that are worked on together: row c's lie at c * rank.
template <class T>
struct Tile {
  int64_t rows;
  T* across;  // (rank, V): number s of each row, which `by_gram` reads
  T* product; // (panels, V, V): what it writes

  // Lays rows `(V, rank)` out for `by_gram`.
  void turn(const T* numbers, int64_t rank) const {
    for (int64_t p = 0; p < rank; p += V<T>) {
      Vec<T> v[V<T>];
      UNROLL for (int c = 0; c < V<T>; ++c) v[c] = load<T>(numbers + c * rank + p);
      transpose<T>(v);
      UNROLL for (int j = 0; j < V<T>; ++j) store<T>(across + (p + j) * V<T>, v[j]);
    }
  }

  // product := packed' across, `np` panels of it.
  void by_gram(const T* packed, int64_t np, int64_t rank) const {
    std::memset(product, 0, np * V<T> * V<T> * sizeof(T));
    for (int64_t p = 0; p < np;) {
      const int64_t rest = np - p, nv = rest == 4 ? 2 : std::min<int64_t>(rest, kPanels);
      const T* left[kPanels];
      for (int64_t v = 0; v < nv; ++v) left[v] = packed + (p + v) * rank * V<T>;
      for (int64_t c = 0; c < rows; c += kColumns<T>) {
        T* to[kPanels];
        for (int64_t v = 0; v < nv; ++v) to[v] = of(c, p + v);
        if (nv == 3) block<T, 3, kColumns<T>, 1>(to, left, across + c, rank);
        if (nv == 2) block<T, 2, kColumns<T>, 1>(to, left, across + c, rank);
        if (nv == 1) block<T, 1, kColumns<T>, 1>(to, left, across + c, rank);
      }
      p += nv;
    }
  }

  // The product's panel p of row c.
  T* of(int64_t c, int64_t p) const { return product + (p * V<T> + c) * V<T>; }
};

// ---- one row's entries ----

template <class T>
INLINE double inner(const T* a, const T* b, int64_t n) {
  Vec<T> sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * V<T> <= n; i += 4 * V<T>)
    UNROLL for (int j = 0; j < 4; ++j) sum[j] += load<T>(a + i + j * V<T>) * load<T>(b + i + j * V<T>);
  for (; i < n; i += V<T>) sum[0] += load<T>(a + i) * load<T>(b + i);
  return total<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// The scores z.x of up to kScores entries, in the first lanes.
template <class T, int N, class Number>
INLINE Vec<T> scores_of(const Number* const* z, const T* x, int64_t rank) {
  constexpr auto lanes = std::make_integer_sequence<int, V<T>>{};
  Vec<T> sum[N] = {};
  for (int64_t i = 0; i < rank; i += V<T>) {
    const Vec<T> y = load<T>(x + i);
    UNROLL for (int e = 0; e < N; ++e) sum[e] += load<T>(z[e] + i) * y;
  }
  UNROLL for (int n = N; n > 1; n /= 2)
    UNROLL for (int e = 0; e < n / 2; ++e) sum[e] = pair_sums<T>(sum[2 * e], sum[2 * e + 1], lanes);
  for (int n = N; n < V<T>; n *= 2) sum[0] = pair_sums<T>(sum[0], sum[0], lanes);
  return sum[0];
}

// to += the sum of z, each times its factor; with squares, squares += the sum of z^2, each times its weight.
template <class T, int N, bool Squares, class Number>
INLINE void add_weighted(const Number* const* z, const T* factor, const T* weight, int64_t rank, T* to, T* squares) {
  for (int64_t i = 0; i < rank; i += V<T>) {
    Vec<T> sum = load<T>(to + i), square = Squares ? load<T>(squares + i) : Vec<T>{};
    UNROLL for (int e = 0; e < N; ++e) {
      const Vec<T> each = load<T>(z[e] + i);
      sum += each * factor[e];
      if (Squares) square += each * each * weight[e];
    }
    store<T>(to + i, sum);
    if (Squares) store<T>(squares + i, square);
  }
}

template <class T>
struct Numbers {  // of the entries of a tile's rows
  T *w, *p, *score, *move;
};

// The entries of one row: where they lie, and their numbers.
template <class T>
struct Taken {
  const Row* row;
  Numbers<T> numbers;

  // f(first entry's place, entries) for a few at a time: `Entries` of 1 or kScores, and rows of the table.
  template <class F>
  INLINE void each_few(const Side<T>& side, const Run* runs, F&& f) const {
    with_table(side, [&](auto* table) INLINE_LAMBDA { each_few_of(side, table, runs, f); });
  }

  template <class Number, class F>
  INLINE void each_few_of(const Side<T>& side, const Number* table, const Run* runs, F&& f) const {
    int64_t at = 0;
    for (int64_t r = 0; r < row->runs; ++r) {
      const Run& run = runs[row->first_run + r];
      const int32_t* other = side.buckets[run.bucket].other + run.slot;
      const Number* z[kScores<T>];
      int64_t s = 0;
      for (; s + kScores<T> <= run.length; s += kScores<T>) {
        UNROLL for (int e = 0; e < kScores<T>; ++e) z[e] = table + other[s + e] * side.rank;
        for (int64_t ahead = s + kScores<T>; ahead < std::min(s + 2 * kScores<T>, run.length); ++ahead) {
          const char* next = reinterpret_cast<const char*>(table + other[ahead] * side.rank);
          __builtin_prefetch(next, 0, 3), __builtin_prefetch(next + 64, 0, 3), __builtin_prefetch(next + 128, 0, 3);
        }
        f(std::integral_constant<int, kScores<T>>{}, at + s, z);
      }
      for (; s < run.length; ++s) {
        z[0] = table + other[s] * side.rank;
        f(std::integral_constant<int, 1>{}, at + s, z);
      }
      at += run.length;
    }
  }
};

// What a few entries' factor is, is said by the caller; each row's sums are made a chunk of entries at a time.
template <class T, bool Squares, class Factor>
INLINE void add_entries(const Side<T>& side, const Run* runs, const Taken<T>& taken, const T* x, Factor&& factor, T* to,
                        T* squares, T* part) {
  const int64_t rank = side.rank;
  const bool chunks = taken.row->entries > kChunk;
  T *sum = chunks ? part : to, *square = chunks ? part + rank : squares;
  int64_t in_chunk = 0;
  auto flush = [&] {
    for (int64_t i = 0; i < rank; i += V<T>) {
      store<T>(to + i, load<T>(to + i) + load<T>(part + i));
      if (Squares) store<T>(squares + i, load<T>(squares + i) + load<T>(part + rank + i));
    }
    std::memset(part, 0, 2 * rank * sizeof(T));
    in_chunk = 0;
  };
  if (chunks) std::memset(part, 0, 2 * rank * sizeof(T));
  taken.each_few(side, runs, [&](auto few, int64_t at, auto* z) INLINE_LAMBDA {
    constexpr int N = decltype(few)::value;
    const Vec<T> scores = scores_of<T, N>(z, x, rank);
    T each[N];
    for (int e = 0; e < N; ++e) each[e] = factor(at + e, scores[e]);
    add_weighted<T, N, Squares>(z, each, taken.numbers.w + at, rank, sum, square);
    if (chunks && (in_chunk += N) >= kChunk) flush();
  });
  if (chunks) flush();
}

// w and p of a row's entries; false where they cannot be read.
template <class T>
bool read_row(const Side<T>& side, const Run* runs, const Row& row, const Numbers<T>& to) {
  Blocks<T> blocks(side, runs, &row, 1, kChunk);
  int64_t at = 0;
  for (Block now = blocks.next(); now.n; now = blocks.next()) {
    if (!readable(side, now)) return false;
    for (int64_t s = 0; s < now.n; s += V<T>) {
      const Entries<T> e = read_entries(side, now, s, std::min<int64_t>(V<T>, now.n - s));
      store<T>(to.w + at + s, e.w);
      store<T>(to.p + at + s, e.w * e.gap + e.q);
    }
    at += now.n;
  }
  return true;
}

// The entries' loss at the scores.
template <class T>
double loss_of(const Side<T>& side, const Run* runs, const Row& row, const T* score) {
  Blocks<T> blocks(side, runs, &row, 1, kChunk);
  const Mask<T> lanes = lane_numbers<T>();
  double sum = 0;
  int64_t at = 0;
  for (Block now = blocks.next(); now.n; now = blocks.next()) {
    Vec<T> losses = {};
    for (int64_t s = 0; s < now.n; s += V<T>) {
      const int64_t n = std::min<int64_t>(V<T>, now.n - s);
      const Entries<T> e = read_entries(side, now, s, n);
      losses += lanes < static_cast<Int<T>>(n) ? e.loss(e.gap - load_some<T>(score + at + s, n)) : Vec<T>{};
    }
    sum += total<T>(losses);
    at += now.n;
  }
  return sum;
}

// ---- memory ----

template <class T>
struct StepSpace {
  int64_t rank, np, entries;  // np: panels of a block of columns; entries: gathered at a time
  Tile<T> tile;
  T *x, *residual, *direction, *moved, *scale;  // (V, rank); the last four for conjugate gradients
  T* part;                                       // (2, rank)
  T *matrix, *rhs, *sum, *z, *wz, *inverse;      // of a block of columns: two of the first pair, one after the other

  static size_t systems(int64_t np) { return triangle<T>(np) + np * V<T>; }
  static size_t numbers(int64_t rank, int64_t np, int64_t entries, bool cg) {
    const size_t tiles = rank * V<T> + (cg ? rank / V<T> : np) * V<T> * V<T> + (cg ? 5 : 1) * V<T> * rank + 2 * rank;
    return tiles + (cg ? 0 : 2 * systems(np) + 2 * entries * np * V<T> + np * V<T>);
  }
  StepSpace(const Side<T>& side, char* memory)
      : rank(side.rank), np(panels<T>(block_columns(side))), entries(gathered(np)) {
    T* next = reinterpret_cast<T*>(memory);
    auto take = [&](int64_t count) { return std::exchange(next, next + count); };
    tile.across = take(rank * V<T>);
    tile.product = take(np * V<T> * V<T>);
    x = take(V<T> * rank);
    if (side.cg_steps) {
      residual = take(V<T> * rank), direction = take(V<T> * rank), moved = take(V<T> * rank), scale = take(V<T> * rank);
    }
    part = take(2 * rank);
    if (side.cg_steps) return;
    matrix = take(systems(np)), rhs = matrix + triangle<T>(np);
    sum = take(systems(np));
    z = take(entries * np * V<T>), wz = take(entries * np * V<T>);
    inverse = take(np * V<T>);
  }
  static int64_t gathered(int64_t np) { return std::clamp<int64_t>(16384 / (np * JALS_BYTES) / 8 * 8, 16, 128); }
  static size_t bytes(int64_t rank, int64_t block, bool cg) {
    const int64_t np = panels<T>(cg ? rank : block);
    return (numbers(rank, np, gathered(np), cg) * sizeof(T) + 63) / 64 * 64;
  }
};

// Numbers of the entries of the rows of a tile, on the heap: nobody knows how many there are.
template <class T>
class TileNumbers {
 public:
  // Room for so many numbers, four for each entry. What was there is lost.
  T* room(int64_t count) {
    if (count > size_) memory_ = std::make_unique<Memory>((size_ = count) * sizeof(T));
    return reinterpret_cast<T*>(memory_->get());
  }

 private:
  std::unique_ptr<Memory> memory_;
  int64_t size_ = 0;
};

// ---- one tile ----

template <class T>
struct Work {
  const Side<T>& side;
  const Run* runs;
  const StepSpace<T>& space;
  Taken<T> taken[V<T>];
  int64_t rows;
  bool fine[V<T>], still[V<T>];  // whether the entries can be read; whether the row is to stay where it is

  T lambda(int64_t row, int64_t column) const {
    if (column >= side.columns) return T(1);  // of padding, whose numbers are 0
    return side.held_bias && column == side.columns - 1 ? side.reg_bias[row] : side.reg[row];
  }
  T share(int64_t row) const { return side.pairs ? side.pairs[row] : T(1); }
  const T* prior(int64_t row) const {
    return side.prior ? side.prior + (side.prior_per_row ? row * side.rank : 0) : nullptr;
  }

  void start(const Row* first, int64_t count, TileNumbers<T>& heap) {
    rows = count;
    int64_t total = 0;
    for (int64_t c = 0; c < rows; ++c) total += 4 * (first[c].entries + V<T>);
    T* numbers = heap.room(total);
    for (int64_t c = 0; c < rows; ++c) {
      const int64_t row = first[c].row, size = first[c].entries + V<T>;
      taken[c] = {first + c, {numbers, numbers + size, numbers + 2 * size, numbers + 3 * size}};
      numbers += 4 * size;
      fine[c] = read_row(side, runs, first[c], taken[c].numbers);
      still[c] = side.blank[row] || (!first[c].entries && !side.gram);  // nothing but the prior knows it
      T* x = space.x + c * side.rank;
      const T* m = prior(row);
      if (!still[c]) std::copy_n(side.start + row * side.rank, side.rank, x);
      else if (m) std::copy_n(m, side.rank, x);
      else std::fill_n(x, side.rank, T(0));
      still[c] |= !fine[c];
    }
    std::fill_n(space.x + rows * side.rank, (V<T> - rows) * side.rank, T(0));
  }

  void finish() const {
    for (int64_t c = 0; c < rows; ++c) {
      const int64_t row = taken[c].row->row;
      const T* x = space.x + c * side.rank;
      double finite = 0;
      for (int64_t i = 0; i < side.columns; ++i) finite += x[i] * 0;
      const bool good = fine[c] && finite == 0;
      T* to = side.x + row * side.rank;
      if (good) std::copy_n(x, side.rank, to);
      else std::fill_n(to, side.rank, std::numeric_limits<T>::quiet_NaN());
      side.good[row] = good;
      if (!side.value) continue;
      const bool none = side.blank[row];
      side.value[row] = !good ? std::numeric_limits<T>::quiet_NaN()
                        : none ? T(0) : T(loss_of(side, runs, *taken[c].row, taken[c].numbers.score));
    }
  }
};

// ---- conjugate gradients ----

template <class T>
void conjugate_gradients(Work<T>& work) {
  const Side<T>& side = work.side;
  const StepSpace<T>& space = work.space;
  const int64_t rank = side.rank, np = rank / V<T>;
  double size[V<T>] = {};
  auto by_gram = [&](const T* numbers) {
    if (!side.gram) return;
    space.tile.turn(numbers, rank);
    space.tile.by_gram(side.packed, np, rank);
  };
  std::memset(space.direction, 0, V<T> * rank * sizeof(T));
  by_gram(space.x);
  for (int64_t c = 0; c < work.rows; ++c) {
    if (work.still[c]) continue;
    const int64_t row = work.taken[c].row->row;
    const T *x = space.x + c * rank, *m = work.prior(row), share = work.share(row);
    T *residual = space.residual + c * rank, *scale = space.scale + c * rank, *direction = space.direction + c * rank;
    for (int64_t i = 0; i < rank; ++i) {
      const T lambda = work.lambda(row, i);
      residual[i] = lambda * ((m ? m[i] : T(0)) - x[i]);
      scale[i] = lambda;
      if (!side.gram) continue;
      residual[i] -= share * space.tile.of(c, i / V<T>)[i % V<T>];
      if (i < side.columns) scale[i] += share * side.gram[i * rank + i];
    }
    const Numbers<T> numbers = work.taken[c].numbers;
    auto factor = [&](int64_t at, T score) {
      numbers.score[at] = score;
      return numbers.p[at] - numbers.w[at] * score;
    };
    add_entries<T, true>(side, work.runs, work.taken[c], x, factor, residual, scale, space.part);
    for (int64_t i = 0; i < rank; ++i) {
      scale[i] = 1 / (scale[i] > 0 ? scale[i] : T(1));
      direction[i] = scale[i] * residual[i];
    }
    size[c] = inner(residual, direction, rank);
  }
  for (int64_t step = 0; step < side.cg_steps; ++step) {
    by_gram(space.direction);
    for (int64_t c = 0; c < work.rows; ++c) {
      if (work.still[c]) continue;
      const int64_t row = work.taken[c].row->row;
      const T share = work.share(row), reg = side.reg[row];
      T *x = space.x + c * rank, *residual = space.residual + c * rank, *moved = space.moved + c * rank;
      T *scale = space.scale + c * rank, *direction = space.direction + c * rank;
      for (int64_t p = 0; p < np; ++p) {
        const Vec<T> held = load<T>(direction + p * V<T>) * reg;
        store<T>(moved + p * V<T>, side.gram ? held + load<T>(space.tile.of(c, p)) * share : held);
      }
      if (side.held_bias) {
        const int64_t b = side.columns - 1;
        moved[b] += (side.reg_bias[row] - reg) * direction[b];
      }
      const Numbers<T> numbers = work.taken[c].numbers;
      auto factor = [&](int64_t at, T score) {
        numbers.move[at] = score;
        return numbers.w[at] * score;
      };
      add_entries<T, false>(side, work.runs, work.taken[c], direction, factor, moved, moved, space.part);
      const double under = inner(direction, moved, rank);
      const T length = under > 0 ? T(size[c] / under) : T(0);
      for (int64_t i = 0; i < rank; i += V<T>) {
        store<T>(x + i, load<T>(x + i) + length * load<T>(direction + i));
        const Vec<T> left = load<T>(residual + i) - length * load<T>(moved + i);
        store<T>(residual + i, left);
        store<T>(moved + i, load<T>(scale + i) * left);  // preconditioned
      }
      if (side.value)
        for (int64_t e = 0; e < work.taken[c].row->entries; ++e) numbers.score[e] += length * numbers.move[e];
      const double now = inner(residual, moved, rank);
      const T onward = size[c] > 0 ? T(now / size[c]) : T(0);
      for (int64_t i = 0; i < rank; i += V<T>)
        store<T>(direction + i, load<T>(moved + i) + onward * load<T>(direction + i));
      size[c] = now;
    }
  }
}

// ---- a block of columns at a time ----

// Gathers columns first ... first + size - 1 of a block's entries into panels, with zeros behind them.
template <class T>
INLINE void gather(const Side<T>& side, const Block& block, int64_t first, int64_t size, const StepSpace<T>& space) {
  const int64_t full = size / V<T>;
  with_table(side, [&](auto* table) INLINE_LAMBDA {
    for (int64_t s = 0; s < block.n; ++s) {
      const auto* from = table + block.other[s] * side.rank + first;
      T* to = space.z + s * V<T>;
      for (int64_t v = 0; v < full; ++v) store<T>(to + v * space.entries * V<T>, load<T>(from + v * V<T>));
      if (full < space.np) {
        store<T>(to + full * space.entries * V<T>, load_some<T>(from + full * V<T>, size - full * V<T>));
        for (int64_t v = full + 1; v < space.np; ++v) store<T>(to + v * space.entries * V<T>, Vec<T>{});
      }
    }
  });
}

// Adds what a row's next entries, which have been gathered, are to the block's system.
template <class T>
INLINE void add_to_block(const StepSpace<T>& space, const Numbers<T>& numbers, int64_t at, int64_t n, T* matrix, T* rhs) {
  const int64_t np = space.np, step = space.entries * V<T>;
  bool plain = true;
  for (int64_t s = 0; s < n; ++s) {
    plain &= numbers.w[at + s] == 1;
    numbers.move[at + s] = numbers.p[at + s] - numbers.w[at + s] * numbers.score[at + s];
  }
  if (!plain)
    for (int64_t v = 0; v < np; ++v)
      for (int64_t s = 0; s < n; ++s)
        store<T>(space.wz + v * step + s * V<T>, load<T>(space.z + v * step + s * V<T>) * numbers.w[at + s]);
  const T* right = plain ? space.z : space.wz;
  for (int64_t q = 0; q < np; ++q) {
    auto left = [&](int64_t p) { return space.z + p * step; };
    multiply<T, 1>(matrix, q, np, left, right + q * step, n, [] {});
    weigh<T, 1>(rhs + q * V<T>, left(q), numbers.move + at, n);
  }
}

// The scores of a row's next entries, which have been gathered, move with the block's columns.
template <class T>
INLINE void move_scores(const StepSpace<T>& space, const T* by, T* score, int64_t n) {
  for (int64_t s = 0; s < n; s += V<T>) {
    Vec<T> sums[V<T>] = {};
    for (int64_t v = 0; v < space.np; ++v) {
      const Vec<T> y = load<T>(by + v * V<T>);
      UNROLL for (int i = 0; i < V<T>; ++i) sums[i] += load<T>(space.z + (v * space.entries + s + i) * V<T>) * y;
    }
    const Vec<T> moved = lane_sums<T>(sums);
    for (int64_t i = 0; i < std::min<int64_t>(V<T>, n - s); ++i) score[s + i] += moved[i];
  }
}

template <class T>
void solve_block(Work<T>& work, int64_t c, int64_t first, int64_t size) {
  const Side<T>& side = work.side;
  const StepSpace<T>& space = work.space;
  const int64_t rank = side.rank, np = space.np, row = work.taken[c].row->row, entries = work.taken[c].row->entries;
  const Numbers<T> numbers = work.taken[c].numbers;
  T *x = space.x + c * rank + first, *matrix = space.matrix, *rhs = space.rhs;
  const bool chunks = entries > kChunk;
  std::memset(matrix, 0, StepSpace<T>::systems(np) * sizeof(T));
  if (chunks) std::memset(space.sum, 0, StepSpace<T>::systems(np) * sizeof(T));
  Blocks<T> blocks(side, work.runs, work.taken[c].row, 1, space.entries);
  Block now = blocks.next(), last = now;
  for (int64_t at = 0, in_chunk = 0; now.n; now = blocks.next()) {
    gather(side, now, first, size, space);
    add_to_block(space, numbers, at, now.n, matrix, rhs);
    at += now.n, in_chunk += now.n, last = now;
    if (chunks && (in_chunk >= kChunk || at == entries)) {
      for (size_t i = 0; i < StepSpace<T>::systems(np); i += V<T>) {
        store<T>(space.sum + i, load<T>(space.sum + i) + load<T>(matrix + i));
        store<T>(matrix + i, Vec<T>{});
      }
      in_chunk = 0;
    }
  }
  if (chunks) matrix = space.sum, rhs = matrix + triangle<T>(np);

  const T *m = work.prior(row), share = work.share(row);
  auto at = [&](int64_t i, int64_t j) -> T& { return matrix[triangle<T>(i / V<T>) + j * V<T> + i % V<T>]; };
  for (int64_t i = 0; i < np * V<T>; ++i) {
    if (i >= size) {
      at(i, i) = 1;
      continue;
    }
    const T lambda = work.lambda(row, first + i);
    at(i, i) += lambda;
    rhs[i] += lambda * ((m ? m[first + i] : T(0)) - x[i]);
    if (!side.gram) continue;
    rhs[i] -= share * space.tile.of(c, i / V<T>)[i % V<T>];
  }
  for (int64_t p = 0; side.gram && p < np; ++p) {
    T* to = matrix + triangle<T>(p);
    const int64_t lanes = std::min<int64_t>(V<T>, size - p * V<T>);
    for (int64_t j = 0; j < std::min((p + 1) * V<T>, size); ++j) {  // row j of a symmetric matrix for its column j
      const T* from = side.gram + (first + j) * rank + first + p * V<T>;
      store<T>(to + j * V<T>, load<T>(to + j * V<T>) + share * load_some<T>(from, lanes));
    }
  }
  T largest = 0;
  for (int64_t i = 0; side.strict[row] && i < size; ++i) largest = std::max(largest, at(i, i));
  T* sides[1] = {rhs};
  const T least = factor<T, 1>(matrix, np, sides, space.inverse);
  if (!(least > (side.strict[row] ? size * std::numeric_limits<T>::epsilon() * largest : T(0)))) {
    work.fine[c] = false, work.still[c] = true;
    return;
  }
  solve_back(matrix, np, rhs, space.inverse);
  for (int64_t i = 0; i < size; ++i) {
    x[i] += rhs[i];
    space.tile.across[(first + i) * V<T> + c] = x[i];
  }
  const bool gathered = last.n == entries;  // all at once: they are there still
  Blocks<T> again(side, work.runs, work.taken[c].row, 1, space.entries);
  int64_t done = 0;
  for (now = again.next(); now.n; now = again.next()) {
    if (!gathered) gather(side, now, first, size, space);
    move_scores(space, rhs, numbers.score + done, now.n);
    done += now.n;
  }
}

template <class T>
void block_by_block(Work<T>& work) {
  const Side<T>& side = work.side;
  const StepSpace<T>& space = work.space;
  const int64_t rank = side.rank, block = block_columns(side);
  for (int64_t c = 0; c < work.rows; ++c) {
    if (work.still[c]) continue;
    T* score = work.taken[c].numbers.score;
    const T* x = space.x + c * rank;
    work.taken[c].each_few(side, work.runs, [&](auto few, int64_t at, auto* z) INLINE_LAMBDA {
      const Vec<T> scores = scores_of<T, decltype(few)::value>(z, x, rank);
      for (int e = 0; e < decltype(few)::value; ++e) score[at + e] = scores[e];
    });
  }
  if (side.gram) space.tile.turn(space.x, rank);
  const T* packed = side.packed;
  for (int64_t first = 0; first < side.columns; first += block) {
    const int64_t size = std::min(block, side.columns - first), end = std::min(first + block, rank);
    const int64_t np = panels<T>(end - first);
    if (side.gram) space.tile.by_gram(packed, np, rank);
    packed += np * rank * V<T>;
    for (int64_t c = 0; c < work.rows; ++c)
      if (!work.still[c]) solve_block(work, c, first, size);
  }
}

// ---- what the threads call ----

template <class T>
void step(const Side<T>& side, const Run* runs, const Row* rows, int64_t count, char* memory) {
  const StepSpace<T> space(side, memory);
  TileNumbers<T> heap;
  for (int64_t first = 0; first < count; first += V<T>) {
    Work<T> work{side, runs, space, {}, 0, {}, {}};
    work.start(rows + first, std::min<int64_t>(V<T>, count - first), heap);
    const_cast<StepSpace<T>&>(space).tile.rows = work.rows;
    side.cg_steps ? conjugate_gradients(work) : block_by_block(work);
    work.finish();
  }
}

}  // namespace

template <class T>
Kernel<T> make_steps(const Side<T>& side) {
  const int64_t block = block_columns(side), blocks = side.columns / block + 1;
  const size_t packed = blocks * panels<T>(block) * V<T> * side.rank;
  return {StepSpace<T>::bytes(side.rank, block, side.cg_steps), 0, V<T>, packed, pack<T>, step<T>, nullptr, nullptr};
}

template Kernel<float> make_steps(const Side<float>& side);
template Kernel<double> make_steps(const Side<double>& side);

}  // namespace JALS_ISA
}  // namespace jals
