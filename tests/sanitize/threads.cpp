// PyTorch's parallel loops with threads that sanitizers can follow. PyTorch's own threads are those of OpenMP, whose
// barriers sanitizers do not know, so that ThreadSanitizer would report every two consecutive loops. The library is
// linked with these definitions, which take precedence over PyTorch's. They ignore the grain size, so that the shortest
// loop has several threads.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kThreads = 3;

}  // namespace

extern "C" AOTITorchError torch_get_num_threads(uint32_t* threads) {
  *threads = kThreads;
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc body, void* context) {
  const int64_t count = end - begin, pieces = std::min(count, kThreads);
  std::vector<std::thread> threads;
  for (int64_t piece = 0; piece < pieces; ++piece)
    threads.emplace_back(body, begin + count * piece / pieces, begin + count * (piece + 1) / pieces, context);
  for (std::thread& thread : threads) thread.join();
  return AOTI_TORCH_SUCCESS;
}
