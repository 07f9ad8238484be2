#pragma once

// Marks functions that run on the host and on the device. The test harness that runs kernel bodies on the host defines
// __CUDA_ON_HOST__.
#if defined(__CUDACC__) || defined(__CUDA_ON_HOST__)
#define TORCHEXT_HD __host__ __device__ __forceinline__
#else
#define TORCHEXT_HD inline
#endif

// Comes before a template of such a function that calls a function that may be for the host or for the device alone.
#if defined(__CUDACC__)
#define TORCHEXT_CALLS_ANY _Pragma("nv_exec_check_disable")
#else
#define TORCHEXT_CALLS_ANY
#endif

namespace torchext {

// Reads memory that another thread may write to. A compiler may otherwise read a value for a check and read it again
// for its use. Compilers for GPUs keep what was read in a register.
template <class T>
TORCHEXT_HD T read_once(const T& value) {
#if defined(__CUDA_ARCH__)
  return value;
#else
  return static_cast<const volatile T&>(value);
#endif
}

}  // namespace torchext
