// The door from XLA: its buffers become a Side, its thread pool hands out the rows, its calls find the kernel for this
// machine's instruction set.

#include <algorithm>
#include <iterator>
#include <string>

#include "door.hpp"
#include "parallel.hpp"
#include "schedule.hpp"
#include "select.hpp"

// CMakeLists.txt says which of them are built; by itself this file is for the first alone.
#if !defined(JALS_WITH_baseline) && !defined(JALS_WITH_avx2) && !defined(JALS_WITH_avx512)
#define JALS_WITH_baseline
#endif

namespace jals {

#define JALS_DECLARE(isa) \
  namespace isa { \
  template <class T> Kernel<T> make(int64_t rank); \
  template <class T> Kernel<T> make_steps(const Side<T>& side); \
  template <class T> Select<T> make_select(); \
  }
JALS_DECLARE(baseline)
JALS_DECLARE(avx2)
JALS_DECLARE(avx512)

namespace {

enum class Isa { none, baseline, avx2, avx512 };
constexpr Isa kIsas[] = {Isa::avx512, Isa::avx2, Isa::baseline};  // the best first
constexpr const char* kNames[] = {nullptr, "baseline", "avx2", "avx512"};

// Whether it is built, and this machine has it.
bool usable(Isa isa) {
  switch (isa) {
#ifdef JALS_WITH_avx512
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
#ifdef JALS_WITH_avx2
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef JALS_WITH_baseline
    case Isa::baseline: return true;
#endif
    default: return false;
  }
}

Isa best_isa() {
#ifdef __x86_64__
  __builtin_cpu_init();
#endif
  const Isa* best = std::find_if(std::begin(kIsas), std::end(kIsas), usable);
  return best == std::end(kIsas) ? Isa::none : *best;
}

Isa& isa() {
  static Isa chosen = best_isa();
  return chosen;
}

template <class T>
struct Kernels {
  Kernel<T> (*rows)(int64_t rank);
  Kernel<T> (*steps)(const Side<T>& side);
  Select<T> (*select)();
};

template <class T>
Kernels<T> kernels() {
#define JALS_CASE(isa) \
  case Isa::isa: return {isa::make<T>, isa::make_steps<T>, isa::make_select<T>}
  switch (isa()) {
#ifdef JALS_WITH_avx512
    JALS_CASE(avx512);
#endif
#ifdef JALS_WITH_avx2
    JALS_CASE(avx2);
#endif
#ifdef JALS_WITH_baseline
    JALS_CASE(baseline);
#endif
    default: throw Refused{"this library has no code for this machine"};
  }
}

template <class T>
Kernel<T> kernel(const Side<T>& side) {
  return side.steps() ? kernels<T>().steps(side) : kernels<T>().rows(side.rank);
}

// The order of the arguments is that of __init__.py, `solve_rows` and `step_rows`.
template <class T>
ffi::Error solve_rows(ffi::ThreadPool pool, JALS_SOLVE_PARAMETERS, ffi::RemainingArgs given, ffi::RemainingRets results) try {
  const T *mean, *entry;
  Side<T> side{};
  read_side(side, mean, entry, JALS_SOLVE_ATTRIBUTES, given, results);
  side.mean = *mean;
  std::copy_n(entry, kEntry, side.entry);
  if (!solve_side(side, kernel(side), pool)) throw std::bad_alloc();
  return ffi::Error::Success();
} catch (const Refused& refused) {
  return ffi::Error::InvalidArgument(refused.why);
} catch (const std::bad_alloc&) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jals kernel: out of memory");
}

// The order of the arguments is that of __init__.py, `largest`.
template <class T>
ffi::Error select(ffi::ThreadPool pool, bool with_offset, bool with_mask, bool with_pairs, ffi::RemainingArgs given,
                  ffi::RemainingRets results) try {
  constexpr ffi::DataType real = kType<T>;
  Arguments next(given);
  Selection<T> all{};
  all.query = next.take<T>("query", real, {kAny, kAny});
  all.queries = next.length(0), all.rank = next.length(1);
  all.table = next.take<T>("table", real, {kAny, all.rank});
  all.items = next.length(0);
  if (with_offset) all.offset = next.take<T>("offset", real, {all.items});
  if (with_mask) all.mask = next.take<bool>("mask", ffi::PRED, {all.queries, all.items});
  if (with_pairs) {
    all.start = next.take<int32_t>("start", ffi::S32, {all.queries});
    all.stop = next.take<int32_t>("stop", ffi::S32, {all.queries});
    all.closed = next.take<int32_t>("closed", ffi::S32, {kAny});
    all.pairs = next.length(0);
  }
  require(next.done(), "there are more operands than were expected");
  auto item = results.get<ffi::AnyBuffer>(0), best = results.get<ffi::AnyBuffer>(1);
  require(item.has_value() && best.has_value(), "item or best is missing");
  all.item = checked<int32_t>(**item, "item", ffi::S32, {all.queries, kAny});
  all.k = (*item)->dimensions().begin()[1];
  require(all.k >= 1 && all.k <= all.items, "k is not from 1 to the number of items");
  all.best = checked<T>(**best, "best", real, {all.queries, all.k});
  if (!select_all(all, kernels<T>().select(), pool))
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jals kernel: out of memory");
  return ffi::Error::Success();
} catch (const Refused& refused) {
  return ffi::Error::InvalidArgument(refused.why);
} catch (const std::bad_alloc&) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jals kernel: out of memory");
}

auto select_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<bool>("with_offset")
      .Attr<bool>("with_mask")
      .Attr<bool>("with_pairs")
      .RemainingArgs()
      .RemainingRets();
}

auto binding() { return solve_attributes(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()).RemainingArgs().RemainingRets(); }

}  // namespace
}  // namespace jals

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f32, jals::solve_rows<float>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f64, jals::solve_rows<double>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_select_f32, jals::select<float>, jals::select_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_select_f64, jals::select<double>, jals::select_binding());

// Raised with every change to the targets, their operands, attributes or results: __init__.py calls no other.
extern "C" int jals_calls() { return 6; }

// The instruction set in use, null where the library has none for this machine; and another one of its own for tests:
// false where there is none of that name.
extern "C" const char* jals_isa() { return jals::kNames[static_cast<int>(jals::isa())]; }
extern "C" bool jals_use_isa(const char* name) {
  for (jals::Isa each : jals::kIsas)
    if (jals::usable(each) && std::string(name) == jals::kNames[static_cast<int>(each)]) {
      jals::isa() = each;
      return true;
    }
  return false;
}
#pragma GCC visibility pop
