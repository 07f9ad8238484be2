#include <algorithm>
#include <memory>

#include "common/loops.h"
#include "common/parallel.h"
#include "windows/tiles_describe.h"
#include "windows/tiles_ops.h"

namespace torchext {

// Places of the output that are summed together, of all their channels one after the other: sums and weights stay in
// the second-level cache.
constexpr int64_t kPlaces = 16 * 1024;
constexpr int64_t kColumns = 1024;
// Windows side by side that are cut together: the rows of theirs that are written at a time stay in the first-level
// cache.
constexpr int64_t kStrip = 32;
constexpr int64_t kStripRowBytes = 256;
// Windows that are anywhere: a squarer block is reached by fewer of them.
constexpr int64_t kBinColumns = 256;

static int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

static void cut_up(CutTask& task, Tensor& out) {
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return;
  const TileAxis<int64_t>* axes = task.tiles.axes;
  const int64_t rows = axes[0].size * axes[1].size;
  task.channels_last = task.channels > 1 && task.channel_stride == 1 && task.strides[2] != 1;
  task.parts = std::clamp<int64_t>(rows * axes[2].size / kPlaces, 1, rows);
  const bool narrow = task.parts == 1 && axes[2].size * task.element_size <= kStripRowBytes;
  task.strip = narrow ? std::min(kStrip, task.tiles.in_row()) : 1;
  const int64_t strip_rows = task.outer * task.tiles.windows / task.tiles.in_row();
  const int64_t items = strip_rows * strips_a_row(task) * items_a_strip(task);
  parallel(items, out.numel() * task.element_size / items,
           [&](int64_t begin, int64_t end) { loops().cut(task, begin, end); });
}

Tensor extract_windows_cpu(const Tensor& input, Sizes geometry, int64_t mode, double value) {
  CutTask task;
  const GridSizes sizes = extract_grid(input, geometry);
  describe_grid(task.tiles, sizes, mode);
  describe_image(task, input, value);
  Tensor out = empty(input, cut_sizes(task, sizes.grid, sizes.size), input.scalar_type());
  cut_up(task, out);
  return out;
}

Tensor gather_windows_cpu(const Tensor& input, const Tensor& offsets, Sizes size) {
  CutTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  describe_offsets(task.tiles, starts, some_sizes(input, 2, input.dim() - 2), size);
  describe_image(task, input, 0);
  Tensor out = empty(input, cut_sizes(task, {starts.size(0)}, size), input.scalar_type());
  cut_up(task, out);
  return out;
}

// Whether an element alone at its place comes out as it is: only where it weighs nothing it does not.
template <class Weight>
static bool weighs_all(const JoinTask& task) {
  const Weight* weight = static_cast<const Weight*>(task.weight);
  return std::find(weight, weight + task.tiles.taps(), Weight{0}) == weight + task.tiles.taps();
}

static bool moves_single(const JoinTask& task) {
  for (const TileAxis<int64_t>& axis : task.tiles.axes)
    if (axis.dilation != 1) return false;
  if (task.tiles.mode != PaddingMode::kConstant) return false;
  if (task.weight == nullptr) return true;
  return task.normalize && (weighs_in_double(task.dtype) ? weighs_all<double>(task) : weighs_all<float>(task));
}

// Which positions of each axis exactly one window covers.
class Once {
 public:
  explicit Once(JoinTask& task) {
    task.disjoint = true;
    for (int a = 0; a < kSpatial; ++a) {
      const TileAxis<int64_t>& axis = task.tiles.axes[a];
      once_[a].resize(static_cast<size_t>(axis.image));
      const std::vector<int64_t> changes = changes_of(axis);
      int64_t windows = 0;
      for (size_t position = 0; position < once_[a].size(); ++position) {
        windows += changes[position];
        once_[a][position] = windows == 1;
        if (windows > 1) task.disjoint = false;
      }
      task.once[a] = once_[a].data();
    }
    const std::vector<uint8_t>& columns = once_[kSpatial - 1];
    runs_.resize(columns.size());
    for (size_t x = columns.size(); x-- > 0;)
      runs_[x] = x + 1 < columns.size() && columns[x] == columns[x + 1] ? runs_[x + 1] : static_cast<int64_t>(x + 1);
    task.runs = runs_.data();
  }

 private:
  // By how much the number of windows changes at each position.
  static std::vector<int64_t> changes_of(const TileAxis<int64_t>& axis) {
    std::vector<int64_t> changes(static_cast<size_t>(axis.image + 1));
    const auto at = [&](int64_t position) -> int64_t& {
      return changes[static_cast<size_t>(std::clamp<int64_t>(position, 0, axis.image))];
    };
    for (int64_t window = 0; window < axis.grid; ++window) {
      ++at(axis.start(window));
      --at(axis.start(window) + axis.reach());
    }
    return changes;
  }

