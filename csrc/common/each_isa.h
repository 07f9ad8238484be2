// Compiles the loops of an operation once for each instruction set, each time into the namespace of that name:
//
//   #define TORCHEXT_LOOPS "onehot/one_hot/loops.h"
//   #include "common/each_isa.h"
//   static const auto one_hot_loop = TORCHEXT_BEST(one_hot);
//
// The last line chooses the best version when the library is loaded. A source file includes this header once, after all
// other headers. Loops do not use tensors: each takes a task, which is a plain struct of pointers and sizes, and the
// range of items to run.
//
// The instruction set is set by a pragma because torch.utils.cpp_extension cannot set compiler flags for a single file.
// The linker keeps one copy of each inline function. If that copy were compiled under a pragma, it could contain an
// instruction that the processor does not have. So every header except those of loops has to be included before the
// first pragma. The baseline comes first and includes them all, unless a header is included for one instruction set
// alone; tests/package/test_package.py checks that there is no such header.
//
// TORCHEXT_AVX512_ALONE, TORCHEXT_AVX2_ALONE and TORCHEXT_BASELINE_ALONE compile the loops for one instruction set, for
// a library that runs on the processor at hand. The baseline is then still read, because it includes the other headers,
// but the compiler generates no code for functions that are not called.
//
// The loops of all operations share the three namespaces. Two operations must not define a type of the same name, or a
// function of the same name and parameters, in one of them.
#pragma once

#include "common/capability.h"
#include "common/isa.h"

#if !defined(TORCHEXT_LOOPS)  // where an editor opens this file
#define TORCHEXT_LOOPS "common/runs.h"
#endif

#include TORCHEXT_LOOPS

#if defined(__x86_64__) && !defined(TORCHEXT_BASELINE_ALONE)

#define TORCHEXT_AVX2
#define TORCHEXT_SECOND_ISA

#if !defined(TORCHEXT_AVX512_ALONE)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#undef TORCHEXT_ISA
#define TORCHEXT_ISA avx2
#include TORCHEXT_LOOPS
#pragma GCC pop_options
#undef TORCHEXT_SECOND_ISA
#endif

#if !defined(TORCHEXT_AVX2_ALONE)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#undef TORCHEXT_ISA
#define TORCHEXT_ISA avx512
#define TORCHEXT_AVX512
#include TORCHEXT_LOOPS
#pragma GCC pop_options
#endif

#undef TORCHEXT_ISA
#undef TORCHEXT_AVX2
#undef TORCHEXT_AVX512
#undef TORCHEXT_SECOND_ISA

#if defined(TORCHEXT_AVX512_ALONE)
#define TORCHEXT_BEST(loop) (&avx512::loop)
#elif defined(TORCHEXT_AVX2_ALONE)
#define TORCHEXT_BEST(loop) (&avx2::loop)
#else
#define TORCHEXT_BEST(loop) ::torchext::best_of(baseline::loop, avx2::loop, avx512::loop)
#endif

#else

#define TORCHEXT_BEST(loop) (&baseline::loop)

#endif
