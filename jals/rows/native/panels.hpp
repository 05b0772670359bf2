// Vectors, and matrices of them: what the kernels of one instruction set are made of.
//
// Included once for each instruction set: JALS_ISA names it, JALS_BYTES is the width of its vectors, of V numbers.
// Matrices lie in *panels*: panel p holds rows pV ... pV + V - 1 of the lower triangle, column after column. So do
// gathered entries: panel p holds numbers pV ... pV + V - 1 of each z, entry after entry. The sum of w z z' over
// entries and the updates of the factorization are then the same operation, `multiply`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#ifndef JALS_ISA
#define JALS_ISA baseline
#define JALS_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define INLINE_LAMBDA __attribute__((always_inline))

namespace jals {
namespace JALS_ISA {
namespace {

template <class T>
constexpr int V = JALS_BYTES / sizeof(T);
template <class T>
using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
using Vec __attribute__((vector_size(JALS_BYTES))) = T;
template <class T>
using Mask __attribute__((vector_size(JALS_BYTES))) = Int<T>;

// Columns and panels that `multiply` keeps in registers: 24 sums of 32 registers, 12 of 16.
template <class T>
constexpr int kColumns = std::min(V<T>, JALS_BYTES == 64 ? 8 : 4);
constexpr int kPanels = 3;

template <class T>
INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// Numbers in bfloat16, each the upper half of a float.
template <class T>
INLINE Vec<T> load(const uint16_t* from) {
  static_assert(sizeof(T) == 4, "bfloat16 widens to float");
  using Halves __attribute__((vector_size(JALS_BYTES / 2))) = uint16_t;
  using Wholes __attribute__((vector_size(JALS_BYTES))) = uint32_t;
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Wholes bits = __builtin_convertvector(halves, Wholes) << 16;
  Vec<T> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

template <class T>
INLINE void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

// ---- shuffles ----

template <class T, int J, int... I>
INLINE Vec<T> spread_(Vec<T> v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I * 0 + J)...);
}
// Lane J in every lane.
template <class T, int J>
INLINE Vec<T> spread(Vec<T> v) {
  return spread_<T, J>(v, std::make_integer_sequence<int, V<T>>{});
}

template <class T, int J, int... I>
INLINE Vec<T> with_lane_(Vec<T> v, Vec<T> from, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, from, (I == J ? I + V<T> : I)...);
}
// v, with lane J of `from`.
template <class T, int J>
INLINE Vec<T> with_lane(Vec<T> v, Vec<T> from) {
  return with_lane_<T, J>(v, from, std::make_integer_sequence<int, V<T>>{});
}

// What pairs of lanes add up to: a's in the lower half, b's in the upper one.
template <class T, int... I>
INLINE Vec<T> pair_sums(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...) + __builtin_shufflevector(a, b, (2 * I + 1)...);
}

template <class T, int Start, int... I>
INLINE Vec<T> mesh(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (Start + I / 2 + (I % 2) * V<T>)...);
}

// The sum of each of V vectors: lane j that of v[j].
template <class T>
INLINE Vec<T> lane_sums(Vec<T>* v) {
  constexpr auto lanes = std::make_integer_sequence<int, V<T>>{};
  UNROLL for (int n = V<T>; n > 1; n /= 2) {
    UNROLL for (int i = 0; i < n / 2; ++i) v[i] = pair_sums<T>(v[2 * i], v[2 * i + 1], lanes);
  }
  return v[0];
}

template <class T>
INLINE void transpose(Vec<T>* v) {
  constexpr auto lanes = std::make_integer_sequence<int, V<T>>{};
  UNROLL for (int n = V<T>; n > 1; n /= 2) {
    Vec<T> meshed[V<T>];
    UNROLL for (int i = 0; i < V<T> / 2; ++i) {
      meshed[2 * i] = mesh<T, 0>(v[i], v[i + V<T> / 2], lanes);
      meshed[2 * i + 1] = mesh<T, V<T> / 2>(v[i], v[i + V<T> / 2], lanes);
    }
    UNROLL for (int i = 0; i < V<T>; ++i) v[i] = meshed[i];
  }
}

template <class T, class F, int... J>
INLINE void each_lane_(F&& f, std::integer_sequence<int, J...>) {
  (f(std::integral_constant<int, J>{}), ...);
}
// f(0), f(1) ... f(V - 1), each with a constant.
template <class T, class F>
INLINE void each_lane(F&& f) {
  each_lane_<T>(f, std::make_integer_sequence<int, V<T>>{});
}

