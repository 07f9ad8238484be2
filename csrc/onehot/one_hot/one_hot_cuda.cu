#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "onehot/one_hot/describe.h"
#include "onehot/multi_hot/describe.h"
#include "onehot/class_overlap/describe.h"
#include "onehot/class_sums/describe.h"
#include "onehot/one_hot/kernels.cuh"
#include "onehot/multi_hot/kernels.cuh"
#include "onehot/class_overlap/kernels.cuh"
#include "onehot/class_sums/kernels.cuh"

namespace torchext {

// Whether a kernel of this process may have left a record on a device: check_errors looks at no other. PyTorch counts
// devices in a signed byte.
static std::atomic<bool> reads_labels[128];

static LabelShape shape_of(const Tensor& labels, const OnDevice& device, LabelArgument argument = kLabels) {
  reads_labels[device.index()].store(true, std::memory_order_relaxed);
  LabelShape shape;
  shape.argument = argument;
  shape.dims = static_cast<int>(labels.dim());
  std::copy(labels.sizes().begin(), labels.sizes().end(), shape.sizes);
  return shape;
}

static void write(const OneHotTask& task, const Tensor& labels, bool raise, const OnDevice& device) {
  const LabelShape shape = shape_of(labels, device);
  const LabelShape* recorded = raise ? &shape : nullptr;
  if (one_hot_fits_32(task))
    run_one_hot<int32_t>(task, recorded, device);
  else
    run_one_hot<int64_t>(task, recorded, device);
}

static Tensor one_hot_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, std::optional<ScalarType> dtype,
                           double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  Tensor out = device.empty(one_hot_sizes(labels, num_classes, dim), dtype.value_or(ScalarType::Float));
  describe_output(task, out, hot, cold);
  write(task, labels, raise, device);
  return out;
}

static void one_hot_out_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                             std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  describe_output(task, out, hot, cold);
  write(task, labels, raise, device);
}

static Tensor class_indices_cuda(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index,
                                 bool raise, int64_t argument) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, labels.dim(), ignore_index);
  Tensor out = device.empty({labels.sizes().begin(), labels.sizes().end()}, ScalarType::Long);
  const LabelShape shape = shape_of(labels, device, static_cast<LabelArgument>(argument));
  const LabelShape* recorded = raise ? &shape : nullptr;
  int64_t* data = static_cast<int64_t*>(out.mutable_data_ptr());
  if (one_hot_fits_32(task))
    run_class_indices<int32_t>(task, data, recorded, device);
  else
    run_class_indices<int64_t>(task, data, recorded, device);
  return out;
}

static Tensor take_bad_label_cuda(const Tensor& device_of) {
  const OnDevice device(device_of);
  cuda_check(cudaDeviceSynchronize());  // whichever streams the kernels ran on
  BadLabel record;
  cuda_check(cudaMemcpyFromSymbol(&record, bad_label, sizeof(BadLabel)));
  if (record.position == kNoBadLabel) return allocate({0}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  cuda_check(cudaMemcpyToSymbol(bad_label, &kNoBadLabel, sizeof(int64_t), offsetof(BadLabel, position)));
  Tensor taken = allocate({5 + record.dims}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  int64_t* values = static_cast<int64_t*>(taken.mutable_data_ptr());
  *values++ = record.label;
  *values++ = record.position;
  *values++ = record.classes;
  *values++ = record.argument;
  *values++ = record.is_uint64;
  std::copy(record.shape, record.shape + record.dims, values);
  return taken;
}

// Calls body with a value of the C++ type of a float dtype and one of the index type that the task needs.
template <class Body>
static void with_types(const OverlapTask& task, const Body& body) {
  const auto with_index = [&](auto type) {
    if (overlap_fits_32(task))
      body(type, int32_t{});
    else
      body(type, int64_t{});
  };
  switch (task.type) {
    case ScalarType::Half:
      return with_index(c10::Half{});
    case ScalarType::BFloat16:
      return with_index(c10::BFloat16{});
    case ScalarType::Double:
      return with_index(double{});
    default:
      return with_index(float{});
  }
}

static std::tuple<Tensor, Tensor, Tensor> class_overlap_cuda(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                             int64_t samples, int64_t activation, bool squared,
                                                             std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(scores);
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  const std::vector<int64_t> sizes = overlap_sizes(scores, dim, samples);
  const ScalarType compute = compute_type(task);
  Tensor intersection = device.empty(sizes, compute), total = device.empty(sizes, compute);
  Tensor support = device.empty(sizes, ScalarType::Long);
  const LabelShape shape = shape_of(labels, device);
  with_types(task, [&](auto type, auto index) {
    using T = decltype(type);
    using Index = decltype(index);
    Tensor sums = device.empty({static_cast<int64_t>(overlap_sums_bytes<T, Index>(task))}, ScalarType::Byte);
    run_overlap<T, Index>(task, raise ? &shape : nullptr, sums.mutable_data_ptr(), intersection.mutable_data_ptr(),
                          total.mutable_data_ptr(), static_cast<int64_t*>(support.mutable_data_ptr()), device);
  });
  return {intersection, total, support};
}

static Tensor class_overlap_backward_cuda(const Tensor& grad_intersection, const Tensor& grad_total,
                                          const Tensor& scores, const Tensor& labels, int64_t dim, int64_t samples,
                                          int64_t activation, bool squared, std::optional<int64_t> ignore_index) {
  const OnDevice device(scores);
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  Tensor out = device.empty({scores.sizes().begin(), scores.sizes().end()}, task.type);
  describe(task.grad_planes, out, dim, samples);
  const Tensor of_intersection = torch::stable::contiguous(grad_intersection);
  const Tensor of_total = torch::stable::contiguous(grad_total);
  task.grad_intersection = of_intersection.const_data_ptr();
  task.grad_total = of_total.const_data_ptr();
  task.grad_scores = out.mutable_data_ptr();
  with_types(task, [&](auto type, auto index) { run_overlap_backward<decltype(type), decltype(index)>(task, device); });
  return out;
}

template <class Task>
static void write_hits(const Task& task, const Tensor& labels, bool raise, const OnDevice& device) {
  const LabelShape shape = shape_of(labels, device);
  const LabelShape* recorded = raise ? &shape : nullptr;
  if (fits_32(task))
    run_hits<int32_t>(task, recorded, device);
  else
    run_hits<int64_t>(task, recorded, device);
}

static void write_multi_hot(const Tensor& indices, const std::optional<Tensor>& weights, int64_t num_classes,
                            int64_t dim, double hot, double cold, std::optional<int64_t> ignore_index, bool raise,
                            const Tensor& out, const OnDevice& device) {
  const auto write_as = [&](auto task) {
    describe_hits(task, indices, num_classes, dim, ignore_index);
    if constexpr (std::is_same_v<decltype(task), WeightedHotTask>) describe_weights(task, *weights);
    describe_output(task, out, hot, cold);
    write_hits(task, indices, raise, device);
  };
  if (weights.has_value())
    write_as(WeightedHotTask{});
  else
    write_as(MultiHotTask{});
}

static Tensor multi_hot_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                             ScalarType dtype, double hot, double cold, std::optional<int64_t> ignore_index,
                             bool raise) {
  const OnDevice device(indices);
  Tensor out = device.empty(multi_hot_sizes(indices, num_classes, dim), dtype);
  write_multi_hot(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, device);
  return out;
}

static void multi_hot_out_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                               double hot, double cold, std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  const OnDevice device(indices);
  write_multi_hot(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, device);
}

