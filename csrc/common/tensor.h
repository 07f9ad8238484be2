// Code that all CPU and CUDA launchers need to read and allocate tensors. It uses only the LibTorch Stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/axis.h"

// In PyTorch 2.13 and later, the message of the last exception in this thread. Null in older versions.
extern "C" __attribute__((weak, visibility("default"))) const char* torch_exception_get_what_without_backtrace();

namespace torchext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

[[noreturn]] inline void throw_not_allocated(const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::string shape;
  for (const int64_t size : sizes) shape += (shape.empty() ? "" : "×") + std::to_string(size);
  std::string message = "no memory for a tensor of size " + shape + " and dtype " + torch::headeronly::toString(dtype);
  if (torch_exception_get_what_without_backtrace != nullptr)
    message += std::string(": ") + torch_exception_get_what_without_backtrace();
  throw std::runtime_error(message);
}

// The strides of a row-major tensor.
inline std::vector<int64_t> row_major_strides(const std::vector<int64_t>& sizes, ScalarType dtype) {
  STD_TORCH_CHECK(sizes.size() <= kMaxDims, "torchext: no tensors of more than 64 dimensions");
  std::vector<int64_t> strides(sizes.size());
  int64_t count = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = count;
    if (__builtin_mul_overflow(count, sizes[d] > 1 ? sizes[d] : 1, &count)) throw_not_allocated(sizes, dtype);
  }
  return strides;
}

inline int32_t code_of(ScalarType dtype) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
}

// Allocates a row-major tensor, not initialised.
inline Tensor allocate(const std::vector<int64_t>& sizes, ScalarType dtype, int32_t device_type, int32_t device_index) {
  const std::vector<int64_t> strides = row_major_strides(sizes, dtype);
  AtenTensorHandle handle;
  if (aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), code_of(dtype),
                               device_type, device_index, &handle) != TORCH_SUCCESS)
    throw_not_allocated(sizes, dtype);
  return Tensor(handle);
}

// Allocates a row-major tensor on the CPU, not initialised. A large one reuses the memory of deleted results, or else
// the operating system is advised to use huge pages. Sets `streams` to whether it is worth writing the tensor with
// stores that bypass the caches.
Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype, bool* streams = nullptr);

// Appends the dimensions [first, last) of a tensor to `axes`, without those of size 1.
inline void append_axes(const Tensor& tensor, int64_t first, int64_t last, Axes& axes) {
  STD_TORCH_CHECK(tensor.dim() <= kMaxDims, "torchext: no tensors of more than 64 dimensions");
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (int64_t d = first; d < last; ++d)
    if (sizes[d] != 1) axes.append({sizes[d], strides[d]});
}

inline bool is_half(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}

inline int64_t element_count(const std::vector<int64_t>& sizes) {
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return count;
}

}  // namespace torchext
