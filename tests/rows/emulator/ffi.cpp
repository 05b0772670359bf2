// The CUDA kernel's door with a CPU behind it (emulated.hpp), for XLA on a CPU.

#define JALS_EMULATOR

#include <limits>
#include <mutex>

#include "door.hpp"
#include "cuda/launch.cuh"

namespace jals {
namespace {

std::mutex one_at_a_time;  // the emulator is one machine
int64_t memory_bytes = std::numeric_limits<int64_t>::max();  // that it has for a call

template <class T>
ffi::Error solve_rows(JALS_SOLVE_PARAMETERS, ffi::RemainingArgs given, ffi::RemainingRets results) try {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const T *mean, *entry;
  Side<T> side{};
  read_side(side, mean, entry, JALS_SOLVE_ATTRIBUTES, given, results);
  std::vector<std::vector<double>> memory;
  cuda::solve_side(side, mean, entry, 1, [&](int64_t bytes) -> void* {
    if (bytes > memory_bytes) return nullptr;
    memory.emplace_back(bytes / sizeof(double) + 1, NAN);
    return memory.back().data();
  });
  if (cuda::device) throw cuda::Failed{"the thread was left on another device"};
  return ffi::Error::Success();
} catch (const Refused& refused) {
  return ffi::Error::InvalidArgument(refused.why);
} catch (const cuda::Failed& failed) {
  return ffi::Error(ffi::ErrorCode::kInternal, failed.why);
} catch (const cuda::NoMemory& none) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, none.why());
}

auto binding() { return solve_attributes(ffi::Ffi::Bind()).RemainingArgs().RemainingRets(); }

}  // namespace
}  // namespace jals

XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f32, jals::solve_rows<float>, jals::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jals_solve_rows_f64, jals::solve_rows<double>, jals::binding());

// How the machine is: in which order its threads run, and how many bytes a block may share.
extern "C" void jals_machine(bool turned, int64_t shared) {
  jals::cuda::turned = turned;
  jals::cuda::shared_bytes = shared;
}
extern "C" void jals_memory(int64_t bytes) { jals::memory_bytes = bytes; }
