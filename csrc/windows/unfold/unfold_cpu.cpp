#include <algorithm>
#include <memory>

#include "common/parallel.h"
#include "common/scratch.h"
#include "windows/unfold/describe.h"

#define TORCHEXT_LOOPS "windows/unfold/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto unfold_loop = TORCHEXT_BEST(unfold);
static const auto fold_loop = TORCHEXT_BEST(fold);

// Bytes of the image in a block, so that staged rows or sums stay in the first-level cache.
constexpr int64_t kBlockBytes = 32 * 1024;

// Without staging, longer runs of the output are faster.
constexpr int64_t kDirectBlockBytes = 128 * 1024;

static void set_blocks(Blocks& blocks, int64_t rows, int64_t columns) {
  blocks.row_blocks = ceil_div(blocks.row_count, std::clamp<int64_t>(rows, 1, blocks.row_count));
  blocks.rows = ceil_div(blocks.row_count, blocks.row_blocks);
  blocks.column_blocks = ceil_div(blocks.column_count, std::clamp<int64_t>(columns, 1, blocks.column_count));
  blocks.columns = ceil_div(blocks.column_count, blocks.column_blocks);
}

template <class Task, class Body>
static void run(const Task& task, int64_t bytes, const Body& body) {
  const int64_t items = task.batch * task.channels * task.blocks.blocks_per_plane();
  parallel(items, bytes / items, [&](int64_t begin, int64_t end) {
    const auto memory = scratch<char>("unfold", task.scratch_bytes);
    body(task, begin, end, memory.get());
  });
}

static void choose_unfold_blocks(UnfoldTask& task) {
  const auto& g = task.windows;
  Blocks& blocks = task.blocks;
  blocks.depth = g.grid[0];
  blocks.row_count = g.grid[1];
  blocks.column_count = g.grid[2];
  const bool direct = writes_directly(task);
  // Rows whose taps are streamed share the first-level cache with a run of the output.
  const int64_t bytes = direct ? kDirectBlockBytes : task.streams ? kBlockBytes / 2 : kBlockBytes;
  const int64_t reach = (g.kernel[2] - 1) * g.dilation[2] / g.stride[2];
  const int64_t most = bytes / task.element_size;
  const int64_t columns = std::min(g.grid[2], std::max({int64_t{1}, most / g.stride[2], 4 * reach}));
  const int64_t row = unfold_row_length(task, columns);
  task.sparse =
      is_sparse(row, columns * g.kernel[2], most) || (!direct && is_sparse(unfold_row_span(g, 1), g.kernel[1], most));
  if (task.sparse)
    set_blocks(blocks, most / std::min(most, g.grid[2]), most);
  else
    set_blocks(blocks, most / row / g.stride[1], columns);
  blocks.channels_inside = task.channels > 1 && task.channel_stride < task.strides[2];
  task.scratch_bytes = 0;
  task.streams &= !direct && !task.sparse && blocks.column_blocks == 1;
  if (task.sparse) return;
  const int64_t length = unfold_row_length(task, blocks.columns) * task.element_size;
  const int64_t span = unfold_row_span(g, blocks.rows);
  const int64_t kept = direct ? 0 : std::min(span, blocks.rows * g.kernel[1]);
  task.scratch_bytes = (direct ? 0 : (span + 1) * 8) + (2 + kept) * length;
}

static Tensor unfold_cpu(const Tensor& input, int64_t padding_mode, Sizes geometry, double value) {
  UnfoldTask task;
  describe_unfold(task, input, geometry, padding_mode, value);
  Tensor out = empty(input, unfold_sizes(task), input.scalar_type(), &task.streams);
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  choose_unfold_blocks(task);
  run(task, out.numel() * task.element_size, unfold_loop);
  return out;
}

static void choose_fold_blocks(FoldTask& task, int64_t sum_size) {
  const auto& g = task.windows;
  Blocks& blocks = task.blocks;
  const int64_t pixels = product(g.image), used = pixels + product(g.kernel) * product(g.grid);
  task.sparse = is_sparse(g.stride[2], g.image[2], kBlockBytes / sum_size);
  if (task.mode != PaddingMode::kConstant) {
    double padded = 1;
    for (int a = 0; a < kSpatial; ++a) padded *= static_cast<double>(g.image[a] + 2 * g.padding[a]);
    task.sparse = task.sparse || padded / 64 > static_cast<double>(std::max(used, kBlockBytes / 64));
  }
  if (task.sparse) {
    task.first_unit = 0;
    blocks = {1, 1, 1, 1, 1, 1, 1, task.channels > 1 && task.channel_stride < task.window_stride};
    task.scratch_bytes = pixels * sum_size;
    return;
  }
  task.first_unit = g.padding[2] / g.stride[2];
  blocks.depth = g.image[0];
  blocks.row_count = g.image[1];
  blocks.column_count = (g.padding[2] + g.image[2] - 1) / g.stride[2] - task.first_unit + 1;
  const int64_t unit = g.stride[2] * sum_size;
  const int64_t columns = std::min(blocks.column_count, std::max<int64_t>(1, kBlockBytes / unit));
  set_blocks(blocks, kBlockBytes / (columns * unit), columns);
  blocks.channels_inside = task.channels > 1 && task.channel_stride < task.window_stride;
  // The padding may be longer than the block to which it is added.
  const int64_t sides = task.mode == PaddingMode::kConstant ? 0 : g.padding[2] / g.stride[2] + 2;
  const int64_t line = std::max(blocks.columns, sides) * unit;
  task.scratch_bytes = (task.disjoint ? 1 : 1 + blocks.rows) * line;
  if (sides > 0) task.scratch_bytes += blocks.rows * blocks.columns * unit;
}

static Tensor fold_cpu(const Tensor& columns, int64_t padding_mode, Sizes geometry) {
  FoldTask task;
  const Sizes sizes = describe_fold(task, columns, geometry, padding_mode);
  const auto& g = task.windows;
  Tensor out = empty(columns, sizes, columns.scalar_type());
  task.out = out.mutable_data_ptr();
  task.disjoint = task.mode == PaddingMode::kConstant;
  for (int a = 0; a < kSpatial; ++a) task.disjoint = task.disjoint && g.kernel[a] <= g.stride[a] && g.dilation[a] == 1;
  if (out.numel() == 0) return out;
  choose_fold_blocks(task, is_half(task.dtype) && !task.disjoint ? 4 : task.element_size);
  run(task, (columns.numel() + out.numel()) * task.element_size, fold_loop);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("unfold", TORCH_BOX(&torchext::unfold_cpu));
  library.impl("fold", TORCH_BOX(&torchext::fold_cpu));
}
