#include <algorithm>
#include <memory>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "windows/patches/describe.h"

#define TORCHEXT_LOOPS "windows/patches/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto patchify_loop = TORCHEXT_BEST(patchify);

// Bytes of the input in a block, so that elements that are read out of order or staged stay in the first-level cache.
constexpr int64_t kPatchBlockBytes = 24 * 1024;

static void choose_blocks(PatchTask& task) {
  const int64_t patch = task.channels * task.size[0] * task.size[1];
  const int64_t columns = std::clamp<int64_t>(kPatchBlockBytes / (patch * task.in_size), 1, task.grid[1]);
  task.column_blocks = (task.grid[1] + columns - 1) / columns;
  task.columns = (task.grid[1] + task.column_blocks - 1) / task.column_blocks;
  const bool in_place = task.interleaved() ? task.from.channel == 1 && task.from.inside[1] == task.channels
                                           : task.from.inside[1] == 1 || task.size[1] == 1;
  task.staged = in_place ? 0 : patch * task.columns;
}

static Tensor run(PatchTask& task, const Tensor& in, const std::vector<int64_t>& sizes) {
  Tensor out = empty(in, sizes, task.out_type);
  task.out = out.mutable_data_ptr();
  task.out_size = static_cast<int>(out.element_size());
  if (out.numel() == 0) return out;
  choose_blocks(task);
  const int64_t items = task.batch * task.grid[0] * task.column_blocks;
  // Each pixel of a run has three doubles: factor, offset, and the value if its dtype is converted through double.
  const int64_t run = task.channels * task.size[1];
  const int64_t doubles = 3 * run + (task.staged * task.in_size + 7) / 8;
  parallel(items, out.numel() * (task.in_size + task.out_size) / items, [&](int64_t begin, int64_t end) {
    const auto memory = scratch<double>("patchify", doubles);
    patchify_loop(task, begin, end, memory.get());
  });
  return out;
}

static Tensor patchify_cpu(const Tensor& images, ScalarType dtype, std::vector<int64_t> size,
                           std::vector<double> factors, std::vector<double> offsets, bool channels_last,
                           bool channels_inside) {
  PatchTask task;
  describe_patchify(task, images, dtype, size, factors, offsets, {channels_last, channels_inside});
  return run(task, images, token_sizes(task));
}

static Tensor unpatchify_cpu(const Tensor& tokens, ScalarType dtype, std::vector<int64_t> size,
                             std::vector<int64_t> grid, std::vector<double> factors, std::vector<double> offsets,
                             bool channels_last, bool channels_inside) {
  PatchTask task;
  describe_unpatchify(task, tokens, dtype, size, grid, factors, offsets, {channels_last, channels_inside});
  return run(task, tokens, image_sizes(task, channels_last));
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("patchify", TORCH_BOX(&torchext::patchify_cpu));
  library.impl("unpatchify", TORCH_BOX(&torchext::unpatchify_cpu));
}
