// The rows' systems: gathered, added up in registers, factored and solved in cache.
//
// Compiled once for each instruction set, see panels.hpp.

#include "kernel.hpp"

#include "entries.hpp"

namespace jals {
namespace JALS_ISA {
namespace {

// ---- one row's sums ----

// A x = b of one row, where A = [matrix border; border' corner] and b = [rhs corner_rhs]; without a bias only `matrix`
// and `rhs` count. `constant` is the loss at x = 0.
template <class T>
struct Sums {
  T* matrix;  // panels of the lower triangle
  T* rhs;     // (panels V)
  T* border;  // (panels V)
  double* scalars;  // corner, corner_rhs, constant

  double& corner() const { return scalars[0]; }
  double& corner_rhs() const { return scalars[1]; }
  double& constant() const { return scalars[2]; }

  static size_t bytes(int64_t np) {
    return 64 * ((triangle<T>(np) + 2 * np * V<T>)*sizeof(T) / 64 + 2);
  }
  static Sums at(char* memory, int64_t np) {
    T* matrix = reinterpret_cast<T*>(memory);
    T* rhs = matrix + triangle<T>(np);
    T* border = rhs + np * V<T>;
    return {matrix, rhs, border, reinterpret_cast<double*>(memory + bytes(np) - 64)};
  }
  static void clear(char* memory, int64_t np) { std::memset(memory, 0, bytes(np)); }
  // Adds other sums that lie at `more`.
  void add(const char* more, int64_t np) const {
    const T* from = reinterpret_cast<const T*>(more);
    const int64_t numbers = triangle<T>(np) + 2 * np * V<T>;
    for (int64_t i = 0; i < numbers; i += V<T>) store<T>(matrix + i, load<T>(matrix + i) + load<T>(from + i));
    const double* d = reinterpret_cast<const double*>(more + bytes(np) - 64);
    for (int i = 0; i < 3; ++i) scalars[i] += d[i];
  }
};

// Entries gathered at a time: both panels of them stay in the first-level cache.
template <class T>
constexpr int64_t block_entries(int64_t np) {
  return std::clamp<int64_t>(16384 / (np * JALS_BYTES) / 8 * 8, 16, 128);
}

template <class T>
struct Workspace {
  int64_t np, entries, tiles;  // tiles: calls of `block` that one `multiply` of all columns makes
  char *chunk, *sums;  // Sums of the present chunk, and of all
  T *z, *wz;           // panels of the entries, and times w
  T *w, *p;            // (entries), zero beyond the last
  T *scale;            // (np V): 1 / (a diagonal element of the factor)
  T *start;            // (np V): the row's, with zeros behind it
  T *columns;          // (np V, V): those that `invert` is at work on

