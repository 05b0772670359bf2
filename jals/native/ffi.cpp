// The door from XLA: its buffers become a Side, its thread pool hands out the rows, its calls find the kernel for this
// machine's instruction set.

#include <string>

#include "schedule.hpp"
#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__)
#define JALS_X86 1
#endif

namespace jals {

#define JALS_DECLARE(isa) \
  namespace isa { template <class T> Kernel<T> make(int64_t rank); }
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
Kernel<T> kernel(int64_t rank) {
#ifdef JALS_X86
  if (isa() == Isa::avx512) return avx512::make<T>(rank);
  if (isa() == Isa::avx2) return avx2::make<T>(rank);
#endif
  return baseline::make<T>(rank);
}

template <class T>
constexpr ffi::DataType kType = sizeof(T) == 4 ? ffi::F32 : ffi::F64;

// Thrown while arguments are read; the door turns it into XLA's error.
struct Refused {
  std::string why;
};

void require(bool condition, const char* why) {
  if (!condition) throw Refused{std::string("jals kernel: ") + why};
}

class Arguments {
 public:
  explicit Arguments(const ffi::RemainingArgs& all) : all_(all) {}

  ffi::AnyBuffer buffer(size_t dimensions, const char* name) {
    auto got = all_.get<ffi::AnyBuffer>(next_++);
    require(got.has_value() && got->dimensions().size() == dimensions, name);
    return *got;
  }
  template <class T>
  const T* data(ffi::DataType type, size_t dimensions, const char* name) {
    return typed<T>(buffer(dimensions, name), type, name);
  }
  template <class T>
  const T* typed(const ffi::AnyBuffer& buffer, ffi::DataType type, const char* name) {
    require(buffer.element_type() == type, name);
    return reinterpret_cast<const T*>(buffer.untyped_data());
  }
  bool done() const { return next_ == all_.size(); }

 private:
  const ffi::RemainingArgs& all_;
  size_t next_ = 0;
};

// The order of the arguments is that of jals/native/__init__.py, `_operands`.
template <class T>
ffi::Error solve_rows(ffi::ThreadPool pool, int64_t num_entries, int64_t cut_buckets, bool bias, bool own_rhs,
                      bool with_prior, bool with_precision, bool with_gram, bool value, bool cholesky,
                      ffi::RemainingArgs given, ffi::RemainingRets results) try {
  constexpr ffi::DataType real = kType<T>;
  Arguments next(given);
  Side<T> side{};
  side.num_entries = num_entries;
  const auto table = next.buffer(2, "table");
  side.table = next.typed<T>(table, real, "table");
  side.others = table.dimensions()[0];
  side.rank = table.dimensions()[1];
  side.mean = *next.data<T>(real, 0, "mean");
  const auto coefficients = next.buffer(1, "entry");
  require(coefficients.dimensions()[0] == 5, "entry");
  std::copy_n(next.typed<T>(coefficients, real, "entry"), 5, side.entry);
  const auto reg = next.buffer(1, "reg");
  side.num_rows = reg.dimensions()[0];
  side.reg = next.typed<T>(reg, real, "reg");
  side.blank = next.data<bool>(ffi::PRED, 1, "blank");
  side.strict = next.data<bool>(ffi::PRED, 1, "strict");
  if (bias) {
    side.held_bias = next.data<T>(real, 1, "held_bias");
    side.reg_bias = next.data<T>(real, 1, "reg_bias");
  }
  const int64_t k = side.unknowns();
  if (!own_rhs) side.rhs = next.data<T>(real, 2, "rhs");
  if (with_prior) {
    const auto prior = next.buffer(2, "prior");
    require(prior.dimensions()[1] == k, "prior");
    side.prior = next.typed<T>(prior, real, "prior");
    side.prior_per_row = prior.dimensions()[0] != 1 || side.num_rows == 1;
  }
  if (with_precision) {
    const auto precision = next.buffer(3, "precision");
    require(precision.dimensions()[1] == k && precision.dimensions()[2] == k, "precision");
    side.precision = next.typed<T>(precision, real, "precision");
    side.precision_per_row = precision.dimensions()[0] != 1 || side.num_rows == 1;
  }
  if (with_gram) side.gram = next.data<T>(real, 2, "gram");
  for (int64_t b = 0; !next.done(); ++b) {
    Bucket<T> bucket{};
    const auto row = next.buffer(2, "row");
    bucket.row = next.typed<int32_t>(row, ffi::S32, "row");
    const auto other = next.buffer(3, "other");
    bucket.other = next.typed<int32_t>(other, ffi::S32, "other");
    bucket.slabs = row.dimensions()[0];
    bucket.rows = row.dimensions()[1];
    bucket.pieces = other.dimensions()[1];
    bucket.width = other.dimensions()[2];
    bucket.entry = next.data<int32_t>(ffi::S32, 3, "slot's entry");
    bucket.value = next.data<T>(real, 3, "value");
    bucket.weight = next.data<T>(real, 3, "weight");
    if (cut_buckets >> b & 1) bucket.piece_row = next.data<int32_t>(ffi::S32, 2, "piece_row");
    side.buckets.push_back(bucket);
  }
  auto result = [&](size_t at) -> void* {
    auto got = results.get<ffi::AnyBuffer>(at);
    require(got.has_value(), "result");
    return (**got).untyped_data();
  };
  side.x = static_cast<T*>(result(0));
  side.good = static_cast<bool*>(result(1));
  if (value) side.value = static_cast<T*>(result(2));
  if (cholesky) side.cholesky = static_cast<T*>(result(2 + value));
  if (!solve_side(side, kernel<T>(side.rank), pool)) throw std::bad_alloc();
  return ffi::Error::Success();
} catch (const Refused& refused) {
  return ffi::Error::InvalidArgument(refused.why);
} catch (const std::bad_alloc&) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jals kernel: out of memory");
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("num_entries")
      .Attr<int64_t>("cut_buckets")
      .Attr<bool>("bias")
      .Attr<bool>("own_rhs")
      .Attr<bool>("with_prior")
      .Attr<bool>("with_precision")
      .Attr<bool>("with_gram")
      .Attr<bool>("value")
      .Attr<bool>("cholesky")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace
}  // namespace jals

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f32, jals::solve_rows<float>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f64, jals::solve_rows<double>, jals::binding());

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
