// The door from XLA: its buffers become a Side, its thread pool hands out the rows, its calls find the kernel for this
// machine's instruction set.

#include <string>
#include <vector>

#include "parallel.hpp"
#include "schedule.hpp"
#include "select.hpp"
#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__)
#define JALS_X86 1
#endif

namespace jals {

#define JALS_DECLARE(isa) \
  namespace isa { \
  template <class T> Kernel<T> make(int64_t rank); \
  template <class T> Kernel<T> make_steps(const Side<T>& side); \
  template <class T> Select<T> make_select(); \
  }
JALS_DECLARE(baseline)
#ifdef JALS_X86
JALS_DECLARE(avx2)
JALS_DECLARE(avx512)
#endif

namespace {

namespace ffi = xla::ffi;

enum class Isa { baseline, avx2, avx512 };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best_isa() {
#ifdef JALS_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa& isa() {
  static Isa chosen = best_isa();
  return chosen;
}

template <class T>
Kernel<T> kernel(const Side<T>& side) {
#ifdef JALS_X86
  if (isa() == Isa::avx512) return side.steps() ? avx512::make_steps(side) : avx512::make<T>(side.rank);
  if (isa() == Isa::avx2) return side.steps() ? avx2::make_steps(side) : avx2::make<T>(side.rank);
#endif
  return side.steps() ? baseline::make_steps(side) : baseline::make<T>(side.rank);
}

template <class T>
Select<T> select_kernel() {
#ifdef JALS_X86
  if (isa() == Isa::avx512) return avx512::make_select<T>();
  if (isa() == Isa::avx2) return avx2::make_select<T>();
#endif
  return baseline::make_select<T>();
}

template <class T>
constexpr ffi::DataType kType = sizeof(T) == 4 ? ffi::F32 : ffi::F64;

// Thrown while arguments are read; the door turns it into XLA's error.
struct Refused {
  std::string why;
};

void require(bool condition, const std::string& why) {
  if (!condition) throw Refused{"jals kernel: " + why};
}

constexpr int64_t kAny = -1;  // a length that an operand brings along

std::string in_words(ffi::DataType type) {
  switch (type) {
    case ffi::F32: return "float32";
    case ffi::F64: return "float64";
    case ffi::S32: return "int32";
    case ffi::PRED: return "bool";
    default: return "type " + std::to_string(static_cast<int>(type));
  }
}

template <class Shape>
std::string in_words(ffi::DataType type, const Shape& shape) {
  std::string text = in_words(type) + " (";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + (shape.begin()[i] == kAny ? "any" : std::to_string(shape.begin()[i]));
  return text + ")";
}

// The numbers of an operand or result, which must have this type and these lengths.
template <class T>
T* checked(const ffi::AnyBuffer& buffer, const char* name, ffi::DataType type, const std::vector<int64_t>& shape) {
  const auto got = buffer.dimensions();
  bool fits = buffer.element_type() == type && got.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == kAny || got.begin()[i] == shape[i];
  require(fits, std::string(name) + " is " + in_words(buffer.element_type(), got) + ", expected " + in_words(type, shape));
  return reinterpret_cast<T*>(buffer.untyped_data());
}

class Arguments {
 public:
  explicit Arguments(const ffi::RemainingArgs& all) : all_(all) {}

  template <class T>
  const T* take(const char* name, ffi::DataType type, const std::vector<int64_t>& shape) {
    auto got = all_.get<ffi::AnyBuffer>(next_++);
    require(got.has_value(), std::string(name) + " is missing");
    for (size_t i = 0; i < got->dimensions().size() && i < 3; ++i) lengths_[i] = got->dimensions().begin()[i];
    return checked<const T>(*got, name, type, shape);
  }
  // Of the operand read last.
  int64_t length(int axis) const { return lengths_[axis]; }
  bool done() const { return next_ == all_.size(); }

