// What kernel bodies share. They stand in <family>/<operation>/kernels.cuh and know pointers, sizes and geometry but no
// tensors. Below them in the same file a function lays out one call, chooses the variant and hands it to a
// launcher:
//   launch(kernel, blocks, threads, bytes of shared memory, arguments...), launch.processors: how many to
//   fill.
// The tests run every thread of these kernels on the host (tests/on_host).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/axis.h"
#include "common/bits.h"
#include "common/host_device.h"

// The only shared memory that kernels use: tests poison it between blocks.
extern __shared__ __align__(16) unsigned char torchext_shared[];

namespace torchext {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

constexpr int64_t kThreadsAProcessor = 2048;  // that run at once, at most

// More would not fill the processors better; several a processor even out how many of them run at once.
constexpr int64_t kBlocksAProcessor = 32;

// Beyond this 32-bit indices could overflow: the rest is for the last step of a grid-stride loop.
#if defined(__CUDA_ON_HOST__)
inline const int64_t& kMost32 = cuda_on_host::device.most_32_bit_indices;  // where the tests lower it
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

// One after another, the items of a grid-stride loop that fall to this thread.
template <class Index, class Body>
__device__ __forceinline__ void each_item(Index count, const Body& body) {
  const Index step = static_cast<Index>(gridDim.x) * static_cast<Index>(kThreads);
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x); i < count; i += step)
    body(i);
}

// What a float dtype is computed in.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// What is stored in one instruction.
template <class U>
struct alignas(16) Vector {
  static constexpr int kCount = 16 / sizeof(U);
  U at[kCount];
};

// Calls body with a value of an unsigned type of that size: whoever only moves elements need not know more of
// them.
template <class Body>
void with_bits(int size, const Body& body) {
  switch (size) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    case 8:
      return body(uint64_t{});
    default:
      return body(Bits128{});
  }
}

}  // namespace torchext
