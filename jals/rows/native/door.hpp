// What both doors from XLA share: its buffers, checked, become the operands of a call.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "rows.hpp"
#include "xla/ffi/api/ffi.h"

namespace jals {
namespace {

namespace ffi = xla::ffi;

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
    case ffi::BF16: return "bfloat16";
    case ffi::S32: return "int32";
    case ffi::PRED: return "bool";
    case ffi::U8: return "uint8";
    case ffi::U16: return "uint16";
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
  // The slots' values and the bytes of one: numbers of this type, or codes.
  std::pair<const void*, int> take_values(ffi::DataType real, const std::vector<int64_t>& shape) {
    const bool bytes = comes(ffi::U8), words = comes(ffi::U16);
    const void* values = take<char>("value", bytes ? ffi::U8 : words ? ffi::U16 : real, shape);
    return {values, bytes ? 1 : words ? 2 : real == ffi::F32 ? 4 : 8};
  }
  // Whether the next operand is of this type.
  bool comes(ffi::DataType type) const {
    auto got = all_.get<ffi::AnyBuffer>(next_);
    return got.has_value() && got->element_type() == type;
  }
  // Of the operand read last.
  int64_t length(int axis) const { return lengths_[axis]; }
  bool done() const { return next_ == all_.size(); }

 private:
  const ffi::RemainingArgs& all_;
  size_t next_ = 0;
  int64_t lengths_[3] = {};
};

// The attributes of a call, in the order of `solve_attributes`.
struct Attributes {
  int64_t num_entries;
  bool part;
  int64_t cut_buckets;
  bool bias, with_weight, with_rhs, with_start, with_prior, with_precision, with_gram, with_pairs, value, cholesky, inverse,
      norms;
  int64_t columns, cg_steps, block;
};
#define JALS_SOLVE_PARAMETERS                                                                                        \
  int64_t num_entries, bool part, int64_t cut_buckets, bool bias, bool with_weight, bool with_rhs, bool with_start, bool with_prior, \
      bool with_precision, bool with_gram, bool with_pairs, bool value, bool cholesky, bool inverse, bool norms,     \
      int64_t columns, int64_t cg_steps, int64_t block
#define JALS_SOLVE_ATTRIBUTES                                                                                      \
  Attributes {                                                                                                     \
    num_entries, part, cut_buckets, bias, with_weight, with_rhs, with_start, with_prior, with_precision, with_gram, with_pairs, \
        value, cholesky, inverse, norms, columns, cg_steps, block                                                  \
  }

template <class Binding>
auto solve_attributes(Binding&& binding) {
  return std::move(binding)
      .template Attr<int64_t>("num_entries")
      .template Attr<bool>("part")
      .template Attr<int64_t>("cut_buckets")
      .template Attr<bool>("bias")
      .template Attr<bool>("with_weight")
      .template Attr<bool>("with_rhs")
      .template Attr<bool>("with_start")
      .template Attr<bool>("with_prior")
      .template Attr<bool>("with_precision")
      .template Attr<bool>("with_gram")
      .template Attr<bool>("with_pairs")
      .template Attr<bool>("value")
      .template Attr<bool>("cholesky")
      .template Attr<bool>("inverse")
      .template Attr<bool>("norms")
      .template Attr<int64_t>("columns")
      .template Attr<int64_t>("cg_steps")
      .template Attr<int64_t>("block");
}

// Reads what __init__.py, `_operands`, puts in order. Where `mean` and `entry` lie is told apart: they may not be readable
// here.
template <class T>
void read_side(Side<T>& side, const T*& mean, const T*& entry, const Attributes& is, ffi::RemainingArgs given,
               ffi::RemainingRets results) {
  constexpr ffi::DataType real = kType<T>;
  Arguments next(given);
  auto reals = [&](const char* name, const std::vector<int64_t>& shape) { return next.take<T>(name, real, shape); };
  auto ints = [&](const char* name, const std::vector<int64_t>& shape) {
    return next.take<int32_t>(name, ffi::S32, shape);
  };
  side.num_entries = is.num_entries;
  side.part = is.part;
  if (real == ffi::F32 && next.comes(ffi::BF16)) side.narrow = next.take<Narrow>("table", ffi::BF16, {kAny, kAny});
  else side.table = reals("table", {kAny, kAny});
  side.others = next.length(0);
  side.rank = next.length(1);
  require(side.rank >= 1, "table has no columns");
  side.columns = is.columns, side.cg_steps = is.cg_steps, side.block = is.block;
  if (side.steps()) {
    require(side.rank % kPad == 0 && is.columns <= side.rank && is.columns > side.rank - kPad, "table is not padded");
    require(is.cg_steps >= 0 && (is.cg_steps || is.block >= 1), "there are no steps to make");
    require(is.with_start && !is.with_rhs && !is.with_precision && !is.cholesky && !is.inverse && !is.norms, "not by steps");
  }
  mean = reals("mean", {});
  entry = reals("entry", {kEntry});
  side.reg = reals("reg", {kAny});
  const int64_t rows = side.num_rows = next.length(0);
  side.blank = next.take<bool>("blank", ffi::PRED, {rows});
  side.strict = next.take<bool>("strict", ffi::PRED, {rows});
  if (is.bias) {
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
  if (is.with_rhs) side.rhs = reals("rhs", {rows, k});
  if (is.with_start) side.start = reals("start", {rows, k});
  if (is.with_prior) {
    side.prior = reals("prior", {kAny, k});
    side.prior_per_row = per_row("prior");
  }
  if (is.with_precision) {
    side.precision = reals("precision", {kAny, k, k});
    side.precision_per_row = per_row("precision");
  }
  if (is.with_gram) side.gram = reals("gram", {k, k});
  if (is.with_pairs) side.pairs = reals("pairs", {rows});
  for (int64_t b = 0; !next.done(); ++b) {
    Bucket<T> bucket{};
    const bool cut = b < 63 && is.cut_buckets >> b & 1;
    bucket.row = ints("row", {kAny, kAny});
    bucket.slabs = next.length(0);
    bucket.rows = next.length(1);
    bucket.other = ints("other", {bucket.slabs, cut ? kAny : bucket.rows, kAny});
    bucket.pieces = next.length(1);
    bucket.width = next.length(2);
    const std::vector<int64_t> slots = {bucket.slabs, bucket.pieces, bucket.width};
    bucket.entry = ints("slots' entry", slots);
    std::tie(bucket.value, bucket.value_bytes) = next.take_values(real, slots);
    if (is.with_weight) bucket.weight = reals("weight", slots);
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
  if (is.value) side.value = result(at++, "the rows' loss", number, real, {rows});
  if (is.cholesky) side.cholesky = result(at++, "cholesky", number, real, {rows, k, k});
  if (is.inverse) side.inverse = result(at++, "inverse", number, real, {rows, k, k});
  if (is.norms) side.norms = result(at++, "norms", number, real, {rows, 2});
}

}  // namespace
}  // namespace jals
