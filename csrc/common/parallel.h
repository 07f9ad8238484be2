#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

namespace torchext {

// For fewer bytes of traffic, waking a thread takes longer than it saves.
constexpr int64_t kBytesPerThread = 128 * 1024;

// Runs body(begin, end) over [0, count) on PyTorch's threads, each with at least kBytesPerThread of work. An exception
// that a body throws is rethrown here: an exception that leaves a parallel region of PyTorch loses its message.
template <class Body>
void parallel(int64_t count, int64_t bytes_per_item, const Body& body) {
  if (count <= 0) return;
  const int64_t grain = std::max<int64_t>(1, kBytesPerThread / std::max<int64_t>(1, bytes_per_item));
  if (count <= grain) return body(int64_t{0}, count);
  std::exception_ptr thrown;
  std::atomic_flag has_thrown;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      if (!has_thrown.test_and_set()) thrown = std::current_exception();
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace torchext