 private:
  const ffi::RemainingArgs& all_;
  size_t next_ = 0;
  int64_t lengths_[3] = {};
};

// The order of the arguments is that of __init__.py, `_operands`.
template <class T>
ffi::Error solve_rows(ffi::ThreadPool pool, int64_t num_entries, bool part, int64_t cut_buckets, bool bias,
                      bool with_rhs, bool with_start, bool with_prior, bool with_precision, bool with_gram, bool with_pairs,
                      bool value, bool cholesky, bool inverse, bool norms, int64_t columns, int64_t cg_steps, int64_t block,
                      ffi::RemainingArgs given, ffi::RemainingRets results) try {
  constexpr ffi::DataType real = kType<T>;
  Arguments next(given);
  auto reals = [&](const char* name, const std::vector<int64_t>& shape) { return next.take<T>(name, real, shape); };
  auto ints = [&](const char* name, const std::vector<int64_t>& shape) {
    return next.take<int32_t>(name, ffi::S32, shape);
  };
  Side<T> side{};
  side.num_entries = num_entries;
  side.part = part;
  side.table = reals("table", {kAny, kAny});
  side.others = next.length(0);
  side.rank = next.length(1);
  require(side.rank >= 1, "table has no columns");
  side.columns = columns, side.cg_steps = cg_steps, side.block = block;
  if (side.steps()) {
    require(side.rank % kPad == 0 && columns <= side.rank && columns > side.rank - kPad, "table is not padded");
    require(cg_steps >= 0 && (cg_steps || block >= 1), "there are no steps to make");
    require(with_start && !with_rhs && !with_precision && !cholesky && !inverse && !norms, "not by steps");
  }
  side.mean = *reals("mean", {});
  std::copy_n(reals("entry", {5}), 5, side.entry);
  side.reg = reals("reg", {kAny});
  const int64_t rows = side.num_rows = next.length(0);
  side.blank = next.take<bool>("blank", ffi::PRED, {rows});
  side.strict = next.take<bool>("strict", ffi::PRED, {rows});
  if (bias) {
    side.held_bias = reals("held_bias", {side.others});
    side.reg_bias = reals("reg_bias", {rows});
  }
  const int64_t k = side.unknowns();
  // One for each row, or one for all.
  auto per_row = [&](const char* name) {
    const int64_t count = next.length(0);
    require(count == rows || count == 1,
            std::string(name) + " has " + std::to_string(count) + " rows, expected 1 or " + std::to_string(rows));
    return count != 1 || rows == 1;
  };
  if (with_rhs) side.rhs = reals("rhs", {rows, k});
  if (with_start) side.start = reals("start", {rows, k});
  if (with_prior) {
    side.prior = reals("prior", {kAny, k});
    side.prior_per_row = per_row("prior");
  }
  if (with_precision) {
    side.precision = reals("precision", {kAny, k, k});
    side.precision_per_row = per_row("precision");
  }
  if (with_gram) side.gram = reals("gram", {k, k});
  if (with_pairs) side.pairs = reals("pairs", {rows});
  for (int64_t b = 0; !next.done(); ++b) {
    Bucket<T> bucket{};
    const bool cut = b < 63 && cut_buckets >> b & 1;
    bucket.row = ints("row", {kAny, kAny});
    bucket.slabs = next.length(0);
    bucket.rows = next.length(1);
    bucket.other = ints("other", {bucket.slabs, cut ? kAny : bucket.rows, kAny});
    bucket.pieces = next.length(1);
    bucket.width = next.length(2);
    const std::vector<int64_t> slots = {bucket.slabs, bucket.pieces, bucket.width};
    bucket.entry = ints("slots' entry", slots);
    bucket.value = reals("value", slots);
    bucket.weight = reals("weight", slots);
    if (cut) bucket.piece_row = ints("piece_row", {bucket.slabs, bucket.pieces});
    side.buckets.push_back(bucket);
  }
  auto result = [&](size_t at, const char* name, auto* of, ffi::DataType type, const std::vector<int64_t>& shape) {
    auto got = results.get<ffi::AnyBuffer>(at);
    require(got.has_value(), std::string(name) + " is missing");
    return checked<std::remove_pointer_t<decltype(of)>>(**got, name, type, shape);
  };
  constexpr T* number = nullptr;
  side.x = result(0, "x", number, real, {rows, k});
  side.good = result(1, "good", static_cast<bool*>(nullptr), ffi::PRED, {rows});
  size_t at = 2;
  if (value) side.value = result(at++, "the rows' loss", number, real, {rows});
  if (cholesky) side.cholesky = result(at++, "cholesky", number, real, {rows, k, k});
  if (inverse) side.inverse = result(at++, "inverse", number, real, {rows, k, k});
  if (norms) side.norms = result(at++, "norms", number, real, {rows, 2});
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
  if (!select_all(all, select_kernel<T>(), pool))
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

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("num_entries")
      .Attr<bool>("part")
      .Attr<int64_t>("cut_buckets")
      .Attr<bool>("bias")
      .Attr<bool>("with_rhs")
      .Attr<bool>("with_start")
      .Attr<bool>("with_prior")
      .Attr<bool>("with_precision")
      .Attr<bool>("with_gram")
      .Attr<bool>("with_pairs")
      .Attr<bool>("value")
      .Attr<bool>("cholesky")
      .Attr<bool>("inverse")
      .Attr<bool>("norms")
      .Attr<int64_t>("columns")
      .Attr<int64_t>("cg_steps")
      .Attr<int64_t>("block")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace
}  // namespace jals

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f32, jals::solve_rows<float>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f64, jals::solve_rows<double>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_select_f32, jals::select<float>, jals::select_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_select_f64, jals::select<double>, jals::select_binding());

// Raised with every change to the targets, their operands, attributes or results: __init__.py calls no other.
extern "C" int jals_calls() { return 4; }

// The instruction set in use, and a narrower one for tests: false where this machine does not have it.
extern "C" const char* jals_isa() { return jals::kNames[static_cast<int>(jals::isa())]; }
extern "C" bool jals_use_isa(const char* name) {
  for (int i = 0; i <= static_cast<int>(jals::best_isa()); ++i)
    if (std::string(name) == jals::kNames[i]) {
      jals::isa() = static_cast<jals::Isa>(i);
      return true;
    }
  return false;
}
#pragma GCC visibility pop
