// Compiles the loops of an operation once for each instruction set, each time into the namespace of its name:
//
//   #define TORCHEXT_LOOPS "onehot/one_hot/loops.h"
//   #include "common/each_isa.h"
//   static const auto one_hot_loop = TORCHEXT_BEST(one_hot);
//
// chooses the best when the library is loaded. A source includes this once, after all other headers. Loops know nothing
// of tensors: each takes a task, a plain description of pointers and sizes, and a range of it to run.
//
// torch.utils.cpp_extension has no compiler flags for a single file, hence pragmas. The linker keeps one copy of an
// inline function: had it been compiled under a pragma, it could need an instruction that the processor at hand lacks.
// So every header but those of loops has to be included before the first pragma. The baseline, which comes first,
// includes them all, unless a header is included for one instruction set alone; tests/package/test_package.py looks for
// such.
//
// Loops of all operations share the three namespaces: a type or a function with the same parameters must not have one
// name in two of them.
#pragma once

#include "common/capability.h"
#include "common/isa.h"

#if !defined(TORCHEXT_LOOPS)  // where an editor opens this file
#define TORCHEXT_LOOPS "common/runs.h"
#endif

#include TORCHEXT_LOOPS

#if defined(__x86_64__) && !defined(TORCHEXT_BASELINE_ALONE)

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#undef TORCHEXT_ISA
#define TORCHEXT_ISA avx2
#define TORCHEXT_AVX2
#define TORCHEXT_SECOND_ISA
#include TORCHEXT_LOOPS
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#undef TORCHEXT_ISA
#define TORCHEXT_ISA avx512
#define TORCHEXT_AVX512
#undef TORCHEXT_SECOND_ISA
#include TORCHEXT_LOOPS
#pragma GCC pop_options

#undef TORCHEXT_ISA
#undef TORCHEXT_AVX2
#undef TORCHEXT_AVX512

#define TORCHEXT_BEST(loop) ::torchext::best_of(baseline::loop, avx2::loop, avx512::loop)

#else

#define TORCHEXT_BEST(loop) (&baseline::loop)

#endif
