#include "windows/ops.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <memory>

#include "common/encode.h"
#include "common/loops.h"
#include "common/parallel.h"
#include "windows/task.h"

namespace torchext {

using Sizes = std::vector<int64_t>;

// Bytes of the image that a block holds: what is staged stays in the first-level cache or close by.
constexpr int64_t kUnfoldBlockBytes = 32 * 1024;
constexpr int64_t kFoldBlockBytes = 32 * 1024;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Dimensions that are absent lead, with size 1. Where an axis has a single window its stride is free: one that keeps
// the taps apart takes the shorter way.
static WindowGeometry<int64_t> window_geometry(const Sizes& image, const Sizes& kernel, const Sizes& dilation,
                                               const Sizes& padding, const Sizes& stride) {
  WindowGeometry<int64_t> g;
  const int absent = kSpatial - static_cast<int>(kernel.size());
  for (int a = 0; a < kSpatial; ++a) {
    const size_t d = static_cast<size_t>(a - absent);
    const bool given = a >= absent;
    g.image[a] = given ? image[d] : 1;
    g.kernel[a] = given ? kernel[d] : 1;
    g.dilation[a] = given && g.kernel[a] > 1 ? dilation[d] : 1;
    g.padding[a] = given ? padding[d] : 0;
    g.stride[a] = given ? stride[d] : 1;
    g.grid[a] = grid_size(g.image[a], g.kernel[a], g.dilation[a], g.padding[a], g.stride[a]);
    if (g.grid[a] == 1) g.stride[a] = (g.kernel[a] - 1) * g.dilation[a] + 1;
  }
  return g;
}

static void cut(Blocks& blocks, int64_t rows, int64_t columns) {
  blocks.row_blocks = ceil_div(blocks.row_count, std::clamp<int64_t>(rows, 1, blocks.row_count));
  blocks.rows = ceil_div(blocks.row_count, blocks.row_blocks);
  blocks.column_blocks = ceil_div(blocks.column_count, std::clamp<int64_t>(columns, 1, blocks.column_count));
  blocks.columns = ceil_div(blocks.column_count, blocks.column_blocks);
}

template <class Task, class Body>
static void run(const Task& task, int64_t bytes, const Body& body) {
  const int64_t items = task.batch * task.channels * task.blocks.a_plane();
  if (items == 0) return;
  parallel(items, bytes / items, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scratch(new char[static_cast<size_t>(task.scratch_bytes)]);
    body(task, begin, end, scratch.get());
  });
}

static void cut_unfold(UnfoldTask& task) {
  const auto& g = task.windows;
  Blocks& blocks = task.blocks;
  blocks.depth = g.grid[0];
  blocks.row_count = g.grid[1];
  blocks.column_count = g.grid[2];
  const int64_t place = g.stride[2] * task.element_size;
  const int64_t reach = (g.kernel[2] - 1) * g.dilation[2] / g.stride[2];
  const int64_t columns = std::min(g.grid[2], std::max(kUnfoldBlockBytes / place, 4 * reach));
  const int64_t row = unfold_row_length(g, columns) * task.element_size;
  cut(blocks, kUnfoldBlockBytes / (row * g.stride[1]), columns);
  blocks.channels_inside = task.channels > 1 && task.channel_stride < task.strides[2];
  const int64_t length = unfold_row_length(g, blocks.columns) * task.element_size;
  const int64_t span = unfold_row_span(g, blocks.rows);
  const int64_t kept = apart(g) ? 0 : std::min(span, blocks.rows * g.kernel[1]);
  task.scratch_bytes = (apart(g) ? 0 : (span + 1) * 8) + (2 + kept) * length;
}

Tensor unfold_cpu(const Tensor& input, Sizes kernel_size, Sizes dilation, Sizes padding, Sizes stride, double value) {
  const int64_t dims = static_cast<int64_t>(kernel_size.size());
  UnfoldTask task;
  const Sizes image(input.sizes().begin() + 2, input.sizes().end());
  task.windows = window_geometry(image, kernel_size, dilation, padding, stride);
  const auto& g = task.windows;
  task.batch = input.size(0);
  task.channels = input.size(1);
  task.image = input.const_data_ptr();
  task.batch_stride = input.stride(0);
  task.channel_stride = input.stride(1);
  for (int64_t a = 0; a < kSpatial; ++a)
    task.strides[a] = a < kSpatial - dims ? 0 : input.stride(2 + a - (kSpatial - dims));
  const int64_t taps = g.kernel[0] * g.kernel[1] * g.kernel[2], windows = g.grid[0] * g.grid[1] * g.grid[2];
  Tensor out = empty(input, {task.batch, task.channels * taps, windows}, input.scalar_type());
  task.out = out.mutable_data_ptr();
  task.element_size = static_cast<int>(input.element_size());
  encode(value, input.scalar_type(), task.value);
  cut_unfold(task);
  run(task, out.numel() * task.element_size, loops().unfold);
  return out;
}

static void cut_fold(FoldTask& task, int64_t sum_size) {
  const auto& g = task.windows;
  Blocks& blocks = task.blocks;
  task.first_place = g.padding[2] / g.stride[2];
  blocks.depth = g.image[0];
  blocks.row_count = g.image[1];
  blocks.column_count = (g.padding[2] + g.image[2] - 1) / g.stride[2] - task.first_place + 1;
  const int64_t place = g.stride[2] * sum_size;
  const int64_t columns = std::min(blocks.column_count, std::max<int64_t>(1, kFoldBlockBytes / place));
  cut(blocks, kFoldBlockBytes / (columns * place), columns);
  blocks.channels_inside = task.channels > 1 && task.channel_stride < task.window_stride;
  task.scratch_bytes = (task.disjoint ? 1 : 1 + blocks.rows) * blocks.columns * place;
}

Tensor fold_cpu(const Tensor& columns, Sizes output_size, Sizes kernel_size, Sizes dilation, Sizes padding,
                Sizes stride) {
  FoldTask task;
  task.windows = window_geometry(output_size, kernel_size, dilation, padding, stride);
  const auto& g = task.windows;
  const int64_t taps = g.kernel[0] * g.kernel[1] * g.kernel[2];
  task.batch = columns.size(0);
  task.channels = columns.size(1) / taps;
  task.columns = columns.const_data_ptr();
  task.batch_stride = columns.stride(0);
  task.channel_stride = columns.stride(1) * taps;
  task.tap_stride = columns.stride(1);
  task.window_stride = columns.stride(2);
  Sizes sizes{task.batch, task.channels};
  sizes.insert(sizes.end(), output_size.begin(), output_size.end());
  Tensor out = empty(columns, sizes, columns.scalar_type());
  task.out = out.mutable_data_ptr();
  task.dtype = columns.scalar_type();
  task.element_size = static_cast<int>(columns.element_size());
  task.disjoint = true;
  for (int a = 0; a < kSpatial; ++a)
    task.disjoint = task.disjoint && g.kernel[a] <= g.stride[a] && g.dilation[a] == 1;
  const bool half = task.dtype == ScalarType::Half || task.dtype == ScalarType::BFloat16;
  cut_fold(task, half && !task.disjoint ? 4 : task.element_size);
  run(task, (columns.numel() + out.numel()) * task.element_size, loops().fold);
  return out;
}

}  // namespace torchext
