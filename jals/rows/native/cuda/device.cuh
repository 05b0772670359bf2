// What the kernels ask of the machine; a CPU can play it (tests/rows/emulator).
#pragma once

#include <cstdint>
#include <string>

namespace jals {
namespace cuda {

// Thrown on the host; the door turns it into XLA's error.
struct Failed {
  std::string why;
};

// The same where XLA has no memory left: in its own words, which jals/devices.py reads.
struct NoMemory {
  int64_t bytes;
  std::string why() const {
    return "jals kernel: Out of memory while trying to allocate " + std::to_string(bytes) + " bytes.";
  }
};

struct Limits {
  int64_t shared;      // bytes that a block may have
  int64_t processors;
};

}  // namespace cuda
}  // namespace jals

#ifdef JALS_EMULATOR
#include "emulated.hpp"
#else

#include <cuda_runtime.h>

#define UNROLLED _Pragma("unroll")
#define ONE_BY_ONE _Pragma("unroll 1")
#define DEVICE __device__ __forceinline__
// The memory that a block's threads share, as a launch sizes it.
#define SHARED_MEMORY(name) \
  extern __shared__ double2 jals_shared[]; \
  char* name = reinterpret_cast<char*>(jals_shared)

namespace jals {
namespace cuda {

// The nearest number that tensor cores take as it is.
DEVICE float to_tf32(float number) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(number));
  return __uint_as_float(bits);
}

// d += a b by a warp: a (16, 8), b (8, 8), d (16, 8), the lanes' parts as in PTX's mma.m16n8k8 for tf32.
DEVICE void multiply(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// A number in bfloat16 as a float.
DEVICE float widened(uint16_t number) { return __uint_as_float(uint32_t(number) << 16); }

// Copies Bytes, 4, 8 or 16 of them, into shared memory while the thread goes on; `copies_arrive` waits for all but those
// begun after the last `Later` calls of `copies_begun`. Two bytes are copied at once: no instruction does it later.
template <int Bytes>
DEVICE void copy_later(void* to, const void* from) {
  if constexpr (Bytes == 2) {
    *static_cast<uint16_t*>(to) = *static_cast<const uint16_t*>(from);
  } else {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(Bytes) : "memory");
  }
}
DEVICE void copies_begun() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Later>
DEVICE void copies_arrive() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Later) : "memory");
}

// ---- for the host ----

using Stream = cudaStream_t;

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw Failed{cudaGetErrorString(error)};
}

// While it lives, what this thread asks and launches is of the stream's device. Where a process has several GPUs the
// thread may be on another one, and is there again afterwards.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(Stream stream) {
    check(cudaGetDevice(&before_));
    check(cudaStreamGetDevice(stream, &device_));
    if (device_ != before_) check(cudaSetDevice(device_));
  }
  ~OnDeviceOf() {
    if (device_ != before_) cudaSetDevice(before_);
  }
  OnDeviceOf(const OnDeviceOf&) = delete;

 private:
  int before_, device_;
};

// What the thread's device offers.
inline Limits limits() {
  int device, shared, processors, major;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major < 8) throw Failed{"this GPU is older than compute capability 8.0"};
  return {shared, processors};
}

inline void set_bytes(void* memory, int byte, int64_t count, Stream stream) {
  if (count) check(cudaMemsetAsync(memory, byte, count, stream));
}

template <class... Arguments, class... Given>
void launch(void (*kernel)(Arguments...), int64_t blocks, int threads, int64_t shared, Stream stream, const Given&... given) {
  const void* code = reinterpret_cast<const void*>(kernel);
  check(cudaFuncSetAttribute(code, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  kernel<<<static_cast<unsigned>(blocks), threads, shared, stream>>>(given...);
  check(cudaGetLastError());
}

}  // namespace cuda
}  // namespace jals
#endif

namespace jals {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

// A number that the compiler takes for a new one: what is made from it is made anew, and held in no register meanwhile.
DEVICE int anew(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

DEVICE int thread() { return threadIdx.x; }
DEVICE int threads() { return blockDim.x; }
DEVICE int lane() { return threadIdx.x % kWarp; }
DEVICE int warp() { return threadIdx.x / kWarp; }

template <class T>
DEVICE T epsilon() {
  return sizeof(T) == 4 ? T(1.1920928955078125e-07) : T(2.220446049250313e-16);
}
template <class T>
DEVICE T not_a_number() {
  return T(nanf(""));
}

// The sum over a warp's lanes, the same in all of them.
template <class T>
DEVICE T warp_sum(T number) {
  for (int far = kWarp / 2; far; far /= 2) number += __shfl_xor_sync(kAll, number, far);
  return number;
}

// `join` of what the block's threads have, in a fixed order and the same in all of them; `of_warps` is shared, one for
// each warp.
template <class Join>
DEVICE double over_block(double number, double* of_warps, Join join) {
  for (int far = kWarp / 2; far; far /= 2) number = join(number, __shfl_xor_sync(kAll, number, far));
  if (lane() == 0) of_warps[warp()] = number;
  __syncthreads();
  double all = of_warps[0];
  for (int w = 1; w < threads() / kWarp; ++w) all = join(all, of_warps[w]);
  __syncthreads();
  return all;
}
DEVICE double block_sum(double number, double* of_warps) {
  return over_block(number, of_warps, [](double a, double b) { return a + b; });
}
DEVICE double block_max(double number, double* of_warps) {  // of numbers >= 0; NaN where one is
  return over_block(number, of_warps, [](double a, double b) { return a >= b ? a : a < b ? b : a + b; });
}

}  // namespace cuda
}  // namespace jals
