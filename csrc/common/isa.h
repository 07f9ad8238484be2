// What headers of loops share. They are compiled once for each instruction set, into the namespace TORCHEXT_ISA, see
// each_isa.h; opened alone, as an editor does it, they are those of the baseline. Under #pragma once a header that
// others include would be read for the first instruction set alone. Such a header is read once for each set instead:
// its own guard macro is flipped each time, TORCHEXT_SECOND_ISA from one set to the next, and equal states mean that it
// has not been read for this set yet.
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
