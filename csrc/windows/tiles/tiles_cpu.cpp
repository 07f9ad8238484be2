#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "windows/tiles/describe.h"

#define TORCHEXT_LOOPS "windows/tiles/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto extract_loop = TORCHEXT_BEST(extract);
static const auto merge_loop = TORCHEXT_BEST(merge);

// Positions of the output that are summed together, in one channel after another: their sums and weights stay in the
// second-level cache.
constexpr int64_t kPositions = 16 * 1024;
constexpr int64_t kColumns = 1024;
// Windows next to each other that are extracted together: the rows of them that are written at a time stay in the
// first-level cache.
constexpr int64_t kStrip = 32;
constexpr int64_t kStripRowBytes = 256;
// Longer rows are copied as fast without stores that bypass the caches.
constexpr int64_t kStreamedRowBytes = 128;
// The width of a block if windows are at any position: fewer windows reach a block that is closer to a square.
constexpr int64_t kBinColumns = 256;

static Tensor run(ExtractTask& task, const Tensor& input, const Sizes& sizes) {
  Tensor out = empty(input, sizes, input.scalar_type(), &task.streams);
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  const TileAxis<int64_t>* axes = task.tiles.axes;
  const int64_t rows = axes[0].size * axes[1].size;
  task.channels_last = task.channels > 1 && task.channel_stride == 1 && task.strides[2] != 1;
  task.parts = std::clamp<int64_t>(rows * axes[2].size / kPositions, 1, rows);
  const int64_t row_bytes = axes[2].size * task.element_size;
  const bool narrow = task.parts == 1 && row_bytes <= kStripRowBytes;
  task.streams &= narrow && row_bytes <= kStreamedRowBytes;
  task.strip = narrow ? std::min(kStrip, task.tiles.in_row()) : 1;
  const int64_t strip_rows = task.outer * task.tiles.windows / task.tiles.in_row();
  const int64_t items = strip_rows * strips_a_row(task) * items_a_strip(task);
  parallel(items, out.numel() * task.element_size / items,
           [&](int64_t begin, int64_t end) { extract_loop(task, begin, end); });
  return out;
}

static Tensor extract_windows_cpu(const Tensor& input, int64_t mode, Sizes geometry, double value) {
  ExtractTask task;
  const Sizes sizes = describe_extract(task, input, mode, geometry, value);
  return run(task, input, sizes);
}

static Tensor gather_windows_cpu(const Tensor& input, const Tensor& offsets, int64_t rank, Sizes size) {
  ExtractTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  const Sizes sizes = describe_gather(task, input, starts, rank, size);
  return run(task, input, sizes);
}

template <class Weight>
static void inspect_weights(MergeTask& task) {
  constexpr Weight kSmall = std::numeric_limits<Weight>::min() * (int64_t{16} << std::numeric_limits<Weight>::digits);
  const Weight* weight = static_cast<const Weight*>(task.weight);
  const Weight* const end = weight + task.tiles.taps();
  bool all_nonzero = true;
  for (; weight < end; ++weight) {
    const Weight size = std::abs(*weight);
    all_nonzero &= size > 0;  // false for a NaN
    // A total is a multiple of the last bit of the smallest weight. If no weight is smaller than kSmall, a total is 0
    // or so large that its inverse is finite.
    task.divides |= size > 0 && size < kSmall;
    task.may_be_zero |= !(*weight >= kSmall);
  }
  task.copies_single = task.normalize && all_nonzero;
}

static void inspect_all_weights(MergeTask& task) {
  task.copies_single = true;
  if (task.weight != nullptr)
    weighs_in_double(task.dtype) ? inspect_weights<double>(task) : inspect_weights<float>(task);
}

static bool overlaps(const TileAxis<int64_t>& axis) {
  return axis.grid > 1 && (axis.stride < axis.reach() || axis.last - axis.start(axis.grid - 2) < axis.reach());
}

// Lists the windows that reach each block of the output. A counting sort keeps the windows in order.
class Bins {
 public:
  explicit Bins(MergeTask& task) {
    const char* const operation = "scatter_windows";
    const int64_t bins = task.groups() * task.blocks();
    starts_ = zeroed_scratch<int64_t>(operation, bins + 1);
    each_entry(task, [&](int64_t bin, int64_t) { ++starts_[bin + 1]; });
    std::partial_sum(starts_.get(), starts_.get() + bins + 1, starts_.get());
    windows_ = scratch<int64_t>(operation, starts_[bins]);
    const auto next = scratch<int64_t>(operation, bins);
    std::copy_n(starts_.get(), bins, next.get());
    each_entry(task, [&](int64_t bin, int64_t window) { windows_[next[bin]++] = window; });
    task.bin_starts = starts_.get();
    task.bins = windows_.get();
  }