template <class T>
INLINE double total(Vec<T> v) {
  double sum = 0;
  for (int i = 0; i < V<T>; ++i) sum += v[i];
  return sum;
}

// The sum of n numbers, with zeros behind them.
template <class T>
INLINE double total(const T* numbers, int64_t n) {
  Vec<T> sum = {};
  for (int64_t i = 0; i < n; i += V<T>) sum += load<T>(numbers + i);
  return total<T>(sum);
}

// ---- panels ----

template <class T>
constexpr int64_t panels(int64_t rank) {
  return (rank + V<T> - 1) / V<T>;
}
// Where panel p of a lower triangle starts; it has (p + 1) V columns.
template <class T>
constexpr int64_t triangle(int64_t p) {
  return V<T> * V<T> * (p * (p + 1) / 2);
}

// Adds to (Sign < 0: takes from) NC columns of NV panels the sum over s < n of left[v][s] right[s][c]. `left` panels
// lie `step` apart; panel v of the result starts at to[v].
template <class T, int NV, int NC, int Sign>
INLINE void block(T* const* to, const T* const* left, const T* right, int64_t n) {
  Vec<T> sum[NC][NV];
  UNROLL for (int c = 0; c < NC; ++c) UNROLL for (int v = 0; v < NV; ++v) sum[c][v] = load<T>(to[v] + c * V<T>);
  const T* l[NV];
  UNROLL for (int v = 0; v < NV; ++v) l[v] = left[v];
  for (int64_t s = 0; s < n; ++s) {
    Vec<T> z[NV];
    UNROLL for (int v = 0; v < NV; ++v) z[v] = load<T>(l[v] + s * V<T>);
    UNROLL for (int c = 0; c < NC; ++c) {
      const T r = right[s * V<T> + c];
      UNROLL for (int v = 0; v < NV; ++v) sum[c][v] = Sign < 0 ? sum[c][v] - z[v] * r : sum[c][v] + z[v] * r;
    }
  }
  UNROLL for (int c = 0; c < NC; ++c) UNROLL for (int v = 0; v < NV; ++v) store<T>(to[v] + c * V<T>, sum[c][v]);
}

// Block column q of a triangle, plus or minus the sum over s of left panels q ... np - 1 times right panel q.
// left(p) and right are the panels' first vectors; `meanwhile` is called a few times on the way.
template <class T, int Sign, class Left, class Meanwhile>
INLINE void multiply(T* matrix, int64_t q, int64_t np, Left&& left, const T* right, int64_t n, Meanwhile&& meanwhile) {
  int64_t p = q;
  while (p < np) {
    const int64_t rest = np - p;
    const int64_t nv = rest == 4 ? 2 : std::min<int64_t>(rest, kPanels);
    const T* l[kPanels];
    T* to[kPanels];
    for (int64_t v = 0; v < nv; ++v) {
      l[v] = left(p + v);
      to[v] = matrix + triangle<T>(p + v) + q * V<T> * V<T>;
    }
    for (int c = 0; c < V<T>; c += kColumns<T>) {
      meanwhile();
      if (nv == 3) block<T, 3, kColumns<T>, Sign>(to, l, right + c, n);
      if (nv == 2) block<T, 2, kColumns<T>, Sign>(to, l, right + c, n);
      if (nv == 1) block<T, 1, kColumns<T>, Sign>(to, l, right + c, n);
      for (int64_t v = 0; v < nv; ++v) to[v] += kColumns<T> * V<T>;
    }
    p += nv;
  }
}

// to += Sign * sum over s < n of panel[s] * scalar[s]
template <class T, int Sign>
INLINE void weigh(T* to, const T* panel, const T* scalar, int64_t n) {
  Vec<T> sum[4] = {};
  int64_t s = 0;
  for (; s + 4 <= n; s += 4)
    UNROLL for (int i = 0; i < 4; ++i) sum[i] += load<T>(panel + (s + i) * V<T>) * scalar[s + i];
  for (; s < n; ++s) sum[0] += load<T>(panel + s * V<T>) * scalar[s];
  const Vec<T> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  store<T>(to, Sign < 0 ? load<T>(to) - all : load<T>(to) + all);
}

template <class T>
INLINE double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i += V<T>) sum += total<T>(load<T>(a + i) * load<T>(b + i));
  return sum;
}

// ---- factors ----

