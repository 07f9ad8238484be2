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
  describe(task, {"class_counts", "labels"}, labels, num_classes, samples, ignore_index);
  const std::vector<int64_t> sizes = counts_sizes(labels, samples, num_classes, 1);
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
  LabelTask predicted_task;
  check_shape({"confusion_counts", "predicted"}, predicted, target.sizes());
  check_same_device({"confusion_counts", "predicted"}, predicted, target);
  describe(task, {"confusion_counts", "target"}, target, num_classes, samples, ignore_index);
  describe(predicted_task, {"confusion_counts", "predicted"}, predicted, num_classes, samples, std::nullopt);
  const std::vector<int64_t> sizes = counts_sizes(target, samples, num_classes, 2);
  Tensor out = device.empty(sizes, ScalarType::Long);
  device.zero(out);
  task.predicted = &predicted_task;
  task.bins = num_classes * num_classes;
  task.counts = static_cast<int64_t*>(out.mutable_data_ptr());
  const std::optional<LabelShape> shape = shape_of(target, device, raise, kTarget);
  const std::optional<LabelShape> shape_predicted = shape_of(predicted, device, raise, kPredicted);
  count(task, shape ? &*shape : nullptr, shape_predicted ? &*shape_predicted : nullptr, device);
  return out;
}

// Calls body with values of the types of the values, of the accumulation and of the sums. int64 sums wrap, so they are
// computed in uint64.
template <class Body>
static void with_types(const SumsTask& task, const Body& body) {
  const bool is_double = task.out_type == ScalarType::Double;
  const auto body_for_half = [&](auto type) {
    if (is_double) return body(type, double{}, double{});
    return task.out_type == task.type ? body(type, float{}, type) : body(type, float{}, float{});
  };
  const auto body_for_integer = [&](auto type) { body(type, uint64_t{}, uint64_t{}); };
  switch (task.type) {
    case ScalarType::Half:
      return body_for_half(c10::Half{});
    case ScalarType::BFloat16:
      return body_for_half(c10::BFloat16{});
    case ScalarType::Float:
      return is_double ? body(float{}, double{}, double{}) : body(float{}, float{}, float{});
    case ScalarType::Double:
      return body(double{}, double{}, double{});
    case ScalarType::Bool:
      return body_for_integer(Truth{});
    case ScalarType::Byte:
      return body_for_integer(uint8_t{});
    case ScalarType::Char:
      return body_for_integer(int8_t{});
    case ScalarType::Short:
      return body_for_integer(int16_t{});
    case ScalarType::UInt16:
      return body_for_integer(uint16_t{});
    case ScalarType::Int:
      return body_for_integer(int32_t{});
    case ScalarType::UInt32:
      return body_for_integer(uint32_t{});
    case ScalarType::Long:
      return is_double ? body(int64_t{}, double{}, double{}) : body_for_integer(uint64_t{});
    default:
      return is_double ? body(uint64_t{}, double{}, double{}) : body_for_integer(uint64_t{});
  }
}

template <class Index>
static void sum(const SumsTask& task, const LabelShape* recorded, const OnDevice& device) {
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
  Tensor out = device.empty(sums_sizes(values, labels, num_classes, samples), sums_type(values, dtype));
  task.sums = out.mutable_data_ptr();
  if (out.numel() == 0) {
    if (raise) class_counts_cuda(labels, num_classes, samples, ignore_index, raise);  // records bad labels
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
