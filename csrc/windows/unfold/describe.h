// From a call's tensors to its task, for the CPU's launcher and for CUDA's.
#pragma once

#include <array>
#include <vector>

#include "common/encode.h"
#include "common/tensor.h"
#include "windows/sizes.h"
#include "windows/unfold/task.h"

namespace torchext {

// The dimension at each axis of a geometry, -1 for none. Dimensions of size 1 that no window leaves are left
// out, so that the runs along the last axis are long.
inline std::array<int, kSpatial> axis_dimensions(const Sizes& image, const Sizes& kernel, const Sizes& padding) {
  std::array<int, kSpatial> dimensions{-1, -1, -1};
  int axis = kSpatial;
  for (int d = static_cast<int>(image.size()) - 1; d >= 0; --d)
    if (image[d] != 1 || kernel[d] != 1 || padding[d] != 0) dimensions[--axis] = d;
  return dimensions;
}

// Where an axis has a single window its stride is free: one that keeps the taps apart takes the shorter way.
inline WindowGeometry<int64_t> window_geometry(const std::array<int, kSpatial>& dimensions, const Sizes& image,
                                               const Sizes& kernel, const Sizes& dilation, const Sizes& padding,
                                               const Sizes& stride) {
  WindowGeometry<int64_t> g;
  for (int a = 0; a < kSpatial; ++a) {
    const int d = dimensions[a];
    g.image[a] = d < 0 ? 1 : image[d];
    g.kernel[a] = d < 0 ? 1 : kernel[d];
    g.dilation[a] = g.kernel[a] == 1 ? 1 : dilation[d];
    g.padding[a] = d < 0 ? 0 : padding[d];
    g.stride[a] = d < 0 ? 1 : stride[d];
    g.grid[a] = grid_size(g.image[a], g.kernel[a], g.dilation[a], g.padding[a], g.stride[a]);
    if (g.grid[a] == 1) g.stride[a] = (g.kernel[a] - 1) * g.dilation[a] + 1;
  }
  return g;
}

inline PaddingMode padding_mode_of(int64_t number, const WindowGeometry<int64_t>& g) {
  return g.padding[0] == 0 && g.padding[1] == 0 && g.padding[2] == 0 ? PaddingMode::kConstant
                                                                     : static_cast<PaddingMode>(number);
}

inline void describe_unfold(UnfoldTask& task, const Tensor& input, const Sizes& geometry, int64_t padding_mode,
                            double value) {
  const Sizes image(input.sizes().begin() + 2, input.sizes().end());
  const std::vector<Sizes> sizes = split(geometry, 4);
  const Sizes &kernel = sizes[0], &dilation = sizes[1], &padding = sizes[2], &stride = sizes[3];
  const auto dimensions = axis_dimensions(image, kernel, padding);
  task.windows = window_geometry(dimensions, image, kernel, dilation, padding, stride);
  task.batch = input.size(0);
  task.channels = input.size(1);
  task.image = input.const_data_ptr();
  task.batch_stride = input.stride(0);
  task.channel_stride = input.stride(1);
  for (int a = 0; a < kSpatial; ++a) task.strides[a] = dimensions[a] < 0 ? 0 : input.stride(2 + dimensions[a]);
  task.element_size = static_cast<int>(input.element_size());
  task.mode = padding_mode_of(padding_mode, task.windows);
  encode(value, input.scalar_type(), task.value);
}

inline Sizes unfold_sizes(const UnfoldTask& task) {
  const auto& g = task.windows;
  return {task.batch, task.channels * g.kernel[0] * g.kernel[1] * g.kernel[2], g.grid[0] * g.grid[1] * g.grid[2]};
}

// Returns the sizes of the output.
inline Sizes describe_fold(FoldTask& task, const Tensor& columns, const Sizes& geometry, int64_t padding_mode) {
  const std::vector<Sizes> sizes = split(geometry, 5);
  const Sizes &image = sizes[0], &kernel = sizes[1], &dilation = sizes[2], &padding = sizes[3], &stride = sizes[4];
  const auto dimensions = axis_dimensions(image, kernel, padding);
  task.windows = window_geometry(dimensions, image, kernel, dilation, padding, stride);
  const auto& g = task.windows;
  const int64_t taps = g.kernel[0] * g.kernel[1] * g.kernel[2];
  task.batch = columns.size(0);
  task.channels = columns.size(1) / taps;
  task.columns = columns.const_data_ptr();
  task.batch_stride = columns.stride(0);
  task.channel_stride = columns.stride(1) * taps;
  task.tap_stride = columns.stride(1);
  task.window_stride = columns.stride(2);
  task.mode = padding_mode_of(padding_mode, g);
  task.dtype = columns.scalar_type();
  task.element_size = static_cast<int>(columns.element_size());
  return joined({task.batch, task.channels}, image);
}

}  // namespace torchext
