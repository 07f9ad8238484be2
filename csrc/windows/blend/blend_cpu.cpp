#include <algorithm>
#include <limits>
#include <optional>

#include "common/parallel.h"
#include "common/scratch.h"
#include "windows/blend/describe.h"

#define TORCHEXT_LOOPS "windows/blend/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto blend_loop = TORCHEXT_BEST(blend);

// Long rows are divided, so that several threads add windows of a signal.
constexpr int64_t kRowColumns = 16 * 1024;

// Computes the positions of the windows and the box that they cover. Offsets are read only once, since another thread
// may write to them.
static std::unique_ptr<TilePosition[]> find_positions(BlendTask& task) {
  const TileAxis<int64_t>* axes = task.tiles.axes;
  auto positions = scratch<TilePosition>("blend_windows", task.tiles.windows);
  std::fill_n(task.begin, kSpatial, std::numeric_limits<int64_t>::max());
  std::fill_n(task.end, kSpatial, 0);
  for (int64_t window = 0; window < task.tiles.windows; ++window) {
    TilePosition& position = positions[window] = tile_position(task.tiles, 0, task.samples, window);
    for (int a = 0; a < kSpatial; ++a)
      if (position.start[a] + axes[a].size <= 0 || position.start[a] >= axes[a].image) position.sample = -1;
    if (position.sample < 0) continue;
    for (int a = 0; a < kSpatial; ++a) {
      task.begin[a] = std::min(task.begin[a], std::max<int64_t>(position.start[a], 0));
      task.end[a] = std::max(task.end[a], std::min(position.start[a] + axes[a].size, axes[a].image));
    }
  }
  return positions;
}

static void blend_windows_cpu(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight, Tensor sums,
                              std::optional<Tensor> totals) {
  BlendTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  weight = row_major(weight);
  describe_blend(task, windows, starts, weight, sums, totals);
  if (is_empty(task)) return;
  const auto positions = find_positions(task);
  if (task.end[0] == 0) return;  // no window reaches the image
  task.positions = positions.get();
  const int64_t width = task.end[2] - task.begin[2];
  task.column_blocks = ceil_div(width, kRowColumns);
  task.columns = ceil_div(width, task.column_blocks);
  const int64_t bytes = windows.numel() * static_cast<int64_t>(sums.element_size()) * 3;
  parallel(task.items(), bytes / task.items(), [&](int64_t begin, int64_t end) { blend_loop(task, begin, end); });
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("blend_windows", TORCH_BOX(&torchext::blend_windows_cpu));
}
