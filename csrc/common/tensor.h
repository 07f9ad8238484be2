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

// A fresh row-major tensor.
inline Tensor allocate(const std::vector<int64_t>& sizes, ScalarType dtype, int32_t device_type, int32_t device_index) {
  int64_t strides[kMaxDims];
  int64_t count = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = count;
    count *= sizes[d] > 1 ? sizes[d] : 1;
  }
  const int32_t dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides,
                                                         dtype_code, device_type, device_index, &handle));
  return Tensor(handle);
}

// A fresh row-major tensor on the CPU, hinted for huge pages where it is large.
Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype);

// Axes [first, last) of a tensor with those of size 1 dropped and neighbours that are one run of memory
// merged. Returns how many were written; none means a single element.
inline int merged_axes(const Tensor& tensor, int first, int last, Axis* axes) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int count = 0;
  for (int d = first; d < last; ++d)
    if (sizes[d] != 1) append_axis(axes, count, {sizes[d], strides[d]});
  return count;
}

inline int64_t element_count(const std::vector<int64_t>& sizes) {
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return count;
}

}  // namespace torchext