  static size_t bytes(int64_t rank) {
    const int64_t np = panels<T>(rank), entries = block_entries<T>(np);
    return 2 * Sums<T>::bytes(np) + sizeof(T) * (2 * entries * np * V<T> + 2 * (entries + 64) + (2 + V<T>) * np * V<T>) + 64;
  }
  Workspace(int64_t rank, char* memory) : np(panels<T>(rank)), entries(block_entries<T>(np)), tiles(0) {
    for (int64_t rest = 1; rest <= np; ++rest)
      tiles += (rest == 4 ? 2 : (rest + kPanels - 1) / kPanels) * (V<T> / kColumns<T>);
    chunk = memory;
    sums = chunk + Sums<T>::bytes(np);
    z = reinterpret_cast<T*>(sums + Sums<T>::bytes(np));
    wz = z + entries * np * V<T>;
    w = wz + entries * np * V<T>;
    p = w + entries + 64;
    scale = p + entries + 64;
    start = scale + np * V<T>;
    columns = start + np * V<T>;
  }
};

// w and p of each of a block's entries, 0 beyond the last; adds to the loss at x = 0. Returns whether all w are 1.
template <class T>
bool weigh_entries(const Side<T>& side, const Block& block, const Workspace<T>& space, double& loss) {
  Vec<T> losses = {};
  Mask<T> others = {}, lanes = lane_numbers<T>();
  for (int64_t s = 0; s < block.n; s += V<T>) {
    const int64_t n = std::min<int64_t>(V<T>, block.n - s);
    const Entries<T> e = read_entries(side, block, s, n);
    store<T>(space.w + s, e.w);
    store<T>(space.p + s, e.w * e.gap + e.q);
    losses += e.loss(e.gap);
    others |= (e.w != 1) & (lanes < static_cast<Int<T>>(n));
  }
  if (!side.start) loss += total<T>(losses);
  Int<T> any = 0;
  for (int i = 0; i < V<T>; ++i) any |= others[i];
  return any == 0;
}

// The loss of a block's entries, which have been gathered, at the row's start.
template <class T>
double loss_at_start(const Side<T>& side, const Block& block, const Workspace<T>& space, int64_t row) {
  const T bias = side.held_bias ? side.start[row * side.unknowns() + side.rank] : T(0);
  Vec<T> losses = {};
  const Mask<T> lanes = lane_numbers<T>();
  for (int64_t s = 0; s < block.n; s += V<T>) {
    const int64_t n = std::min<int64_t>(V<T>, block.n - s);
    Vec<T> scores[V<T>] = {};
    for (int64_t v = 0; v < space.np; ++v) {
      const Vec<T> y = load<T>(space.start + v * V<T>);
      UNROLL for (int i = 0; i < V<T>; ++i) scores[i] += load<T>(space.z + (v * space.entries + s + i) * V<T>) * y;
    }
    const Entries<T> e = read_entries(side, block, s, n);
    const Vec<T> left = e.gap - lane_sums<T>(scores) - bias;
    losses += lanes < static_cast<Int<T>>(n) ? e.loss(left) : Vec<T>{};  // nothing was gathered beyond the last
  }
  return total<T>(losses);
}

// Adds a block's entries to the chunk's sums: NaN where they cannot be read, so that the row has no solution. Meanwhile
// the block that follows is fetched into the cache.
template <class T>
void add_block(const Side<T>& side, int64_t row, const Block& block, const Block& ahead, const Workspace<T>& space) {
  const int64_t np = space.np, n = block.n, size = space.entries, full = side.rank / V<T>;
  const Sums<T> sums = Sums<T>::at(space.chunk, np);

  if (!readable(side, block)) {
    sums.matrix[0] = std::numeric_limits<T>::quiet_NaN();
    return;
  }
  const bool plain = weigh_entries(side, block, space, sums.constant());

  with_table(side, [&](auto* table) INLINE_LAMBDA {
    for (int64_t s = 0; s < n; ++s) {
      const auto* from = table + block.other[s] * side.rank;
      T* to = space.z + s * V<T>;
      for (int64_t v = 0; v < full; ++v) store<T>(to + v * size * V<T>, load<T>(from + v * V<T>));
      if (full < np) store<T>(to + full * size * V<T>, load_some<T>(from + full * V<T>, side.rank - full * V<T>));
    }
  });
  if (side.start) sums.constant() += loss_at_start(side, block, space, row);
  const T* right = space.z;
  if (!plain) {
    right = space.wz;
    for (int64_t v = 0; v < np; ++v)
      for (int64_t s = 0; s < n; ++s) {
        const int64_t at = (v * size + s) * V<T>;
        store<T>(space.wz + at, load<T>(space.z + at) * space.w[s]);
      }
  }

  // The next block's rows are fetched a few at a time: a core keeps few requests under way.
  int64_t fetched = 0, share = 1 + ahead.n / space.tiles;
  auto fetch_ahead = [&] {
    prefetch(side, ahead, fetched, fetched + share);
    fetched += share;
  };
  for (int64_t q = 0; q < np; ++q) {
    auto left = [&](int64_t p) { return space.z + p * size * V<T>; };
    multiply<T, 1>(sums.matrix, q, np, left, right + q * size * V<T>, n, fetch_ahead);
    weigh<T, 1>(sums.rhs + q * V<T>, left(q), space.p, n);
    if (side.held_bias) weigh<T, 1>(sums.border + q * V<T>, left(q), space.w, n);
  }
  if (side.held_bias) {
    sums.corner() += total<T>(space.w, n);
    sums.corner_rhs() += total<T>(space.p, n);
  }
}

// Adds up all entries of `row`, whose first block is `now`; leaves the block after the row in `now`.
template <class T>
Sums<T> add_row(const Side<T>& side, const Row& row, Blocks<T>& blocks, Block& now, const Workspace<T>& space) {
  const int64_t np = space.np;
  Sums<T>::clear(space.chunk, np);
  const bool chunks = row.entries > kChunk;
  if (chunks) Sums<T>::clear(space.sums, np);
  if (side.start) {
    std::memset(space.start, 0, np * V<T> * sizeof(T));
    std::copy_n(side.start + row.row * side.unknowns(), side.rank, space.start);
  }
  int64_t left = row.entries, in_chunk = 0;
  while (left > 0) {
    const Block ahead = blocks.next();
    add_block(side, row.row, now, ahead, space);
    left -= now.n;
    in_chunk += now.n;
    now = ahead;
    if (chunks && (in_chunk >= kChunk || left == 0)) {
      Sums<T>::at(space.sums, np).add(space.chunk, np);
      if (left > 0) Sums<T>::clear(space.chunk, np);
      in_chunk = 0;
    }
  }
  return Sums<T>::at(chunks ? space.sums : space.chunk, np);
}

// ---- one row's solution ----

// Adds gram + P to the matrix, and P m to the right-hand side; or makes them (identity, m) in a blank row. Without a
// start, the prior's part of the loss at x = 0 joins the constant.
template <class T>
void add_prior(const Side<T>& side, int64_t row, const Sums<T>& sums, int64_t np) {
  const int64_t rank = side.rank, k = side.unknowns();
  const bool bias = side.held_bias != nullptr;
  const T* m = side.prior ? side.prior + (side.prior_per_row ? row * k : 0) : nullptr;
  auto at = [&](int64_t i, int64_t j) -> T& {  // i in the same panel as j, or a later one
    return sums.matrix[triangle<T>(i / V<T>) + j * V<T> + i % V<T>];
  };
  if (side.blank[row]) {
    std::memset(sums.matrix, 0, sizeof(T) * (triangle<T>(np) + 2 * np * V<T>));
    for (int64_t i = 0; i < np * V<T>; ++i) at(i, i) = 1;
    for (int64_t i = 0; m && i < rank; ++i) sums.rhs[i] = m[i];
    sums.corner() = 1;
    sums.corner_rhs() = m && bias ? m[rank] : 0;
    sums.constant() = 0;  // |m|^2: the loss is 0 at x = m
    for (int64_t i = 0; m && i < k; ++i) sums.constant() += double(m[i]) * m[i];
    return;
  }
  const T* precision = side.precision ? side.precision + (side.precision_per_row ? row * k * k : 0) : nullptr;
  for (const T* whole : {side.gram, precision}) {
    if (!whole) continue;
    const T share = whole == side.gram && side.pairs ? side.pairs[row] : T(1);
    for (int64_t p = 0; p < np; ++p) {
      const int64_t lanes = std::min<int64_t>(V<T>, rank - p * V<T>);
      const int64_t columns = std::min<int64_t>((p + 1) * V<T>, rank);
      T* to = sums.matrix + triangle<T>(p);
      if (lanes == V<T>) {
        for (int64_t j = 0; j < columns; ++j)  // row j of a symmetric matrix for its column j
          store<T>(to + j * V<T>, load<T>(to + j * V<T>) + share * load<T>(whole + j * k + p * V<T>));
      } else {
        for (int64_t j = 0; j < columns; ++j)
          for (int64_t i = 0; i < lanes; ++i) to[j * V<T> + i] += share * whole[j * k + p * V<T> + i];
      }
    }
    if (bias) {
      for (int64_t i = 0; i < rank; ++i) sums.border[i] += share * whole[rank * k + i];
      sums.corner() += share * whole[rank * k + rank];
    }
  }
  for (int64_t i = 0; i < rank; ++i) at(i, i) += side.reg[row];
  for (int64_t i = rank; i < np * V<T>; ++i) at(i, i) = 1;
  if (bias) sums.corner() += side.reg_bias[row];
  if (!m) return;
  for (int64_t i = 0; i < k; ++i) {
    double pull = double(m[i]) * (i < rank ? side.reg[row] : side.reg_bias[row]);
    for (int64_t j = 0; precision && j < k; ++j) pull += double(precision[i * k + j]) * m[j];
    if (!side.start) sums.constant() += pull * m[i];
    if (i < rank) sums.rhs[i] += T(pull);
    else sums.corner_rhs() += pull;
  }
}

// |A|_F and |b|, as they are before they are solved: in double, and scaled, so that no square leaves its range.
template <class T>
void write_norms(const Side<T>& side, const Sums<T>& sums, T* to) {
  const bool bias = side.held_bias != nullptr;
  auto norm = [&](auto&& each) {
    double largest = 0, total = 0;
    each([&](double number, double) { largest = std::abs(number) <= largest ? largest : std::abs(number); });
    if (!(largest > 0) || std::isinf(largest)) return largest;
    const double unit = std::ldexp(1.0, std::ilogb(largest));
    each([&](double number, double times) { total += times * (number / unit) * (number / unit); });
    return unit * std::sqrt(total);
  };
  to[0] = T(norm([&](auto&& add) {
    for (int64_t j = 0; j < side.rank; ++j)
      for (int64_t i = j; i < side.rank; ++i)
        add(sums.matrix[triangle<T>(i / V<T>) + j * V<T> + i % V<T>], i == j ? 1 : 2);
    for (int64_t i = 0; bias && i < side.rank; ++i) add(sums.border[i], 2);
    if (bias) add(sums.corner(), 1);
  }));
  to[1] = T(norm([&](auto&& add) {
    for (int64_t i = 0; i < side.rank; ++i) add(sums.rhs[i], 1);
    if (bias) add(sums.corner_rhs(), 1);
  }));
}

// |L'd + away border|^2, which is (d, away)'A (d, away) but for the corner's part, for A = L L' with the border below.
template <class T>
double squared_length(const T* matrix, int64_t np, const T* d, const T* border, T away) {
  const Mask<T> lanes = lane_numbers<T>();
  double sum = 0;
  for (int64_t q = 0; q < np; ++q) {
    const T* square = matrix + triangle<T>(q) + q * V<T> * V<T>;
    Vec<T> dots[V<T>], x = load<T>(d + q * V<T>);
    UNROLL for (int j = 0; j < V<T>; ++j) dots[j] = lanes >= Int<T>(j) ? load<T>(square + j * V<T>) * x : Vec<T>{};
    for (int64_t p = q + 1; p < np; ++p) {
      const T* panel = matrix + triangle<T>(p) + q * V<T> * V<T>;
      x = load<T>(d + p * V<T>);
      UNROLL for (int j = 0; j < V<T>; ++j) dots[j] += load<T>(panel + j * V<T>) * x;
    }
    const Vec<T> product = lane_sums<T>(dots) + load<T>(border + q * V<T>) * away;
    sum += total<T>(product * product);
  }
  return sum;
}

// (L L')^-1, both triangles, into a matrix with k columns: V columns at a time, each in a lane, down to the diagonal.
template <class T>
void invert(const T* matrix, int64_t np, const T* scale, int64_t rank, int64_t k, T* columns, T* to) {
  constexpr int B = std::min(V<T>, 4);  // rows at a time
  const int64_t padded = np * V<T>;
  auto y = [&](int64_t i) { return load<T>(columns + i * V<T>); };
  for (int64_t first = 0; first < padded; first += V<T>) {
    for (int64_t i = first; i < padded; i += B) {  // y = L^-1 of the unit vectors
      const T* left = matrix + triangle<T>(i / V<T>) + i % V<T>;
      Vec<T> sum[B] = {};
      if (i < first + V<T>) UNROLL for (int b = 0; b < B; ++b) sum[b][i - first + b] = 1;
      for (int64_t j = first; j < i; ++j) {
        const Vec<T> solved = y(j);
        UNROLL for (int b = 0; b < B; ++b) sum[b] -= solved * left[j * V<T> + b];
      }
      UNROLL for (int b = 0; b < B; ++b) {
        UNROLL for (int c = 0; c < b; ++c) sum[b] -= sum[c] * left[(i + c) * V<T> + b];
        sum[b] *= scale[i + b];
        store<T>(columns + (i + b) * V<T>, sum[b]);
      }
    }
    for (int64_t i = padded - B; i >= first; i -= B) {  // L^-T y
      Vec<T> sum[B];
      UNROLL for (int b = 0; b < B; ++b) sum[b] = y(i + b);
      for (int64_t j = i + B; j < padded; ++j) {
        const T* below = matrix + triangle<T>(j / V<T>) + j % V<T> + i * V<T>;
        const Vec<T> solved = y(j);
        UNROLL for (int b = 0; b < B; ++b) sum[b] -= solved * below[b * V<T>];
      }
      const T* own = matrix + triangle<T>(i / V<T>) + i % V<T> + i * V<T>;
      UNROLL for (int b = B - 1; b >= 0; --b) {
        UNROLL for (int c = b + 1; c < B; ++c) sum[b] -= sum[c] * own[b * V<T> + c];
        sum[b] *= scale[i + b];
        store<T>(columns + (i + b) * V<T>, sum[b]);
      }
    }
    const int64_t lanes = std::min<int64_t>(V<T>, rank - first);
    for (int64_t i = first; i < rank; ++i)
      for (int64_t j = 0; j < lanes; ++j) to[i * k + first + j] = to[(first + j) * k + i] = columns[i * V<T> + j];
  }
}

template <class T>
void solve_row(const Side<T>& side, int64_t row, const Sums<T>& sums, const Workspace<T>& space) {
  const int64_t rank = side.rank, k = side.unknowns(), np = space.np, padded = np * V<T>;
  const bool bias = side.held_bias != nullptr;
  add_prior(side, row, sums, np);
  if (side.rhs) {
    for (int64_t i = 0; i < rank; ++i) sums.rhs[i] = side.rhs[row * k + i];
    if (bias) sums.corner_rhs() = side.rhs[row * k + rank];
  }
  if (side.norms) write_norms(side, sums, side.norms + 2 * row);

  T largest = bias ? T(sums.corner()) : T(0);
  if (side.strict[row])
    for (int64_t i = 0; i < rank; ++i)
      largest = std::max(largest, sums.matrix[triangle<T>(i / V<T>) + i * V<T> + i % V<T>]);

  T* sides[2] = {sums.rhs, sums.border};
  T least = bias ? factor<T, 2>(sums.matrix, np, sides, space.scale)
                 : factor<T, 1>(sums.matrix, np, sides, space.scale);
  double last = 0, corner = 0;  // the bias, and its pivot
  if (bias) {
    corner = sums.corner() - dot(sums.border, sums.border, padded);
    if (!(corner >= least)) least = T(corner);
    last = (sums.corner_rhs() - dot(sums.border, sums.rhs, padded)) / corner;
  }
  const T bound = side.strict[row] ? k * std::numeric_limits<T>::epsilon() * largest : T(0);
  bool good = least > bound;

  T* x = side.x + row * k;
  if (good) {
    if (side.value && !side.start)
      side.value[row] = T(sums.constant() - dot(sums.rhs, sums.rhs, padded) - (bias ? corner * last * last : 0));
    if (bias)
      for (int64_t i = 0; i < padded; ++i) sums.rhs[i] -= T(last) * sums.border[i];
    solve_back(sums.matrix, np, sums.rhs, space.scale);
    double finite = last * 0;
    for (int64_t i = 0; i < rank; ++i) {
      x[i] = sums.rhs[i];
      finite += x[i] * 0;
    }
    if (bias) x[rank] = T(last);
    good = finite == 0;
    if (side.value && side.start) {
      const T away = bias ? side.start[row * k + rank] - x[rank] : T(0);
      for (int64_t i = 0; i < rank; ++i) space.start[i] = side.start[row * k + i] - x[i];
      const double fall = squared_length(sums.matrix, np, space.start, sums.border, away) + corner * away * away;
      side.value[row] = side.blank[row] ? T(0) : T(sums.constant() - fall);
    }
  }
  if (!good) {
    for (int64_t i = 0; i < k; ++i) x[i] = std::numeric_limits<T>::quiet_NaN();
    if (side.value) side.value[row] = std::numeric_limits<T>::quiet_NaN();
  }
  side.good[row] = good;
  if (side.cholesky) {
    T* to = side.cholesky + row * k * k;
    for (int64_t i = 0; i < rank; ++i)
      for (int64_t j = 0; j < k; ++j)
        to[i * k + j] = j > i ? 0 : sums.matrix[triangle<T>(i / V<T>) + j * V<T> + i % V<T>];
    if (bias) {
      for (int64_t j = 0; j < rank; ++j) to[rank * k + j] = sums.border[j];
      to[rank * k + rank] = T(std::sqrt(corner));
    }
    if (!good) std::fill_n(to, k * k, std::numeric_limits<T>::quiet_NaN());
  }
  if (side.inverse) {
    T* to = side.inverse + row * k * k;
    if (good) {
      invert(sums.matrix, np, space.scale, rank, k, space.columns, to);
      if (bias) {
        T* u = sums.border;  // the matrix's inverse times its border
        solve_back(sums.matrix, np, u, space.scale);
        for (int64_t i = 0; i < rank; ++i) {
          const T share = T(u[i] / corner);
          for (int64_t j = 0; j <= i; ++j) to[j * k + i] = to[i * k + j] += share * u[j];
          to[i * k + rank] = to[rank * k + i] = -share;
        }
        to[rank * k + rank] = T(1 / corner);
      }
    } else {
      std::fill_n(to, k * k, std::numeric_limits<T>::quiet_NaN());
    }
  }
}

// ---- what the threads call ----

template <class T>
void solve(const Side<T>& side, const Run* runs, const Row* rows, int64_t count, char* memory) {
  const Workspace<T> space(side.rank, memory);
  Blocks<T> blocks(side, runs, rows, count, space.entries);
  Block now = blocks.next();
  for (int64_t i = 0; i < count; ++i) solve_row(side, rows[i].row, add_row(side, rows[i], blocks, now, space), space);
}

template <class T>
void add_up(const Side<T>& side, const Run* runs, const Row& part, char* memory, char* to) {
  const Workspace<T> space(side.rank, memory);
  Blocks<T> blocks(side, runs, &part, 1, space.entries);
  Block now = blocks.next();
  const Sums<T> sums = add_row(side, part, blocks, now, space);
  std::memcpy(to, sums.matrix, Sums<T>::bytes(space.np));
}

template <class T>
void finish(const Side<T>& side, int64_t row, const char* parts, int64_t count, char* memory) {
  const Workspace<T> space(side.rank, memory);
  const size_t bytes = Sums<T>::bytes(space.np);
  std::memcpy(space.sums, parts, bytes);
  const Sums<T> sums = Sums<T>::at(space.sums, space.np);
  for (int64_t i = 1; i < count; ++i) sums.add(parts + i * bytes, space.np);
  solve_row(side, row, sums, space);
}

}  // namespace

template <class T>
Kernel<T> make(int64_t rank) {
  const size_t workspace = (Workspace<T>::bytes(rank) + 63) / 64 * 64, sums = Sums<T>::bytes(panels<T>(rank));
  return {workspace, sums, 1, 0, nullptr, solve<T>, add_up<T>, finish<T>};
}

template Kernel<float> make(int64_t rank);
template Kernel<double> make(int64_t rank);

}  // namespace JALS_ISA
}  // namespace jals
