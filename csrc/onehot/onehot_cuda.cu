#include "common/cuda.h"
#include "onehot/describe.h"
#include "onehot/kernels.cuh"
#include "onehot/ops.h"

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

Tensor one_hot_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, ScalarType dtype, double hot, double cold,
                    std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  Tensor out = device.empty(one_hot_sizes(labels, num_classes, dim), dtype);
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

}  // namespace torchext
