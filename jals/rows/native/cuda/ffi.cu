// The door from XLA on a GPU, as ../ffi.cpp is that on a CPU: the same operands and attributes, on XLA's stream.

#include "../door.hpp"
#include "launch.cuh"

#ifndef JALS_ARCHITECTURES
#define JALS_ARCHITECTURES "one GPU"
#endif

namespace jals {
namespace {

template <class T>
ffi::Error solve_rows(cudaStream_t stream, ffi::ScratchAllocator scratch, JALS_SOLVE_PARAMETERS,
                      ffi::RemainingArgs given, ffi::RemainingRets results) try {
  const T *mean, *entry;
  Side<T> side{};
  read_side(side, mean, entry, JALS_SOLVE_ATTRIBUTES, given, results);
  cuda::solve_side(side, mean, entry, stream, [&](int64_t bytes) {
    const auto memory = scratch.Allocate(bytes, 256);
    return memory.has_value() ? *memory : nullptr;
  });
  return ffi::Error::Success();
} catch (const Refused& refused) {
  return ffi::Error::InvalidArgument(refused.why);
} catch (const cuda::Failed& failed) {
  return ffi::Error(ffi::ErrorCode::kInternal, "jals kernel: " + failed.why);
} catch (const cuda::NoMemory& none) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, none.why());
}

auto binding() {
  auto own = ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>().Ctx<ffi::ScratchAllocator>();
  return solve_attributes(std::move(own)).RemainingArgs().RemainingRets();
}

}  // namespace
}  // namespace jals

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f32, jals::solve_rows<float>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f64, jals::solve_rows<double>, jals::binding());

// Raised with every change to the targets, their operands, attributes or results: ../__init__.py calls no other.
extern "C" int jals_calls() { return 6; }

// The versions of CUDA of this machine's driver (0: there is none), and the lowest that runs what is compiled here, each
// as 1000 major + 10 minor: any of the runtime's major version, from 12.8 on, the first that tells a stream's device.
// Code for a GPU that is newer than all of JALS_ARCHITECTURES is made by the driver of PTX, and must be of this runtime's version.
extern "C" void jals_driver(int* here, int* needed, int* for_ptx) {
  if (cudaDriverGetVersion(here) != cudaSuccess) *here = 0;
  *needed = CUDART_VERSION / 1000 == 12 ? 12080 : CUDART_VERSION / 1000 * 1000;
  *for_ptx = CUDART_VERSION;
}

// What it is compiled for.
extern "C" const char* jals_isa() { return JALS_ARCHITECTURES; }
#pragma GCC visibility pop
