// Included by all headers of loops. These headers are compiled once for each instruction set, into the namespace
// TORCHEXT_ISA, see each_isa.h. An editor that opens one of them sees the baseline. With #pragma once, a header that
// other headers include would be compiled for the first instruction set only. Instead, such a header has its own guard
// macro and is compiled once for each instruction set: each compilation flips the guard macro, TORCHEXT_SECOND_ISA
// flips from one instruction set to the next, and the header is still to be compiled where both are defined or neither
// is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(TORCHEXT_ISA)
#define TORCHEXT_ISA baseline
#endif
