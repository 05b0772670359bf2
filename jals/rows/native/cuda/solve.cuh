// A row's system, once its entries are added up: the prior's part, the Cholesky factor, the solution and what else is
// wanted. The formulas are those of jals/rows/normal.py; what is done in double is what kernel.cpp does in double.
#pragma once

#include "room.cuh"

namespace jals {
namespace cuda {

// kPanel numbers, 16 bytes at a time: where they are asked for, panels and columns lie so.
template <class T>
DEVICE void load_panel(const T* from, T (&to)[kPanel]) {
  constexpr int each = 16 / sizeof(T);
  struct alignas(16) Some {
    T number[each];
  };
  UNROLLED for (int c = 0; c < kPanel; c += each) {
    const Some some = *reinterpret_cast<const Some*>(from + c);
    UNROLLED for (int i = 0; i < each; ++i) to[c + i] = some.number[i];
  }
}

// ---- the system ----

// Adds gram + P to the matrix, and P m to the right-hand side; or makes them (identity, m) in a blank row. Returns this
// thread's share of the loss at x = 0 that is the prior's, where there is no start.
template <class Sums, class T = typename Sums::Number>
DEVICE double add_prior(const Work<T>& work, int64_t row, const Room<Sums>& room) {
  const Operands<T>& side = work.side;
  const int k = room.k, rank = static_cast<int>(side.rank);
  const bool blank = side.blank[row];
  const T* m = side.prior ? side.prior + (side.prior_per_row ? row * k : 0) : nullptr;
  const T* precision = side.precision ? side.precision + (side.precision_per_row ? row * k * k : 0) : nullptr;
  const T share = side.pairs ? side.pairs[row] : T(1);
  auto reg = [&](int i) { return i < rank ? side.reg[row] : side.reg_bias[row]; };
  for (int j = warp(); j < room.n; j += threads() / kWarp) {
    T* column = room.column(j);
    for (int i = j + lane(); i < room.n; i += kWarp) {
      if (blank || i >= k) {
        column[i] = T(i == j);
        continue;
      }
      // Row j of a symmetric matrix for its column j.
      if (side.gram) column[i] += share * side.gram[int64_t(j) * k + i];
      if (precision) column[i] += precision[int64_t(j) * k + i];
      if (i == j) column[i] += reg(i);
    }
  }
  double constant = 0;
  for (int i = thread(); i < room.n; i += threads()) {
    if (blank || i >= k) room.rhs()[i] = m && i < k ? m[i] : T(0);
    if (!m || i >= k) continue;
    if (blank) {
      constant += double(m[i]) * m[i];  // the loss is 0 at x = m
      continue;
    }
    double pull = double(m[i]) * reg(i);
    if (precision)
      for (int j = 0; j < k; ++j) pull += double(precision[int64_t(j) * k + i]) * m[j];
    room.rhs()[i] += T(pull);
    if (!side.start) constant += pull * m[i];
  }
  __syncthreads();
  return constant;
}

// |A|_F and |b|: in double, and scaled, so that no square leaves its range.
template <class Sums, class Each>
DEVICE double norm(const Room<Sums>& room, Each each) {
  double largest = 0, total = 0;
  each([&](double number, int) { largest = fabs(number) <= largest ? largest : fabs(number); });
  largest = block_max(largest, room.of_warps());
  if (!(largest > 0) || isinf(largest)) return largest;
  const double unit = ldexp(1.0, ilogb(largest));
  each([&](double number, int times) { total += times * (number / unit) * (number / unit); });
  return unit * sqrt(block_sum(total, room.of_warps()));
}

template <class Sums, class T = typename Sums::Number>
DEVICE void write_norms(const Room<Sums>& room, T* to) {
  const double of_matrix = norm(room, [&](auto&& add) {
    for (int j = warp(); j < room.k; j += threads() / kWarp)
      for (int i = j + lane(); i < room.k; i += kWarp) add(room.column(j)[i], i == j ? 1 : 2);
  });
  const double of_rhs = norm(room, [&](auto&& add) {
    for (int i = thread(); i < room.k; i += threads()) add(room.rhs()[i], 1);
  });
  if (thread() == 0) to[0] = T(of_matrix), to[1] = T(of_rhs);
}

// ---- its solution ----

// A = L L' in place, and L^-1 rhs in rhs's. Returns the least pivot, NaN where one is.
template <class Sums, class T = typename Sums::Number>
DEVICE T factor(const Room<Sums>& room) {
  const int n = room.n;
  T least = room.column(0)[0];
  for (int first = 0; first < n; first += kPanel) {
    T* panel = room.matrix() + panel_at(room.n, first) - first;
    const int height = room.height(first);
    for (int r = first + thread(); r < n; r += threads()) {
      T own[kPanel];
      UNROLLED for (int c = 0; c < kPanel; ++c) own[c] = panel[c * height + r];
      for (int done = 0; done < first; done += kPanel) {  // less what the columns before contribute
        const T* column = room.matrix() + panel_at(room.n, done) - done;
        const int far = room.height(done);
        UNROLLED for (int p = 0; p < kPanel; ++p) {
          T top[kPanel];
          load_panel(column + p * far + first, top);
          const T here = column[p * far + r];
          UNROLLED for (int c = 0; c < kPanel; ++c) own[c] -= here * top[c];
        }
      }
      const int in = r - first;
      if (in < kPanel) {
        UNROLLED for (int c = 0; c < kPanel; ++c)
          if (c <= in) room.diagonal()[in * (kPanel + 1) + c] = own[c];
        room.diagonal()[in * (kPanel + 1) + kPanel] = room.rhs()[r];
      } else {
        UNROLLED for (int c = 0; c < kPanel; ++c) panel[c * height + r] = own[c];
      }
    }
    __syncthreads();
    // Every thread factors the square at the top for itself, and solves for its right-hand side.
    T square[kPanel][kPanel], y[kPanel], inverse[kPanel];
    UNROLLED for (int r = 0; r < kPanel; ++r) {
      UNROLLED for (int c = 0; c <= r; ++c) square[r][c] = room.diagonal()[r * (kPanel + 1) + c];
      y[r] = room.diagonal()[r * (kPanel + 1) + kPanel];
    }
    UNROLLED for (int c = 0; c < kPanel; ++c) {
      const T pivot = square[c][c];
      if (first + c < room.k && !(pivot >= least)) least = pivot;
      square[c][c] = sqrt(pivot);
      inverse[c] = T(1) / square[c][c];
      y[c] *= inverse[c];
      UNROLLED for (int r = c + 1; r < kPanel; ++r) {
        square[r][c] *= inverse[c];
        y[r] -= square[r][c] * y[c];
        UNROLLED for (int d = c + 1; d <= r; ++d) square[r][d] -= square[r][c] * square[d][c];
      }
    }
    for (int r = first + kPanel + thread(); r < n; r += threads()) {
      T own[kPanel], rhs = room.rhs()[r];
      UNROLLED for (int c = 0; c < kPanel; ++c) own[c] = panel[c * height + r];
      UNROLLED for (int c = 0; c < kPanel; ++c) {
        own[c] *= inverse[c];
        UNROLLED for (int d = c + 1; d < kPanel; ++d) own[d] -= own[c] * square[d][c];
        rhs -= own[c] * y[c];
        panel[c * height + r] = own[c];
      }
      room.rhs()[r] = rhs;
    }
    if (thread() == threads() - 1)
      UNROLLED for (int c = 0; c < kPanel; ++c) {
        UNROLLED for (int r = c; r < kPanel; ++r) panel[c * height + first + r] = square[r][c];
        room.scale()[first + c] = inverse[c];
        room.rhs()[first + c] = y[c];
      }
    __syncthreads();
  }
  return least;
}

// x = L^-T rhs; what is in rhs is used up.
template <class Sums, class T = typename Sums::Number>
DEVICE void solve_back(const Room<Sums>& room) {
  for (int first = room.n - kPanel; first >= 0; first -= kPanel) {
    const T* panel = room.matrix() + panel_at(room.n, first);
    const int height = room.height(first);
    T x[kPanel];
    load_panel(room.rhs() + first, x);
    UNROLLED for (int c = kPanel - 1; c >= 0; --c) {
      x[c] *= room.scale()[first + c];
      UNROLLED for (int d = 0; d < c; ++d) x[d] -= panel[d * height + c] * x[c];
    }
    for (int r = thread(); r < first; r += threads()) {
      T below[kPanel], rest = room.rhs()[r];
      load_panel(room.column(r) + first, below);
      UNROLLED for (int c = 0; c < kPanel; ++c) rest -= below[c] * x[c];
      room.rhs()[r] = rest;
    }
    if (thread() == threads() - 1)
      UNROLLED for (int c = 0; c < kPanel; ++c) room.x()[first + c] = x[c];
    __syncthreads();
  }
}

// ---- what else is wanted ----

// d'A d for d = start - x: |L'd|^2.
template <class Sums, class T = typename Sums::Number>
DEVICE double fall_from(const Room<Sums>& room, const T* start) {
  double sum = 0;
  for (int j = warp(); j < room.k; j += threads() / kWarp) {
    const T* column = room.column(j);
    T product = 0;
    for (int i = j + lane(); i < room.k; i += kWarp) product += column[i] * (start[i] - room.x()[i]);
    product = warp_sum(product);
    if (lane() == 0) sum += double(product) * product;
  }
  return block_sum(sum, room.of_warps());
}

template <class Sums, class T = typename Sums::Number>
DEVICE void write_factor(const Room<Sums>& room, T* to) {
  for (int i = warp(); i < room.k; i += threads() / kWarp)
    for (int j = lane(); j < room.k; j += kWarp) to[int64_t(i) * room.k + j] = j > i ? T(0) : room.column(j)[i];
}

// (L L')^-1: a thread a column, from its diagonal down, kept where it will lie; and what lies across.
template <class Sums, class T = typename Sums::Number>
DEVICE void write_inverse(const Room<Sums>& room, T* to) {
  const int64_t k = room.k;
  for (int c = thread(); c < k; c += threads()) {
    T* own = to + c;
    for (int i = c; i < k; ++i) {  // L^-1 of the unit vector
      T sum = T(i == c);
      for (int j = c; j < i; ++j) sum -= room.column(j)[i] * own[j * k];
      own[i * k] = sum * room.scale()[i];
    }
    for (int i = room.k - 1; i >= c; --i) {
      T sum = own[i * k];
      for (int j = i + 1; j < k; ++j) sum -= room.column(i)[j] * own[j * k];
      own[i * k] = to[c * k + i] = sum * room.scale()[i];
    }
  }
}

template <class T>
DEVICE void fill(T* to, int64_t count, T number) {
  for (int64_t i = thread(); i < count; i += threads()) to[i] = number;
}

// Solves a row whose entries are added up in the room; `constant`: this thread's share of their loss.
template <class Sums, class T = typename Sums::Number>
DEVICE void solve_row(const Work<T>& work, int64_t row, const Room<Sums>& room, double constant) {
  const Operands<T>& side = work.side;
  const int64_t k = room.k;
  const T nan = not_a_number<T>();
  const bool blank = side.blank[row];
  if (blank) constant = 0;
  constant += add_prior(work, row, room);
  if (side.rhs) {
    for (int i = thread(); i < k; i += threads()) room.rhs()[i] = side.rhs[row * k + i];
    __syncthreads();
  }
  if (side.norms) write_norms(room, side.norms + 2 * row);
  if (side.value) constant = block_sum(constant, room.of_warps());
  T bound = 0;
  if (side.strict[row]) {
    double largest = 0;
    for (int i = thread(); i < k; i += threads()) largest = fmax(largest, double(room.column(i)[i]));
    bound = T(k) * epsilon<T>() * T(block_max(largest, room.of_warps()));
  }
  bool good = factor(room) > bound;
  T* x = side.x + row * k;
  double value = nan;
  if (good) {  // so in all threads
    double square = 0, finite = 0;
    if (side.value && !side.start) {
      for (int i = thread(); i < k; i += threads()) square += double(room.rhs()[i]) * room.rhs()[i];
      value = constant - block_sum(square, room.of_warps());
    }
    solve_back(room);
    for (int i = thread(); i < k; i += threads()) {
      x[i] = room.x()[i];
      finite += double(room.x()[i]) * 0;
    }
    good = block_sum(finite, room.of_warps()) == 0;
    if (good && side.value && side.start) value = blank ? 0 : constant - fall_from(room, side.start + row * k);
  }
  if (!good) fill(x, k, nan);
  if (thread() == 0) {
    side.good[row] = good;
    if (side.value) side.value[row] = good ? T(value) : nan;
  }
  if (side.cholesky) {
    if (good) write_factor(room, side.cholesky + row * k * k);
    else fill(side.cholesky + row * k * k, k * k, nan);
  }
  if (side.inverse) {
    if (good) write_inverse(room, side.inverse + row * k * k);
    else fill(side.inverse + row * k * k, k * k, nan);
  }
}

}  // namespace cuda
}  // namespace jals