// Factors block column q in place and solves for its part of the right-hand sides; returns the least pivot.
template <class T, int Sides>
INLINE T factor_block(T* matrix, int64_t q, int64_t np, T* const* rhs, T* scale) {
  T* square = matrix + triangle<T>(q) + q * V<T> * V<T>;
  Vec<T> a[V<T>], b[Sides], y[Sides], scales = {};
  UNROLL for (int j = 0; j < V<T>; ++j) a[j] = load<T>(square + j * V<T>);
  UNROLL for (int i = 0; i < Sides; ++i) y[i] = b[i] = load<T>(rhs[i] + q * V<T>);
  T least = std::numeric_limits<T>::infinity();
  each_lane<T>([&](auto j_) INLINE_LAMBDA {
    constexpr int j = j_;
    const Vec<T> pivot = spread<T, j>(a[j]);
    const Vec<T> inverse = 1 / pivot;
    const T d = pivot[0];
    least = d < least || d != d ? d : least;
    const Vec<T> scaled = a[j] * inverse;
    each_lane<T>([&](auto i_) INLINE_LAMBDA {
      constexpr int i = i_;
      if constexpr (i > j) a[i] -= scaled * spread<T, i>(a[j]);
    });
    for (int i = 0; i < Sides; ++i) {
      const Vec<T> now = spread<T, j>(b[i]);
      y[i] = with_lane<T, j>(y[i], now);
      b[i] -= scaled * now;
    }
    const Vec<T> root = pivot * 0 + T(1) / std::sqrt(d);
    scales = with_lane<T, j>(scales, root);
    store<T>(square + j * V<T>, a[j] * root);
  });
  store<T>(scale + q * V<T>, scales);
  UNROLL for (int i = 0; i < Sides; ++i) store<T>(rhs[i] + q * V<T>, y[i] * scales);

  for (int64_t p = q + 1; p < np; ++p) {
    T* panel = matrix + triangle<T>(p) + q * V<T> * V<T>;
    Vec<T> x[V<T>];
    UNROLL for (int j = 0; j < V<T>; ++j) x[j] = load<T>(panel + j * V<T>);
    UNROLL for (int j = 0; j < V<T>; ++j) {
      x[j] *= scale[q * V<T> + j];
      store<T>(panel + j * V<T>, x[j]);
      UNROLL for (int i = j + 1; i < V<T>; ++i) x[i] -= x[j] * square[j * V<T> + i];
    }
  }
  return least;
}

// matrix := its lower factor L, each right-hand side := L^-1 of it. Returns the least pivot, NaN if one is.
template <class T, int Sides>
T factor(T* matrix, int64_t np, T* const* rhs, T* scale) {
  T least = std::numeric_limits<T>::infinity();
  for (int64_t q = 0; q < np; ++q) {
    const T* row = matrix + triangle<T>(q);
    auto left = [&](int64_t p) { return matrix + triangle<T>(p); };
    multiply<T, -1>(matrix, q, np, left, row, q * V<T>, [] {});
    UNROLL for (int i = 0; i < Sides; ++i) weigh<T, -1>(rhs[i] + q * V<T>, row, rhs[i], q * V<T>);
    const T d = factor_block<T, Sides>(matrix, q, np, rhs, scale);
    least = d < least || d != d ? d : least;
    if (!(least > 0)) return least;
  }
  return least;
}

// y := L^-T y
template <class T>
void solve_back(const T* matrix, int64_t np, T* y, const T* scale) {
  for (int64_t q = np - 1; q >= 0; --q) {
    Vec<T> t = load<T>(y + q * V<T>);
    if (q + 1 < np) {
      Vec<T> dots[V<T>] = {};
      for (int64_t p = q + 1; p < np; ++p) {
        const T* panel = matrix + triangle<T>(p) + q * V<T> * V<T>;
        const Vec<T> x = load<T>(y + p * V<T>);
        UNROLL for (int j = 0; j < V<T>; ++j) dots[j] += load<T>(panel + j * V<T>) * x;
      }
      t -= lane_sums<T>(dots);
    }
    const T* square = matrix + triangle<T>(q) + q * V<T> * V<T>;
    Vec<T> rows[V<T>], x = {};
    UNROLL for (int j = 0; j < V<T>; ++j) rows[j] = load<T>(square + j * V<T>);
    transpose<T>(rows);
    each_lane<T>([&](auto i_) INLINE_LAMBDA {
      constexpr int i = V<T> - 1 - i_;
      const Vec<T> solved = spread<T, i>(t) * scale[q * V<T> + i];
      x = with_lane<T, i>(x, solved);
      t -= rows[i] * solved;
    });
    store<T>(y + q * V<T>, x);
  }
}

}  // namespace
}  // namespace JALS_ISA
}  // namespace jals
