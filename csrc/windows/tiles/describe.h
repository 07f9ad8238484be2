// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "common/encode.h"
#include "common/tensor.h"
#include "windows/sizes.h"
#include "windows/tiles/task.h"

namespace torchext {

// Dimension d of `rank` dimensions is axis kSpatial - rank + d. The axes before it have one position and one tap.
struct GridSizes {
  Sizes image, size, grid, stride, dilation, first, last;
};

inline TileAxis<int64_t> axis_of(const GridSizes& g, size_t d) {
  return {g.image[d], g.size[d], g.dilation[d], g.grid[d], g.stride[d], g.first[d], g.last[d]};
}

constexpr TileAxis<int64_t> kAbsentAxis{1, 1, 1, 1, 1, 0, 0};

inline void check_grid(const Argument& argument, const GridSizes& g, int64_t mode) {
  check_all_within({argument.operation, "the size of the image"}, g.image, 1, kMostElements);
  check_spans(argument, g.size, g.dilation);
  check_all_within(argument, g.grid, 1, kMostElements);
  check_all_within(argument, g.stride, 1, kLargestSize);
  check_all_within(argument, g.first, -kFarthest, kFarthest);
  check_all_within(argument, g.last, -kFarthest, kFarthest);
  product_of(argument, std::array{product_of(argument, g.size), product_of(argument, g.grid)});
  product_of(argument, g.image);
  for (size_t d = 0; d < g.size.size(); ++d) {
    const TileAxis<int64_t> axis = axis_of(g, d);
    check_within(argument, product_of(argument, std::array{axis.grid, axis.stride}), 1, kFarthest);
    check_padding(argument, mode, axis.image, -axis.start(0), axis.after());
  }
}

inline void describe_grid(TileLayout& tiles, const Argument& argument, const GridSizes& g, int64_t mode) {
  check_grid(argument, g, mode);
  const int absent = kSpatial - static_cast<int>(g.size.size());
  tiles.windows = 1;
  for (int a = 0; a < kSpatial; ++a) {
    tiles.axes[a] = a < absent ? kAbsentAxis : axis_of(g, static_cast<size_t>(a - absent));
    tiles.windows *= tiles.axes[a].grid;
  }
  tiles.mode = static_cast<PaddingMode>(mode);
}

template <class Size, class Image>
void check_offsets(const char* operation, const Tensor& offsets, int64_t rank, const Size& size, const Image& image,
                   const Tensor& like) {
  const Argument argument{operation, "offsets"};
  check_within({operation, "the number of spatial dimensions"}, rank, 1, kSpatial);
  check_all_within({operation, "size"}, size, 1, kLargestSize);
  check_all_within({operation, "the size of the image"}, image, 1, kMostElements);
  product_of({operation, "size"}, size);
  product_of({operation, "the size of the image"}, image);
  check_dtype(argument, offsets, dtypes({ScalarType::Long}));
  check_dims(argument, offsets, 2, 2);
  check_within({operation, "the columns of offsets"}, offsets.size(1), rank, rank + 1);
  check_same_device(argument, offsets, like);
}

// `offsets` has to be contiguous and to outlive the task.
inline void describe_offsets(TileLayout& tiles, const Tensor& offsets, const Sizes& image, const Sizes& size) {
  const int rank = static_cast<int>(size.size()), absent = kSpatial - rank;
  for (int a = 0; a < kSpatial; ++a) {
    const size_t d = static_cast<size_t>(a - absent);
    tiles.axes[a] = a < absent ? kAbsentAxis : TileAxis<int64_t>{image[d], size[d], 1, 1, 1, 0, 0};
  }
  tiles.windows = offsets.size(0);
  tiles.on_grid = false;
  tiles.offsets = static_cast<const int64_t*>(offsets.const_data_ptr());
  tiles.offset_columns = offsets.size(1);
  tiles.own_sample = tiles.offset_columns > rank;
  for (int a = absent; a < kSpatial; ++a) tiles.column[a] = a - absent + tiles.own_sample;
}

inline void describe_image(ExtractTask& task, const Tensor& input, double value) {
  task.samples = input.size(0);
  task.channels = input.size(1);
  task.outer = task.tiles.own_sample ? 1 : task.samples;
  task.image = input.const_data_ptr();
  task.sample_stride = input.stride(0);
  task.channel_stride = input.stride(1);
  const int absent = kSpatial + 2 - static_cast<int>(input.dim());
  for (int a = 0; a < kSpatial; ++a) task.strides[a] = a < absent ? 0 : input.stride(2 + a - absent);
  task.element_size = static_cast<int>(input.element_size());
  encode(value, input.scalar_type(), task.value);
}

// Windows of shape (n, *grid or windows, c, *size), without n if each window has its own sample.
inline void describe_windows(MergeTask& task, const Tensor& windows, const std::optional<Tensor>& weight,
                             int64_t samples, bool normalize) {
  const bool own = task.tiles.own_sample;
  const int rank =
      task.tiles.on_grid ? static_cast<int>(windows.dim() - 2) / 2 : static_cast<int>(windows.dim() - (own ? 2 : 3));
  const int grid = task.tiles.on_grid ? rank : 1, absent = kSpatial - rank, at = own ? 0 : 1;
  task.samples = samples;
  task.channels = windows.size(at + grid);
  task.windows = windows.const_data_ptr();
  task.sample_stride = own ? 0 : windows.stride(0);
  task.channel_stride = windows.stride(at + grid);
  for (int a = 0; a < kSpatial; ++a) {
    task.window_strides[a] = a < kSpatial - grid ? 0 : windows.stride(at + a - (kSpatial - grid));
    task.tap_strides[a] = a < absent ? 0 : windows.stride(at + grid + 1 + a - absent);
  }
  task.weight = weight.has_value() ? weight->const_data_ptr() : nullptr;
  task.normalize = normalize;
  task.dtype = windows.scalar_type();
  task.element_size = static_cast<int>(windows.element_size());
}

// Returns the sizes of dimensions [first, first + rank).
inline Sizes some_sizes(const Tensor& tensor, int64_t first, int64_t rank) {
  const auto begin = tensor.sizes().begin() + first;
  return {begin, begin + rank};
}

inline GridSizes extract_grid(const Argument& argument, const Tensor& input, const Sizes& geometry) {
  check_dims({argument.operation, "input"}, input, 3, 2 + kSpatial);
  const std::vector<Sizes> g = split(argument, geometry, 6, input.dim() - 2);
  return {some_sizes(input, 2, input.dim() - 2), g[0], g[1], g[2], g[3], g[4], g[5]};
}

inline GridSizes merge_grid(const Argument& argument, const Tensor& windows, const Sizes& geometry) {
  const int64_t rank = (windows.dim() - 2) / 2;
  const std::vector<Sizes> g = split(argument, geometry, 5, rank);
  check_dims({argument.operation, "windows"}, windows, 2 + 2 * rank, 2 + 2 * rank);
  check_all_within(argument, g[0], 1, kLargestSize);
  return {g[0], some_sizes(windows, 2 + rank, rank), some_sizes(windows, 1, rank), g[1], g[2], g[3], g[4]};
}

inline Sizes extracted_sizes(const ExtractTask& task, const Sizes& windows, const Sizes& size) {
  Sizes sizes;
  if (!task.tiles.own_sample) sizes.push_back(task.samples);
  sizes = concatenated(sizes, windows);
  sizes.push_back(task.channels);
  return concatenated(sizes, size);
}

inline bool is_floating(ScalarType dtype) {
  return is_half(dtype) || dtype == ScalarType::Float || dtype == ScalarType::Double ||
         dtype == ScalarType::ComplexFloat || dtype == ScalarType::ComplexDouble;
}

// Whether elements of a dtype are weighted in float64, not in float32. torchext/windows/tiles.py makes the weights in
// the same type.
inline bool weighs_in_double(ScalarType dtype) {
  return !is_floating(dtype) || dtype == ScalarType::Double || dtype == ScalarType::ComplexDouble;
}

template <class Size>
void check_merge(const char* operation, const Tensor& windows, const std::optional<Tensor>& weight, const Size& size,
                 bool normalize) {
  check_dtype({operation, "windows"}, windows, kAddedTypes);
  if (windows.scalar_type() == ScalarType::Bool)  // windows of bools are merged by a logical or
    check_within({operation, "weight or normalize, for bool"}, weight.has_value() || normalize, 0, 0);
  if (!weight.has_value()) return;
  const Argument argument{operation, "weight"};
  check_dtype(argument, *weight,
              dtypes({weighs_in_double(windows.scalar_type()) ? ScalarType::Double : ScalarType::Float}));
  check_shape(argument, *weight, size);
  check_same_device(argument, *weight, windows);
}

inline void check_gather(const Tensor& input, const Tensor& offsets, int64_t rank, const Sizes& size) {
  const char* const operation = "gather_windows";
  check_count({operation, "size"}, size.size(), static_cast<size_t>(rank));
  check_dims({operation, "input"}, input, rank + 2, rank + 2);
  check_dtype({operation, "input"}, input, kEncodedTypes);
  check_offsets(operation, offsets, rank, size, input.sizes().slice(2), input);
}

inline void check_scatter(const Tensor& windows, const Tensor& offsets, const std::optional<Tensor>& weight,
                          int64_t samples, const Sizes& image, bool normalize) {
  const char* const operation = "scatter_windows";
  const int64_t rank = static_cast<int64_t>(image.size()), before = windows.dim() - rank;
  check_within({operation, "the dimensions before those of a window"}, before, 2, 3);
  const auto size = windows.sizes().slice(static_cast<size_t>(before));
  check_all_within({operation, "output_size"}, image, 1, kLargestSize);
  check_offsets(operation, offsets, rank, size, image, windows);
  const bool own = offsets.size(1) > rank;
  check_within({operation, "the dimensions before those of a window"}, before, own ? 2 : 3, own ? 2 : 3);
  check_sizes({operation, "windows"}, windows, own ? 0 : 1, std::array{offsets.size(0)});
  check_within({operation, "samples"}, samples, 0, kLargestSize);
  check_merge(operation, windows, weight, size, normalize);
}

// The following functions check and describe a call, and return the sizes of its output. Offsets and weights have to be
// row-major.

inline Sizes describe_extract(ExtractTask& task, const Tensor& input, int64_t mode, const Sizes& geometry,
                              double value) {
  const Argument argument{"extract_windows", "geometry"};
  const GridSizes sizes = extract_grid(argument, input, geometry);
  check_dtype({argument.operation, "input"}, input, kEncodedTypes);
  describe_grid(task.tiles, argument, sizes, mode);
  describe_image(task, input, value);
  return extracted_sizes(task, sizes.grid, sizes.size);
}

inline Sizes describe_gather(ExtractTask& task, const Tensor& input, const Tensor& offsets, int64_t rank,
                             const Sizes& size) {
  check_gather(input, offsets, rank, size);
  describe_offsets(task.tiles, offsets, some_sizes(input, 2, rank), size);
  describe_image(task, input, 0);
  return extracted_sizes(task, {offsets.size(0)}, size);
}

inline Sizes describe_merge(MergeTask& task, const Tensor& windows, const std::optional<Tensor>& weight, int64_t mode,
                            const Sizes& geometry, bool normalize) {
  const Argument argument{"merge_windows", "geometry"};
  const GridSizes sizes = merge_grid(argument, windows, geometry);
  check_merge(argument.operation, windows, weight, sizes.size, normalize);
  describe_grid(task.tiles, argument, sizes, mode);
  describe_windows(task, windows, weight, windows.size(0), normalize);
  return concatenated({task.samples, task.channels}, sizes.image);
}

inline Sizes describe_scatter(MergeTask& task, const Tensor& windows, const Tensor& offsets,
                              const std::optional<Tensor>& weight, int64_t samples, const Sizes& image,
                              bool normalize) {
  check_scatter(windows, offsets, weight, samples, image, normalize);
  const int64_t rank = static_cast<int64_t>(image.size());
  describe_offsets(task.tiles, offsets, image, some_sizes(windows, windows.dim() - rank, rank));
  describe_windows(task, windows, weight, task.tiles.own_sample ? samples : windows.size(0), normalize);
  return concatenated({task.samples, task.channels}, image);
}

inline std::optional<Tensor> row_major(const std::optional<Tensor>& weight) {
  return weight.has_value() ? std::optional(torch::stable::contiguous(*weight)) : std::nullopt;
}

}  // namespace torchext
