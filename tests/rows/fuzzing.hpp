// What the fuzz programs share: pools of several kinds, draws, and the run over cases.
#pragma once

#include <cstdio>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace jals {
namespace {

// ---- pools ----

// Starts a thread for every task, as a pool with idle threads does.
struct Threads {
  int64_t threads;
  std::vector<std::thread> started{};
  int64_t num_threads() const { return threads; }
  template <class Task>
  void Schedule(Task task) {
    started.emplace_back(std::move(task));
  }
  ~Threads() {
    for (std::thread& thread : started) thread.join();
  }
};

// All its threads are taken: tasks start when `run` is called, or never.
struct Busy {
  std::vector<std::function<void()>> tasks{};
  int64_t num_threads() const { return 4; }
  template <class Task>
  void Schedule(Task task) {
    tasks.emplace_back(std::move(task));
  }
  void run() {
    for (auto& task : tasks) task();
  }
};

// ---- cases ----

struct Draws {
  explicit Draws(uint64_t seed) : random_(seed) {}
  int64_t whole(int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(random_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(random_); }
  double normal() { return std::normal_distribution<double>()(random_); }
  template <class Range>
  auto any_of(const Range& range) {
    return *(std::begin(range) + whole(0, int64_t(std::size(range)) - 1));
  }
  std::mt19937_64 random_;
};

template <template <class> class Case, class T>
bool passes(uint64_t seed) {
  Case<T> drawn(seed);
  const std::string what = drawn.describe(), why = drawn.check();
  if (!why.empty()) std::printf("%s\n%s\nagain: fuzz 1 %llu\n", why.c_str(), what.c_str(), (unsigned long long)seed);
  return why.empty();
}

bool runs_here() {
#if JALS_BYTES > 16
  __builtin_cpu_init();
#endif
#if JALS_BYTES == 64
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw");
#elif JALS_BYTES == 32
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

// Runs so many cases from a seed on, both as words of the command; the first that fails ends it.
template <template <class> class Case>
int fuzz(int count, char** words) {
  if (!runs_here()) {
    std::puts("skipped: this machine lacks the instruction set");
    return 77;
  }
  const uint64_t cases = count > 1 ? std::stoull(words[1]) : 1000, seed = count > 2 ? std::stoull(words[2]) : 0;
  for (uint64_t i = seed; i < seed + cases; ++i)
    if (!(i % 2 ? passes<Case, double>(i) : passes<Case, float>(i))) return 1;
  std::printf("%llu cases pass\n", (unsigned long long)cases);
  return 0;
}

}  // namespace
}  // namespace jals
