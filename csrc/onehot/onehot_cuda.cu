#include "common/cuda.h"
#include "onehot/describe.h"
#include "onehot/kernels.cuh"
#include "onehot/multi_hot_kernels.cuh"
#include "onehot/ops.h"
#include "onehot/overlap_kernels.cuh"

namespace torchext {

static LabelShape shape_of(const Tensor& labels) {
  LabelShape shape;
  shape.dims = static_cast<int>(labels.dim());
  std::copy(labels.sizes().begin(), labels.sizes().end(), shape.sizes);
  return shape;
}

static void write(const OneHotTask& task, const Tensor& labels, bool raise, const OnDevice& device) {
  const LabelShape shape = shape_of(labels);
  const LabelShape* recorded = raise ? &shape : nullptr;
  if (one_hot_fits_32(task))
    run_one_hot<int32_t>(task, recorded, device);
  else
    run_one_hot<int64_t>(task, recorded, device);
}

Tensor one_hot_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, std::optional<ScalarType> dtype, double hot,
                    double cold, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  Tensor out = device.empty(one_hot_sizes(labels, num_classes, dim), dtype.value_or(ScalarType::Float));
  describe_output(task, out, hot, cold);
  write(task, labels, raise, device);
  return out;
}

void one_hot_out_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                      std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  describe_output(task, out, hot, cold);
  write(task, labels, raise, device);
}

Tensor class_indices_cuda(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, labels.dim(), ignore_index);
  Tensor out = device.empty({labels.sizes().begin(), labels.sizes().end()}, ScalarType::Long);
  const LabelShape shape = shape_of(labels);
  const LabelShape* recorded = raise ? &shape : nullptr;
  int64_t* data = static_cast<int64_t*>(out.mutable_data_ptr());
  if (one_hot_fits_32(task))
    run_class_indices<int32_t>(task, data, recorded, device);
  else
    run_class_indices<int64_t>(task, data, recorded, device);
  return out;
}

Tensor take_bad_label_cuda(const Tensor& device_of) {
  const OnDevice device(device_of);
  cuda_check(cudaDeviceSynchronize());  // whichever streams the kernels ran on
  BadLabel record;
  cuda_check(cudaMemcpyFromSymbol(&record, bad_label, sizeof(BadLabel)));
  if (record.position == kNoBadLabel) return allocate({0}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  cuda_check(cudaMemcpyToSymbol(bad_label, &kNoBadLabel, sizeof(int64_t), offsetof(BadLabel, position)));
  Tensor taken = allocate({3 + record.dims}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  int64_t* values = static_cast<int64_t*>(taken.mutable_data_ptr());
  *values++ = record.label;
  *values++ = record.position;
  *values++ = record.classes;
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

std::tuple<Tensor, Tensor, Tensor> class_overlap_cuda(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                      int64_t samples, int64_t activation, bool squared,
                                                      std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(scores);
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  const std::vector<int64_t> sizes = overlap_sizes(scores, dim, samples);
  const ScalarType compute = compute_type(task);
  Tensor intersection = device.empty(sizes, compute), total = device.empty(sizes, compute);
  Tensor support = device.empty(sizes, ScalarType::Long);
  const LabelShape shape = shape_of(labels);
  with_types(task, [&](auto type, auto index) {
    using T = decltype(type);
    Tensor sums = device.empty({static_cast<int64_t>(overlap_sums_bytes<T>(task))}, ScalarType::Byte);
    run_overlap<T, decltype(index)>(task, raise ? &shape : nullptr, sums.mutable_data_ptr(),
                                    intersection.mutable_data_ptr(), total.mutable_data_ptr(),
                                    static_cast<int64_t*>(support.mutable_data_ptr()), device);
  });
  return {intersection, total, support};
}

Tensor class_overlap_backward_cuda(const Tensor& grad_intersection, const Tensor& grad_total, const Tensor& scores,
                                   const Tensor& labels, int64_t dim, int64_t samples, int64_t activation, bool squared,
                                   std::optional<int64_t> ignore_index) {
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
  const LabelShape shape = shape_of(labels);
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

Tensor multi_hot_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                      ScalarType dtype, double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(indices);
  Tensor out = device.empty(multi_hot_sizes(indices, num_classes, dim), dtype);
  write_multi_hot(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, device);
  return out;
}

void multi_hot_out_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                        double hot, double cold, std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  const OnDevice device(indices);
  write_multi_hot(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, device);
}

Tensor mixup_one_hot_cuda(const Tensor& labels, std::optional<Tensor> partners, std::optional<Tensor> lam, double share,
                          double total, int64_t num_classes, int64_t dim, ScalarType dtype, double hot, double cold,
                          std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  if (partners.has_value()) partners = torch::stable::contiguous(*partners);
  WeightedHotTask task;
  describe_mixup(task, labels, partners, lam, share, total, num_classes, dim, ignore_index);
  Tensor out = device.empty(one_hot_sizes(labels, num_classes, dim), dtype);
  describe_output(task, out, hot, cold);
  write_hits(task, labels, raise, device);
  return out;
}

}  // namespace torchext
