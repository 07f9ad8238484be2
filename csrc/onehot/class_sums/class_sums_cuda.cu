#include <optional>
#include <vector>

#include "common/cuda.h"
#include "onehot/class_sums/describe.h"
#include "onehot/class_sums/kernels.cuh"
#include "onehot/labels/labels_cuda.h"

namespace torchext {

static void count(const CountsTask& task, const LabelShape* recorded, const LabelShape* recorded_predicted,
                  const OnDevice& device) {
  if (counts_fit_32(task))
    run_counts<int32_t>(task, recorded, recorded_predicted, device);
  else
    run_counts<int64_t>(task, recorded, recorded_predicted, device);
}

static Tensor class_counts_cuda(const Tensor& labels, int64_t num_classes, int64_t samples,
                                std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  CountsTask task;
  describe(task, labels, num_classes, samples, ignore_index);
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().begin() + samples);
  sizes.push_back(num_classes);
  Tensor out = device.empty(sizes, ScalarType::Long);
  device.zero(out);
  task.bins = num_classes;
  task.counts = static_cast<int64_t*>(out.mutable_data_ptr());
  const std::optional<LabelShape> shape = shape_of(labels, device, raise);
  count(task, shape ? &*shape : nullptr, nullptr, device);
  return out;
}

static Tensor confusion_counts_cuda(const Tensor& predicted, const Tensor& target, int64_t num_classes, int64_t samples,
                                    std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(target);
  CountsTask task;
  LabelTask of_predicted;
  describe(task, target, num_classes, samples, ignore_index);
  describe(of_predicted, predicted, num_classes, samples, std::nullopt);
  std::vector<int64_t> sizes(target.sizes().begin(), target.sizes().begin() + samples);
  sizes.insert(sizes.end(), 2, num_classes);
  Tensor out = device.empty(sizes, ScalarType::Long);
  device.zero(out);
  task.predicted = &of_predicted;
  task.bins = num_classes * num_classes;
  task.counts = static_cast<int64_t*>(out.mutable_data_ptr());
  const std::optional<LabelShape> shape = shape_of(target, device, raise, kTarget);
  const std::optional<LabelShape> shape_predicted = shape_of(predicted, device, raise, kPredicted);
  count(task, shape ? &*shape : nullptr, shape_predicted ? &*shape_predicted : nullptr, device);
  return out;
}

// Calls body with values of the types of the values and of their sums.
template <class Body>
static void with_types(const SumsTask& task, const Body& body) {
  switch (task.type) {
    case ScalarType::Half:
      return task.wide ? body(c10::Half{}, float{}) : body(c10::Half{}, c10::Half{});
    case ScalarType::BFloat16:
      return task.wide ? body(c10::BFloat16{}, float{}) : body(c10::BFloat16{}, c10::BFloat16{});
    case ScalarType::Float:
      return body(float{}, float{});
    case ScalarType::Double:
      return body(double{}, double{});
    default:
      break;
  }
  switch (task.value_size) {
    case 1:
      return body(uint8_t{}, uint8_t{});
    case 2:
      return body(uint16_t{}, uint16_t{});
    case 4:
      return body(uint32_t{}, uint32_t{});
    default:
      return body(uint64_t{}, uint64_t{});
  }
}

template <class Index>
static void sum(const SumsTask& task, const LabelShape* recorded, const OnDevice& device) {
  const auto bytes = [&](int64_t count) { return device.empty(std::vector<int64_t>{count}, ScalarType::Byte); };
  const Tensor workspace = bytes(order_bytes<Index>(task, device));
  with_types(task, [&](auto type, auto out_type) {
    using T = decltype(type);
    const Tensor pieces = bytes(piece_bytes<T>(task, device));
    run_sums<T, decltype(out_type), Index>(task, recorded, workspace.mutable_data_ptr(), pieces.mutable_data_ptr(),
                                           device);
  });
}

static Tensor class_sums_cuda(const Tensor& values, const Tensor& labels, int64_t num_classes, int64_t samples,
                              bool wide, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(values);
  SumsTask task;
  describe(task, values, labels, num_classes, samples, wide, ignore_index);
  Tensor out = device.empty(sums_sizes(values, labels, num_classes, samples), sums_type(values, wide));
  task.sums = out.mutable_data_ptr();
  if (out.numel() == 0) {
    if (raise) class_counts_cuda(labels, num_classes, samples, ignore_index, raise);  // for what it records
  } else if (task.inner == 0) {
    device.zero(out);
  } else {
    const std::optional<LabelShape> shape = shape_of(labels, device, raise);
    const LabelShape* recorded = shape ? &*shape : nullptr;
    if (sums_fit_32(task, device))
      sum<int32_t>(task, recorded, device);
    else
      sum<int64_t>(task, recorded, device);
  }
  return out;
}

static Tensor class_rows_cuda(const Tensor& sums, const Tensor& labels, int64_t samples,
                              std::optional<int64_t> ignore_index) {
  const OnDevice device(sums);
  const Tensor rows = torch::stable::contiguous(sums);
  RowsTask task;
  describe(task, labels, sums.size(samples), samples, ignore_index);
  Tensor out = device.empty(rows_sizes(sums, labels, samples), sums.scalar_type());
  describe_rows(task, rows, out, labels.dim());
  const int unit = rows_unit(task);
  if (task.row_bytes == 0) return out;
  if (task.classes == 0) {  // no row that the kernel could read
    device.zero(out);
    return out;
  }
  if (rows_fit_32(task, unit))
    run_rows<int32_t>(task, unit, device);
  else
    run_rows<int64_t>(task, unit, device);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("class_counts", TORCH_BOX(&torchext::class_counts_cuda));
  library.impl("confusion_counts", TORCH_BOX(&torchext::confusion_counts_cuda));
  library.impl("class_sums", TORCH_BOX(&torchext::class_sums_cuda));
  library.impl("class_rows", TORCH_BOX(&torchext::class_rows_cuda));
}
