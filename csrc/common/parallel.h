#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace torchext {

// For fewer bytes of traffic, waking a thread takes longer than it saves.
constexpr int64_t kBytesPerThread = 128 * 1024;

// Waits for the stores of this thread that bypass the caches, whose order other threads may see differently.
inline void finish_stores() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Runs body(begin, end) over [0, count) on PyTorch's threads, each with at least kBytesPerThread of work. An exception
// that a body throws is rethrown here: an exception that leaves a parallel region of PyTorch loses its message.
template <class Body>
void parallel(int64_t count, int64_t bytes_per_item, const Body& body) {
  if (count <= 0) return;
  const int64_t grain = std::max<int64_t>(1, kBytesPerThread / std::max<int64_t>(1, bytes_per_item));
  if (count <= grain) {
    body(int64_t{0}, count);
    return finish_stores();
  }
  std::exception_ptr thrown;
  std::atomic_flag has_thrown;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
      finish_stores();
    } catch (...) {
      if (!has_thrown.test_and_set()) thrown = std::current_exception();
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace torchext
