#include "common/isa.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define TORCHEXT_ISA avx512
#define TORCHEXT_AVX2
#define TORCHEXT_AVX512
#include "common/isa_loops.h"
#pragma GCC pop_options
#endif
