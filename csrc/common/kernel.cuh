// Code that all kernel bodies share. Kernel bodies are defined in <family>/<operation>/kernels.cuh and use pointers,
// sizes and geometry, but no tensors. After the kernels, the same file has a function that lays out one call, chooses
// the variant and passes it to a launcher:
//   launch(kernel, blocks, threads, bytes of shared memory, arguments...)
// launch.processors is the number of multiprocessors of the GPU. The tests run every thread of these kernels on the
// host (tests/on_host).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/axis.h"
#include "common/bits.h"
#include "common/dtypes.h"
#include "common/host_device.h"

// The only shared memory of the kernels. The tests fill it with arbitrary bytes between blocks.
extern __shared__ __align__(16) unsigned char torchext_shared[];

namespace torchext {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

constexpr int64_t kThreadsAProcessor = 2048;  // the most threads that run on a multiprocessor at the same time

// More blocks would not fill the multiprocessors better. Several blocks per multiprocessor balance the load, because
// the number of blocks that run at the same time varies.
constexpr int64_t kBlocksAProcessor = 32;

// Beyond this number of elements 32-bit indices could overflow. The margin below INT32_MAX is for the last step of a
// grid-stride loop.
#if defined(__CUDA_ON_HOST__)
inline const int64_t& kMost32 = cuda_on_host::device.most_32_bit_indices;  // the tests lower this limit
#else
constexpr int64_t kMost32 = INT32_MAX - (1 << 22);
#endif

template <class T>
TORCHEXT_HD T least(T a, T b) {
  return b < a ? b : a;
}

template <class Launch>
int64_t blocks_for(int64_t items, const Launch& launch) {
  return std::min(ceil_div(items, kThreads), launch.processors * kBlocksAProcessor);
}

// Calls body for each item of a grid-stride loop that belongs to this thread.
template <class Index, class Body>
__device__ __forceinline__ void each_item(Index count, const Body& body) {
  const Index step = static_cast<Index>(gridDim.x) * static_cast<Index>(kThreads);
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x); i < count; i += step)
    body(i);
}

// Adds 1 to a counter that other threads change too, and returns its value before.
template <class Index>
__device__ __forceinline__ Index increment(Index* counter) {
  using Unsigned = std::conditional_t<sizeof(Index) == 4, unsigned, unsigned long long>;
  return static_cast<Index>(atomicAdd(reinterpret_cast<Unsigned*>(counter), Unsigned{1}));
}

// The elements that one instruction stores.
template <class U>
struct alignas(16) Vector {
  static constexpr int kCount = 16 / sizeof(U);
  U at[kCount];
};

// Calls body with a value of the type of indices: 32 bits are faster where they suffice.
template <class Body>
void with_index(bool fits_32, const Body& body) {
  if (fits_32)
    body(int32_t{});
  else
    body(int64_t{});
}

}  // namespace torchext
