#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace torchext {

// Below this many bytes of traffic a thread costs more to wake than it saves.
constexpr int64_t kBytesPerThread = 128 * 1024;

// Runs body(begin, end) over [0, count) on PyTorch's threads, each with at least kBytesPerThread of work. The body must
// not throw: what is thrown inside a parallel region loses its text.
template <class Body>
void parallel(int64_t count, int64_t bytes_per_item, const Body& body) {
  if (count <= 0) return;
  const int64_t grain = std::max<int64_t>(1, kBytesPerThread / std::max<int64_t>(1, bytes_per_item));
  if (count <= grain)
    body(int64_t{0}, count);
  else
    torch::stable::parallel_for(0, count, grain, body);
}

}  // namespace torchext
