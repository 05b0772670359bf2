// A loop over pieces of work by whatever threads come in time.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace jals {

// Helpers that start after the end find no piece left, so nobody waits for them: they share ownership of this, and touch
// nothing else.
template <class Work>
class Loop {
 public:
  Loop(Work work, int64_t pieces) : work_(std::move(work)), pieces_(pieces) {}

  // Works until no piece is left to take.
  void run() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < pieces_;) {
      work_(i);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces_) {
        std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_all();
      }
    }
  }

  // Waits for the pieces that others have taken: they are running.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [&] { return done_.load(std::memory_order_acquire) == pieces_; });
  }

 private:
  Work work_;
  int64_t pieces_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// work(piece) for each piece from 0; it must not throw. The calling thread works itself, and so do as many of the
// pool's as start in time.
template <class Work, class Pool>
void for_each(Pool& pool, int64_t pieces, Work work) {
  auto loop = std::make_shared<Loop<Work>>(std::move(work), pieces);
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), pieces) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([loop] { loop->run(); });
  loop->run();
  loop->wait();
}

}  // namespace jals
