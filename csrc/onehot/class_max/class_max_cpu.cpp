#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "onehot/class_max/describe.h"
#include "onehot/labels/bad_label.h"

#define TORCHEXT_LOOPS "onehot/class_max/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto class_extremes_loop = TORCHEXT_BEST(class_extremes);
static const auto merge_parts_loop = TORCHEXT_BEST(merge_parts);

constexpr int64_t kLabelBytes = 8;              // reading a label takes about as long as this many bytes of other work
constexpr int64_t kFewestBlockBytes = 1 << 16;  // a smaller block would take less time than its table
constexpr int64_t kFewestRowsAClass = 8;
constexpr int64_t kLine = 64;

// One part of the labels for each thread; the number of parts does not change the result. If a part would have too few
// labels of each class, the threads divide the columns among them instead.
static void choose_parts(ExtremesTask& task) {
  const int64_t threads = torch::stable::get_num_threads(), outer = std::max<int64_t>(1, task.outer);
  const int64_t row_bytes = task.features * task.value_size + kLabelBytes;
  const int64_t parts = std::min(task.inner / (kFewestBlockBytes / row_bytes + 1),
                                 task.inner / kFewestRowsAClass / std::max<int64_t>(1, task.classes));
  const int64_t most = outer < threads ? threads : 1;
  task.block = std::max<int64_t>(1, ceil_div(task.inner, std::clamp<int64_t>(parts, 1, most)));
  task.parts = std::max<int64_t>(1, ceil_div(task.inner, task.block));
  const int64_t step = kLine / task.value_size, of_line = ceil_div(task.features, step);
  task.columns = std::max<int64_t>(1, ceil_div(of_line, ceil_div(threads, outer * task.parts))) * step;
  task.groups = std::max<int64_t>(1, ceil_div(task.features, task.columns));
}

static std::tuple<Tensor, Tensor> class_extremes_cpu(const Tensor& values, const Tensor& labels, int64_t num_classes,
                                                     int64_t samples, bool largest, std::optional<int64_t> ignore_index,
                                                     bool raise) {
  ExtremesTask task;
  describe(task, values, labels, num_classes, samples, largest, ignore_index);
  const std::vector<int64_t> sizes = class_sizes(labels, samples, num_classes, values);
  Tensor best = empty(values, sizes, values.scalar_type()), positions = empty(values, sizes, ScalarType::Long);
  task.best = best.mutable_data_ptr();
  task.positions = static_cast<int64_t*>(positions.mutable_data_ptr());
  choose_parts(task);
  const int64_t entries = entries_of(task), others = (task.parts - 1) * entries;
  const auto other_best = scratch<char>("class_extremes", others * task.value_size);
  const auto other_positions = scratch<int64_t>("class_extremes", others);
  task.other_best = other_best.get();
  task.other_positions = other_positions.get();
  const auto find = class_extremes_loop, merge = merge_parts_loop;
  parallel(task.outer * task.parts * task.groups, task.block * (task.columns * task.value_size + kLabelBytes),
           [&](int64_t begin, int64_t end) { find(task, begin, end); });
  if (others > 0)
    parallel(entries, task.parts * (task.value_size + kLabelBytes),
             [&](int64_t begin, int64_t end) { merge(task, begin, end); });
  if (raise) throw_bad_label(labels, task);
  return {best, positions};
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("class_extremes", TORCH_BOX(&torchext::class_extremes_cpu));
}
