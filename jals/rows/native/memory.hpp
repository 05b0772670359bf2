// Memory whose vectors are aligned.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace jals {

class Memory {
 public:
  explicit Memory(size_t bytes) : start_(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {
    if (!start_) throw std::bad_alloc();
  }
  ~Memory() { std::free(start_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* get() const { return static_cast<char*>(start_); }

 private:
  void* start_;
};

}  // namespace jals
