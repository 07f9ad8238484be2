#include <optional>
#include <vector>

#include "common/cuda.h"
#include "onehot/class_sums/describe.h"
#include "onehot/class_sums/kernels.cuh"
#include "onehot/labels/labels_cuda.h"

namespace torchext {

static void count(CountsTask& task, const Tensor& out, const LabelShape& recorded, const LabelShape& recorded_predicted,
                  const OnDevice& device) {
  device.zero(out);
  task.counts = static_cast<int64_t*>(out.mutable_data_ptr());
  with_index(counts_fit_32(task),
             [&](auto index) { run_counts<decltype(index)>(task, recorded, recorded_predicted, device); });
}

static Tensor class_counts_cuda(const Tensor& labels, int64_t num_classes, int64_t samples,
                                std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  CountsTask task;
  describe(task, {"class_counts", "labels"}, labels, num_classes, samples, ignore_index);
  task.bins = num_classes;
  Tensor out = device.empty(class_sizes(labels, samples, num_classes), ScalarType::Long);
  count(task, out, shape_of(labels, device, raise), {}, device);
  return out;
}

static Tensor confusion_counts_cuda(const Tensor& predicted, const Tensor& target, int64_t num_classes, int64_t samples,
                                    std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(target);
  CountsTask task;
  LabelTask predicted_task;
  const auto sizes = describe_pairs(task, predicted_task, predicted, target, num_classes, samples, ignore_index);
  Tensor out = device.empty(sizes, ScalarType::Long);
  count(task, out, shape_of(target, device, raise, kTarget), shape_of(predicted, device, raise, kPredicted), device);
  return out;
}

template <class Index>
static void sum(const SumsTask& task, const LabelShape& recorded, const OnDevice& device) {
  const auto bytes = [&](int64_t count) { return device.empty(std::vector<int64_t>{count}, ScalarType::Byte); };
  const Tensor workspace = bytes(order_bytes<Index>(task, device));
  const Tensor pieces = bytes(piece_bytes(task, device));
  with_types(task, [&](auto type, auto sum_type, auto out_type) {
    run_sums<decltype(type), decltype(sum_type), decltype(out_type), Index>(
        task, recorded, workspace.mutable_data_ptr(), pieces.mutable_data_ptr(), device);
  });
}

static Tensor class_sums_cuda(const Tensor& values, const Tensor& labels, int64_t num_classes, int64_t samples,
                              std::optional<ScalarType> dtype, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(values);
  SumsTask task;
  describe(task, values, labels, num_classes, samples, dtype, ignore_index);
  Tensor out = device.empty(class_sizes(labels, samples, num_classes, values), sums_type(values, dtype));
  task.sums = out.mutable_data_ptr();
  if (out.numel() == 0) {
    if (raise) class_counts_cuda(labels, num_classes, samples, ignore_index, raise);  // records bad labels
  } else if (task.inner == 0) {
    device.zero(out);
  } else {
    const LabelShape recorded = shape_of(labels, device, raise);
    with_index(sums_fit_32(task, device), [&](auto index) { sum<decltype(index)>(task, recorded, device); });
  }
  return out;
}

static Tensor class_rows_cuda(const Tensor& sums, const Tensor& labels, int64_t samples,
                              std::optional<int64_t> ignore_index) {
  const OnDevice device(sums);
  check_rows(sums, labels, samples);
  const Tensor rows = torch::stable::contiguous(sums);
  RowsTask task;
  describe(task, {"class_rows", "labels"}, labels, sums.size(samples), samples, ignore_index);
  Tensor out = device.empty(rows_sizes(sums, labels, samples), sums.scalar_type());
  describe_rows(task, rows, out, labels.dim());
  const int unit = rows_unit(task);
  if (task.row_bytes == 0) return out;
  if (task.classes == 0) {  // there is no row that the kernel could read
    device.zero(out);
    return out;
  }
  with_index(rows_fit_32(task, unit), [&](auto index) { run_rows<decltype(index)>(task, unit, device); });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("class_counts", TORCH_BOX(&torchext::class_counts_cuda));
  library.impl("confusion_counts", TORCH_BOX(&torchext::confusion_counts_cuda));
  library.impl("class_sums", TORCH_BOX(&torchext::class_sums_cuda));
  library.impl("class_rows", TORCH_BOX(&torchext::class_rows_cuda));
}
