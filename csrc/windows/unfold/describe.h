// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <array>
#include <vector>

#include "common/encode.h"
#include "common/tensor.h"
#include "windows/sizes.h"
#include "windows/unfold/task.h"

namespace torchext {

struct WindowSizes {
  Sizes image, kernel, dilation, padding, stride;
};

// The dimension of each axis of a geometry, or -1 for none. Dimensions of size 1 with one tap and no padding are left
// out, so that the runs along the last axis are long.
inline std::array<int, kSpatial> axis_dimensions(const WindowSizes& s) {
  std::array<int, kSpatial> dimensions{-1, -1, -1};
  int axis = kSpatial;
  for (int d = static_cast<int>(s.image.size()) - 1; d >= 0; --d)
    if (s.image[d] != 1 || s.kernel[d] != 1 || s.padding[d] != 0) dimensions[--axis] = d;
  return dimensions;
}

// Checks that windows fit into the padded image, and that their positions, taps and numbers of elements are so small
// that sums and products of them do not overflow.
inline void check_windows(const Argument& argument, const WindowSizes& s, int64_t padding_mode) {
  check_spans(argument, s.kernel, s.dilation);
  check_all_within(argument, s.padding, 0, kLargestSize);
  check_all_within(argument, s.stride, 1, kLargestSize);
  check_all_within({argument.operation, "the size of the image"}, s.image, 1, kMostElements);
  std::array<int64_t, 2 * kSpatial> counts{1, 1, 1, 1, 1, 1};
  for (size_t d = 0; d < s.image.size(); ++d) {
    check_padding(argument, padding_mode, s.image[d], s.padding[d], s.padding[d]);
    check_within({argument.operation, "the span of a window"}, s.dilation[d] * (s.kernel[d] - 1) + 1, 1,
                 s.image[d] + 2 * s.padding[d]);
    counts[d] = s.kernel[d];
    counts[kSpatial + d] = grid_size(s.image[d], s.kernel[d], s.dilation[d], s.padding[d], s.stride[d]);
  }
  product_of(argument, counts);
}

// The stride of an axis with a single window has no effect on the result. It is set to the window's span, because the
// code for windows that do not overlap is faster.
inline WindowGeometry<int64_t> window_geometry(const std::array<int, kSpatial>& dimensions, const WindowSizes& s) {
  WindowGeometry<int64_t> g;
  for (int a = 0; a < kSpatial; ++a) {
    const int d = dimensions[a];
    g.image[a] = d < 0 ? 1 : s.image[d];
    g.kernel[a] = d < 0 ? 1 : s.kernel[d];
    g.dilation[a] = g.kernel[a] == 1 ? 1 : s.dilation[d];
    g.padding[a] = d < 0 ? 0 : s.padding[d];
    g.stride[a] = d < 0 ? 1 : s.stride[d];
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
  const std::vector<Sizes> g = split(argument, geometry, 4, input.dim() - 2);
  const WindowSizes sizes{image, g[0], g[1], g[2], g[3]};
  check_windows(argument, sizes, padding_mode);
  const auto dimensions = axis_dimensions(sizes);
  task.windows = window_geometry(dimensions, sizes);
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
  return {task.batch, rows, product(g.grid)};
}

// Returns the sizes of the output.
inline Sizes describe_fold(FoldTask& task, const Tensor& columns, const Sizes& geometry, int64_t padding_mode) {
  const Argument argument{"fold", "geometry"}, columns_argument{"fold", "columns"};
  check_dims(columns_argument, columns, 3, 3);
  check_dtype(columns_argument, columns, kAddedTypes);
  const std::vector<Sizes> parts = split(argument, geometry, 5, static_cast<int64_t>(geometry.size() / 5));
  const WindowSizes sizes{parts[0], parts[1], parts[2], parts[3], parts[4]};
  check_all_within(argument, sizes.image, 1, kLargestSize);
  product_of(argument, sizes.image);
  check_windows(argument, sizes, padding_mode);
  task.windows = window_geometry(axis_dimensions(sizes), sizes);
  const auto& g = task.windows;
  const int64_t taps = product(g.kernel);
  check_sizes(columns_argument, columns, 1, std::array{columns.size(1) / taps * taps, product(g.grid)});
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
  return concatenated({task.batch, task.channels}, sizes.image);
}

}  // namespace torchext