static Tensor mixup_one_hot_cuda(const Tensor& labels, std::optional<Tensor> partners, std::optional<Tensor> lam,
                                 double share, double total, int64_t num_classes, int64_t dim, ScalarType dtype,
                                 double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  if (partners.has_value()) partners = torch::stable::contiguous(*partners);
  WeightedHotTask task;
  describe_mixup(task, labels, partners, lam, share, total, num_classes, dim, ignore_index);
  Tensor out = device.empty(one_hot_sizes(labels, num_classes, dim), dtype);
  describe_output(task, out, hot, cold);
  write_hits(task, labels, raise, device);
  return out;
}

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
  const LabelShape shape = shape_of(labels, device);
  count(task, raise ? &shape : nullptr, nullptr, device);
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
  const LabelShape shape = shape_of(target, device, kTarget), shape_predicted = shape_of(predicted, device, kPredicted);
  count(task, raise ? &shape : nullptr, raise ? &shape_predicted : nullptr, device);
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
    class_counts_cuda(labels, num_classes, samples, ignore_index, raise);  // for what it records
  } else if (task.inner == 0) {
    device.zero(out);
  } else {
    const LabelShape shape = shape_of(labels, device);
    const LabelShape* recorded = raise ? &shape : nullptr;
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
  if (rows_fit_32(task, unit))
    run_rows<int32_t>(task, unit, device);
  else
    run_rows<int64_t>(task, unit, device);
  return out;
}

}  // namespace torchext

// For torchext.check_errors(), which asks through ctypes.
extern "C" __attribute__((visibility("default"))) bool torchext_reads_labels(int device) {
  return torchext::reads_labels[device].load(std::memory_order_relaxed);
}

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("one_hot", TORCH_BOX(&torchext::one_hot_cuda));
  library.impl("one_hot_out", TORCH_BOX(&torchext::one_hot_out_cuda));
  library.impl("class_indices", TORCH_BOX(&torchext::class_indices_cuda));
  library.impl("take_bad_label", TORCH_BOX(&torchext::take_bad_label_cuda));
  library.impl("class_overlap", TORCH_BOX(&torchext::class_overlap_cuda));
  library.impl("class_overlap_backward", TORCH_BOX(&torchext::class_overlap_backward_cuda));
  library.impl("multi_hot", TORCH_BOX(&torchext::multi_hot_cuda));
  library.impl("multi_hot_out", TORCH_BOX(&torchext::multi_hot_out_cuda));
  library.impl("mixup_one_hot", TORCH_BOX(&torchext::mixup_one_hot_cuda));
  library.impl("class_counts", TORCH_BOX(&torchext::class_counts_cuda));
  library.impl("confusion_counts", TORCH_BOX(&torchext::confusion_counts_cuda));
  library.impl("class_sums", TORCH_BOX(&torchext::class_sums_cuda));
  library.impl("class_rows", TORCH_BOX(&torchext::class_rows_cuda));
}
