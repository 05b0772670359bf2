// A CPU that plays the GPU which jals/rows/native/cuda is written for: blocks run one after the other, a block's threads
// as fibres that change over where they wait for one another. The kernels are compiled unchanged.
//
// A thread that reads what another writes without a barrier between would see it early or late, as the fibres run in one
// order: run them in the other (`turned`), and results that differ tell. So they do of copies that arrive at once, and not
// when they are waited for. Shared memory begins as NaN.
//
// There are two such GPUs. A call's stream is of the second and its thread on the first, which does nothing.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __host__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define UNROLLED
#define ONE_BY_ONE
#define DEVICE inline
#define SHARED_MEMORY(name) char* name = jals::cuda::shared_memory

namespace jals {
namespace cuda {

using std::fabs;
using std::isinf;
using std::max;
using std::min;
using std::sqrt;

// ---- threads ----

struct Index {
  int64_t x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;
inline char* shared_memory;
inline bool turned = false;
inline int64_t shared_bytes = 227 << 10;  // what the device has; tests make it less

struct Barrier {
  int size = 0, came = 0;
  unsigned round = 0;
};
struct Fibre {
  ucontext_t start;
  jmp_buf at;
  bool begun, done;
  unsigned exchanges;
};
constexpr int64_t kStack = 64 << 10;
inline std::unique_ptr<char[]> stacks;
inline std::vector<Fibre> fibres;
inline std::vector<Barrier> warps;
inline Barrier block;
inline jmp_buf scheduler;
inline std::function<void()> body;

// Returns when it is this thread's turn again.
inline void give_way() {
  if (!_setjmp(fibres[threadIdx.x].at)) _longjmp(scheduler, 1);
}
inline void wait_at(Barrier& barrier) {
  const unsigned round = barrier.round;
  if (++barrier.came == barrier.size) {
    barrier.came = 0;
    ++barrier.round;
    return;
  }
  while (barrier.round == round) give_way();
}
inline void __syncthreads() { wait_at(block); }
inline void __syncwarp() { wait_at(warps[threadIdx.x / 32]); }

inline void run_fibre() {
  body();
  fibres[threadIdx.x].done = true;
  _longjmp(scheduler, 1);
}

inline void run_block(int threads, int64_t shared) {
  std::vector<double> memory(shared / sizeof(double) + 1, NAN);
  shared_memory = reinterpret_cast<char*>(memory.data());
  if (!stacks) stacks.reset(new char[1024 * kStack]);
  fibres.resize(threads);
  warps.assign(threads / 32, Barrier{32});
  block = Barrier{threads};
  for (Fibre& fibre : fibres) fibre.begun = fibre.done = false, fibre.exchanges = 0;
  for (int left = threads; left;) {
    left = 0;
    for (int i = 0; i < threads; ++i) {
      threadIdx.x = turned ? threads - 1 - i : i;
      Fibre& fibre = fibres[threadIdx.x];
      if (fibre.done) continue;
      if (!_setjmp(scheduler)) {
        if (fibre.begun) _longjmp(fibre.at, 1);
        fibre.begun = true;
        getcontext(&fibre.start);
        fibre.start.uc_stack.ss_sp = stacks.get() + threadIdx.x * kStack;
        fibre.start.uc_stack.ss_size = kStack;
        fibre.start.uc_link = nullptr;
        makecontext(&fibre.start, run_fibre, 0);
        setcontext(&fibre.start);
      }
      left += !fibres[threadIdx.x].done;
    }
  }
}

// ---- what the lanes of a warp do together ----

union Box {
  double number;
  float few[6];
  unsigned bits;
};
inline Box boxes[32][2][32];

// What all lanes bring; a lane that has read may bring the next while others still read, but not the one after.
inline Box* exchange(const Box& own) {
  const int64_t t = threadIdx.x;
  Box* all = boxes[t / 32][fibres[t].exchanges++ % 2];
  all[t % 32] = own;
  wait_at(warps[t / 32]);
  return all;
}
template <class T>
T __shfl_xor_sync(unsigned, T number, int far) {
  Box own;
  own.number = number;
  return T(exchange(own)[(threadIdx.x % 32) ^ far].number);
}
inline unsigned __ballot_sync(unsigned, bool yes) {
  Box own;
  own.bits = yes;
  const Box* all = exchange(own);
  unsigned found = 0;
  for (int lane = 0; lane < 32; ++lane) found |= all[lane].bits << lane;
  return found;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline float with_bits(float number, uint32_t more, uint32_t mask) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  bits = (bits + more) & mask;
  std::memcpy(&number, &bits, 4);
  return number;
}
inline float widened(uint16_t number) { return with_bits(0, uint32_t(number) << 16, 0xffffffff); }
// To nearest, ties away from zero, as cvt.rna does; NaN and infinity as they are.
inline float to_tf32(float number) { return std::isfinite(number) ? with_bits(number, 0x1000, 0xffffe000) : number; }
// What a tensor core sees of a number, and how it rounds sums.
inline float seen(float number) { return std::isfinite(number) ? with_bits(number, 0, 0xffffe000) : number; }
inline float toward_zero(double number) {
  const float near = float(number);
  return std::fabs(double(near)) > std::fabs(number) ? std::nextafterf(near, 0.0f) : near;
}

inline void multiply(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  Box own;
  std::copy_n(a, 4, own.few);
  std::copy_n(b, 2, own.few + 4);
  const Box* all = exchange(own);
  const int64_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int e = 0; e < 4; ++e) {
    const int64_t row = g + 8 * (e / 2), column = 2 * t + e % 2;
    double sum = d[e];
    for (int k = 0; k < 8; ++k)  // a(row, k) is of lane 4 (row % 8) + k % 4, b(k, column) of lane 4 column + k % 4
      sum += double(seen(all[4 * (row % 8) + k % 4].few[row / 8 + 2 * (k / 4)])) * seen(all[4 * column + k % 4].few[4 + k / 4]);
    d[e] = toward_zero(sum);
  }
}

// ---- copies that arrive later: at the wait, not before; or at once, as they may ----

struct Copy {
  void* to;
  const void* from;
  int bytes;
};
inline std::vector<Copy> begun[1024];
inline std::vector<size_t> groups[1024];  // how many copies each group that is under way has
template <int Bytes>
void copy_later(void* to, const void* from) {
  if (turned) std::memcpy(to, from, Bytes);
  else begun[threadIdx.x].push_back({to, from, Bytes});
}
inline void copies_begun() {
  size_t before = 0;
  for (size_t each : groups[threadIdx.x]) before += each;
  groups[threadIdx.x].push_back(begun[threadIdx.x].size() - before);
}
template <int Later>
void copies_arrive() {
  auto& copies = begun[threadIdx.x];
  auto& under_way = groups[threadIdx.x];
  while (under_way.size() > Later) {
    for (size_t i = 0; i < under_way.front(); ++i) std::memcpy(copies[i].to, copies[i].from, copies[i].bytes);
    copies.erase(copies.begin(), copies.begin() + under_way.front());
    under_way.erase(under_way.begin());
  }
}

// ---- for the host ----

using Stream = int;  // the number of its device
inline int device = 0;  // that the thread is on

class OnDeviceOf {
 public:
  explicit OnDeviceOf(Stream stream) : before_(device) { device = stream; }
  ~OnDeviceOf() { device = before_; }

 private:
  int before_;
};

inline void check_device(Stream stream) {
  if (device != stream) throw Failed{"the thread is on another device than the stream"};
}

inline Limits limits() { return {device ? shared_bytes : 0, 2}; }

inline void set_bytes(void* memory, int byte, int64_t count, Stream stream) {
  check_device(stream);
  std::memset(memory, byte, count);
}

template <class... Arguments, class... Given>
void launch(void (*kernel)(Arguments...), int64_t blocks, int threads, int64_t shared, Stream stream, const Given&... given) {
  check_device(stream);
  blockDim.x = threads, gridDim.x = blocks;
  body = [&] { kernel(given...); };
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads, shared);
}

}  // namespace cuda
}  // namespace jals
