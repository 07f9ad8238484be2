// Everything that the loops include, seen before any target pragma: a header's inline functions must not be compiled
// for an instruction set that the processor at hand may lack. torch.utils.cpp_extension has no compiler flags for a
// single file, hence pragmas. The loops of a family stand in <family>/loops.h, inside namespace TORCHEXT_ISA.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cam/geometry.h"
#include "cam/task.h"
#include "common/bits.h"
#include "common/loops.h"
#include "onehot/task.h"
#include "windows/patchify_task.h"
#include "windows/task.h"
#include "windows/tiles_task.h"
