// What headers of loops share. They are compiled once for each instruction set, into the namespace TORCHEXT_ISA, see
// each_isa.h; opened alone, as an editor does it, they are those of the baseline. #pragma once would leave out all
// instruction sets but the first: headers that others include have a guard that is as TORCHEXT_SECOND_ISA, defined for
// every other set, was when they were included last.
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
#endif

#if !defined(TORCHEXT_ISA)
#define TORCHEXT_ISA baseline
#endif
