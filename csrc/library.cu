// This source gives the CUDA library its build stamp and a record of its CUDA versions. Each kernel is registered in
// its own source file; the schemas are defined in Python.
#include <cuda_runtime.h>

#include "common/old_glibc.cpp"  // each of the two libraries needs its own definition
#include "common/stamp.h"

// torchext reads this text from the file before it loads the library: a driver older than this CUDA runtime cannot run
// the library, and a GPU of another architecture has no code in it.
extern "C" __attribute__((visibility("default"), used)) const char torchext_cuda_runtime[] =
    "torchext-cuda-runtime=" TORCHEXT_STRING(CUDART_VERSION) ";"
    "torchext-cuda-architectures=" TORCHEXT_STRING(__CUDA_ARCH_LIST__) ";"
#if defined(TORCHEXT_CUDA_PTX)
    "torchext-cuda-ptx=" TORCHEXT_STRING(TORCHEXT_CUDA_PTX) ";"
#endif
    ;