  std::vector<uint8_t> once_[kSpatial];
  std::vector<int64_t> runs_;
};

// The windows that reach each block of the output, by a counting sort, which keeps them in order.
class Bins {
 public:
  explicit Bins(JoinTask& task) : starts_(static_cast<size_t>(task.groups() * task.blocks() + 1)) {
    each_entry(task, [&](size_t bin, int64_t) { ++starts_[bin + 1]; });
    for (size_t bin = 1; bin < starts_.size(); ++bin) starts_[bin] += starts_[bin - 1];
    windows_.resize(static_cast<size_t>(starts_.back()));
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    each_entry(task, [&](size_t bin, int64_t window) { windows_[static_cast<size_t>(next[bin]++)] = window; });
    task.bin_starts = starts_.data();
    task.bins = windows_.data();
  }

 private:
  template <class Body>
  static void each_entry(const JoinTask& task, const Body& body) {
    const TileAxis<int64_t>* axes = task.tiles.axes;
    for (int64_t window = 0; window < task.tiles.windows; ++window) {
      const TilePlace place = tile_place(task.tiles, 0, task.samples, window);
      int64_t begin[kSpatial], end[kSpatial];
      bool inside = place.sample >= 0;
      for (int a = 0; a < kSpatial; ++a) {
        begin[a] = std::max<int64_t>(0, place.start[a]);
        end[a] = std::min(axes[a].image, place.start[a] + axes[a].size);
        inside = inside && begin[a] < end[a];
      }
      if (!inside) continue;
      for (int64_t z = begin[0]; z < end[0]; ++z)
        for (int64_t row = begin[1] / task.rows; row <= (end[1] - 1) / task.rows; ++row)
          for (int64_t column = begin[2] / task.columns; column <= (end[2] - 1) / task.columns; ++column)
            body(static_cast<size_t>(((place.sample * axes[0].image + z) * task.row_blocks + row) * task.column_blocks +
                                     column),
                 window);
    }
  }

  std::vector<int64_t> starts_, windows_;
};

static void cut_blocks(JoinTask& task, int64_t columns) {
  const TileAxis<int64_t>* axes = task.tiles.axes;
  task.column_blocks = ceil_div(axes[2].image, std::min(axes[2].image, columns));
  task.columns = ceil_div(axes[2].image, task.column_blocks);
  task.row_blocks = ceil_div(axes[1].image, std::clamp<int64_t>(kPlaces / task.columns, 1, axes[1].image));
  task.rows = ceil_div(axes[1].image, task.row_blocks);
}

static void join_blocks(const JoinTask& task, int64_t bytes) {
  const int64_t items = task.groups() * task.blocks() * task.planes();
  // Sums and weights are at most that large: an element of complex128, two numbers of float64.
  const int64_t scratch_bytes = task.rows * task.columns * 32 + task.tiles.axes[2].size * 32 + 6 * 16;
  parallel(items, bytes / items, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scratch(new char[static_cast<size_t>(scratch_bytes)]);
    loops().join(task, begin, end, scratch.get());
  });
}

Tensor merge_windows_cpu(const Tensor& windows, std::optional<Tensor> weight, Sizes geometry, int64_t mode,
                         bool normalize) {
  JoinTask task;
  const GridSizes sizes = merge_grid(windows, geometry);
  describe_grid(task.tiles, sizes, mode);
  if (weight.has_value()) weight = torch::stable::contiguous(*weight);
  describe_windows(task, windows, weight, windows.size(0), normalize);
  Tensor out = empty(windows, joined({task.samples, task.channels}, sizes.image), task.dtype);
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  cut_blocks(task, kColumns);
  std::optional<Once> once;
  if (moves_single(task)) once.emplace(task);
  join_blocks(task, (windows.numel() + out.numel()) * task.element_size);
  return out;
}

Tensor scatter_windows_cpu(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight, int64_t samples,
                           Sizes output_size, bool normalize) {
  JoinTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  const int64_t rank = static_cast<int64_t>(output_size.size());
  describe_offsets(task.tiles, starts, output_size, some_sizes(windows, windows.dim() - rank, rank));
  if (weight.has_value()) weight = torch::stable::contiguous(*weight);
  describe_windows(task, windows, weight, task.tiles.own_sample ? samples : windows.size(0), normalize);
  Tensor out = empty(windows, joined({task.samples, task.channels}, output_size), task.dtype);
  task.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  cut_blocks(task, kBinColumns);
  const Bins bins(task);
  join_blocks(task, (windows.numel() + out.numel()) * task.element_size);
  return out;
}

}  // namespace torchext