 private:
  template <class Body>
  static void each_entry(const MergeTask& task, const Body& body) {
    const TileAxis<int64_t>* axes = task.tiles.axes;
    for (int64_t window = 0; window < task.tiles.windows; ++window) {
      const TilePosition position = tile_position(task.tiles, 0, task.samples, window);
      int64_t begin[kSpatial], end[kSpatial];
      bool inside = position.sample >= 0;
      for (int a = 0; a < kSpatial; ++a) {
        begin[a] = std::max<int64_t>(0, position.start[a]);
        end[a] = std::min(axes[a].image, position.start[a] + axes[a].size);
        inside = inside && begin[a] < end[a];
      }
      if (!inside) continue;
      for (int64_t z = begin[0]; z < end[0]; ++z)
        for (int64_t row = begin[1] / task.rows; row <= (end[1] - 1) / task.rows; ++row)
          for (int64_t column = begin[2] / task.columns; column <= (end[2] - 1) / task.columns; ++column)
            body(((position.sample * axes[0].image + z) * task.row_blocks + row) * task.column_blocks + column, window);
    }
  }

  std::unique_ptr<int64_t[]> starts_, windows_;
};

static void choose_blocks(MergeTask& task, int64_t columns) {
  const TileAxis<int64_t>* axes = task.tiles.axes;
  task.column_blocks = ceil_div(axes[2].image, std::min(axes[2].image, columns));
  task.columns = ceil_div(axes[2].image, task.column_blocks);
  task.row_blocks = ceil_div(axes[1].image, std::clamp<int64_t>(kPositions / task.columns, 1, axes[1].image));
  task.rows = ceil_div(axes[1].image, task.row_blocks);
}

static void merge_blocks(const MergeTask& task, int64_t bytes) {
  const int64_t items = task.groups() * task.blocks() * task.planes();
  // A position has at most a sum of complex128 and two numbers of float64, its total and the inverse.
  const int64_t scratch_bytes = task.rows * task.columns * 32 + task.tiles.axes[2].size * 32 + 7 * 16;
  parallel(items, bytes / items, [&](int64_t begin, int64_t end) {
    const auto memory = scratch<char>("merge_windows", scratch_bytes);
    merge_loop(task, begin, end, memory.get());
  });
}

static Tensor merge_windows_cpu(const Tensor& windows, std::optional<Tensor> weight, int64_t mode, Sizes geometry,
                                bool normalize) {
  MergeTask task;
  weight = row_major(weight);
  const Sizes sizes = describe_merge(task, windows, weight, mode, geometry, normalize);
  Tensor out = empty(windows, sizes, task.dtype);
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  choose_blocks(task, kColumns);
  inspect_all_weights(task);
  const TileAxis<int64_t>* axes = task.tiles.axes;
  for (int a = 0; a < kSpatial; ++a)
    task.copies_single &= axes[a].dilation == 1 && task.tiles.mode == PaddingMode::kConstant;
  task.disjoint = task.copies_single && std::none_of(axes, axes + kSpatial, overlaps);
  merge_blocks(task, (windows.numel() + out.numel()) * task.element_size);
  return out;
}

static Tensor scatter_windows_cpu(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight,
                                  int64_t samples, Sizes output_size, bool normalize) {
  MergeTask task;
  // The offsets are copied because they are read twice, to count windows and to sort them into bins, and another thread
  // may write to them in between.
  const Tensor starts = torch::stable::contiguous(torch::stable::clone(offsets));
  weight = row_major(weight);
  const Sizes sizes = describe_scatter(task, windows, starts, weight, samples, output_size, normalize);
  Tensor out = empty(windows, sizes, task.dtype);
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  choose_blocks(task, kBinColumns);
  inspect_all_weights(task);
  task.copies_single = false;
  const Bins bins(task);
  merge_blocks(task, (windows.numel() + out.numel()) * task.element_size);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("extract_windows", TORCH_BOX(&torchext::extract_windows_cpu));
  library.impl("gather_windows", TORCH_BOX(&torchext::gather_windows_cpu));
  library.impl("merge_windows", TORCH_BOX(&torchext::merge_windows_cpu));
  library.impl("scatter_windows", TORCH_BOX(&torchext::scatter_windows_cpu));
}
