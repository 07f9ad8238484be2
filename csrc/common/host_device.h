#pragma once

// Marks what host and device share. __CUDA_ON_HOST__ is set by the test harness that runs kernel bodies on the host.
#if defined(__CUDACC__) || defined(__CUDA_ON_HOST__)
#define TORCHEXT_HD __host__ __device__ __forceinline__
#else
#define TORCHEXT_HD inline
#endif
