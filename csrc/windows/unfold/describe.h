// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <array>
#include <vector>

#include "common/encode.h"
#include "common/tensor.h"
#include "windows/sizes.h"
#include "windows/unfold/task.h"

namespace torchext {

// The dimension of each axis of a geometry, or -1 for none. Dimensions of size 1 with one tap and no padding are left
// out, so that the runs along the last axis are long.
inline std::array<int, kSpatial> axis_dimensions(const Sizes& image, const Sizes& kernel, const Sizes& padding) {
  std::array<int, kSpatial> dimensions{-1, -1, -1};
  int axis = kSpatial;
  for (int d = static_cast<int>(image.size()) - 1; d >= 0; --d)
    if (image[d] != 1 || kernel[d] != 1 || padding[d] != 0) dimensions[--axis] = d;
  return dimensions;
}

// Checks that windows fit into the padded image, and that their positions, taps and numbers of elements are so small
// that sums and products of them do not overflow.
inline void check_windows(const Argument& argument, const Sizes& image, const Sizes& kernel, const Sizes& dilation,
                          const Sizes& padding, const Sizes& stride, int64_t padding_mode) {
  check_spans(argument, kernel, dilation);
  check_all_within(argument, padding, 0, kLargestSize);
  check_all_within(argument, stride, 1, kLargestSize);
  check_all_within({argument.operation, "the size of the image"}, image, 1, kMostElements);
  std::array<int64_t, 2 * kSpatial> counts{1, 1, 1, 1, 1, 1};
  for (size_t d = 0; d < image.size(); ++d) {
    check_padding(argument, padding_mode, image[d], padding[d], padding[d]);
    check_within({argument.operation, "the span of a window"}, dilation[d] * (kernel[d] - 1) + 1, 1,
                 image[d] + 2 * padding[d]);
    counts[d] = kernel[d];
    counts[kSpatial + d] = grid_size(image[d], kernel[d], dilation[d], padding[d], stride[d]);
  }
  product_of(argument, counts);
}

// The stride of an axis with a single window has no effect on the result. It is set to the window's span, because the
// code for windows that do not overlap is faster.
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
  const Argument argument{"unfold", "geometry"};
  check_dims({"unfold", "input"}, input, 3, 2 + kSpatial);
  check_dtype({"unfold", "input"}, input, kEncodedTypes);
  const Sizes image(input.sizes().begin() + 2, input.sizes().end());
  const std::vector<Sizes> sizes = split(argument, geometry, 4, input.dim() - 2);
  const Sizes &kernel = sizes[0], &dilation = sizes[1], &padding = sizes[2], &stride = sizes[3];
  check_windows(argument, image, kernel, dilation, padding, stride, padding_mode);
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
  const int64_t rows =
      product_of({"unfold", "input"}, std::array{task.channels, g.kernel[0], g.kernel[1], g.kernel[2]});
  return {task.batch, rows, g.grid[0] * g.grid[1] * g.grid[2]};
}

// Returns the sizes of the output.
inline Sizes describe_fold(FoldTask& task, const Tensor& columns, const Sizes& geometry, int64_t padding_mode) {
  const Argument argument{"fold", "geometry"}, columns_argument{"fold", "columns"};
  check_dims(columns_argument, columns, 3, 3);
  check_dtype(columns_argument, columns, kAddedTypes);
  const std::vector<Sizes> sizes = split(argument, geometry, 5, static_cast<int64_t>(geometry.size() / 5));
  const Sizes &image = sizes[0], &kernel = sizes[1], &dilation = sizes[2], &padding = sizes[3], &stride = sizes[4];
  check_all_within(argument, image, 1, kLargestSize);
  product_of(argument, image);
  check_windows(argument, image, kernel, dilation, padding, stride, padding_mode);
  const auto dimensions = axis_dimensions(image, kernel, padding);
  task.windows = window_geometry(dimensions, image, kernel, dilation, padding, stride);
  const auto& g = task.windows;
  const int64_t taps = g.kernel[0] * g.kernel[1] * g.kernel[2];
  check_sizes(columns_argument, columns, 1,
              std::array{columns.size(1) / taps * taps, g.grid[0] * g.grid[1] * g.grid[2]});
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
  return concatenated({task.batch, task.channels}, image);
}

}  // namespace torchext
