// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <optional>

#include "windows/blend/task.h"
#include "windows/tiles/describe.h"

namespace torchext {

inline ScalarType sum_type(ScalarType dtype) {
  return is_half(dtype) ? ScalarType::Float : dtype;
}

inline ScalarType total_type(ScalarType dtype) {
  return dtype == ScalarType::Double || dtype == ScalarType::ComplexDouble ? ScalarType::Double : ScalarType::Float;
}

// Checks a tensor to which a call adds: (*leading, *image).
inline void check_added_to(const Argument& argument, const Tensor& tensor, ScalarType dtype, const Sizes& sizes,
                           const Tensor& like) {
  check_dtype(argument, tensor, dtypes({dtype}));
  check_shape(argument, tensor, sizes);
  check_same_device(argument, tensor, like);
  if (tensor.size(tensor.dim() - 1) > 1 && tensor.stride(tensor.dim() - 1) != 1) [[unlikely]]
    refuse(argument, "contiguous rows", "strides " + text_of(tensor.strides()));
}

// `offsets` and `weight` have to be contiguous and to outlive the task.
inline void describe_blend(BlendTask& task, const Tensor& windows, const Tensor& offsets,
                           const std::optional<Tensor>& weight, const Tensor& sums,
                           const std::optional<Tensor>& totals) {
  const char* const operation = "blend_windows";
  check_dims({operation, "windows"}, windows, 3, 2 + kSpatial);
  check_dtype({operation, "windows"}, windows, kFloatTypes | kComplexTypes);
  check_within({operation, "the number of channels"}, windows.size(1), 1, kLargestSize);
  const int64_t rank = windows.dim() - 2;
  check_dims({operation, "offsets"}, offsets, 2, 2);
  const bool own = offsets.size(1) > rank;
  check_dims({operation, "sums"}, sums, rank + 1 + own, rank + 1 + own);
  const Sizes size = some_sizes(windows, 2, rank), image = some_sizes(sums, 1 + own, rank);
  const Sizes samples = some_sizes(sums, 0, own);
  check_offsets(operation, offsets, rank, size, image, windows);
  check_sizes({operation, "windows"}, windows, 0, std::array{offsets.size(0)});
  check_merge(operation, windows, weight, size, true);
  const ScalarType dtype = windows.scalar_type();
  check_added_to({operation, "sums"}, sums, sum_type(dtype),
                 concatenated(concatenated(samples, {windows.size(1)}), image), windows);
  product_of({operation, "sums"}, sums.sizes());
  if (totals.has_value())
    check_added_to({operation, "totals"}, *totals, total_type(dtype), concatenated(samples, image), windows);

  describe_offsets(task.tiles, offsets, image, size);
  task.samples = own ? samples[0] : 1;
  task.channels = windows.size(1);
  task.windows = windows.const_data_ptr();
  task.window_stride = windows.stride(0);
  task.channel_stride = windows.stride(1);
  task.weight = weight.has_value() ? weight->const_data_ptr() : nullptr;
  task.sums = sums.mutable_data_ptr();
  task.sample_stride = own ? sums.stride(0) : 0;
  task.plane_stride = sums.stride(own);
  task.totals = totals.has_value() ? totals->mutable_data_ptr() : nullptr;
  task.total_sample_stride = own && totals.has_value() ? totals->stride(0) : 0;
  const int absent = kSpatial - static_cast<int>(rank);
  for (int a = 0; a < kSpatial; ++a) {
    const int d = a - absent;
    task.tap_strides[a] = d < 0 ? 0 : windows.stride(2 + d);
    task.strides[a] = d < 0 ? 0 : sums.stride(1 + own + d);
    task.total_strides[a] = d < 0 || !totals.has_value() ? 0 : totals->stride(own + d);
  }
  task.dtype = dtype;
}

// Whether the call has nothing to add.
inline bool is_empty(const BlendTask& task) {
  return task.tiles.windows == 0 || task.samples == 0;
}

}  // namespace torchext
