// What every CPU and CUDA launcher needs of a tensor, through the LibTorch Stable ABI alone.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "common/axis.h"

namespace torchext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A fresh row-major tensor on the device of `like`. On the CPU a large one is hinted for huge pages.
Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype);

// Axes [first, last) of a tensor with those of size 1 dropped and neighbours that are one run of memory merged.
// Returns how many were written; none means a single element.
int merged_axes(const Tensor& tensor, int first, int last, Axis* axes);

inline int64_t element_count(const std::vector<int64_t>& sizes) {
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return count;
}

}  // namespace torchext
