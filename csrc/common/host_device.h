#pragma once

// Marks functions that run on the host and on the device. The test harness that runs kernel bodies on the host defines
// __CUDA_ON_HOST__.
#if defined(__CUDACC__) || defined(__CUDA_ON_HOST__)
#define TORCHEXT_HD __host__ __device__ __forceinline__
#else
#define TORCHEXT_HD inline
#endif
