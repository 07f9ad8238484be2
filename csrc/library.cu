// What the CUDA library says of itself. Each kernel is registered in its own source; the schemas are defined in Python.
#include <cuda_runtime.h>

#include "common/old_glibc.cpp"  // a library of its own needs a definition of its own
#include "common/stamp.h"

// Read from the file before the library is loaded: a driver older than this runtime could not run it, nor a GPU for
// which it has no code.
extern "C" __attribute__((visibility("default"), used)) const char torchext_cuda_runtime[] =
    "torchext-cuda-runtime=" TORCHEXT_STRING(CUDART_VERSION) ";"
    "torchext-cuda-architectures=" TORCHEXT_STRING(__CUDA_ARCH_LIST__) ";"
#if defined(TORCHEXT_CUDA_PTX)
    "torchext-cuda-ptx=" TORCHEXT_STRING(TORCHEXT_CUDA_PTX) ";"
#endif
    ;
