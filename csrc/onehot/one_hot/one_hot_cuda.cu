#include <optional>

#include "common/cuda.h"
#include "onehot/labels/labels_cuda.h"
#include "onehot/one_hot/describe.h"
#include "onehot/one_hot/kernels.cuh"

namespace torchext {

static void write(const OneHotTask& task, const Tensor& labels, bool raise, const OnDevice& device) {
  const LabelShape recorded = shape_of(labels, device, raise);
  with_index(one_hot_fits_32(task), [&](auto index) { run_one_hot<decltype(index)>(task, recorded, device); });
}

static Tensor one_hot_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, std::optional<ScalarType> dtype,
                           double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  OneHotTask task;
  check_dtype({kOneHot, "dtype"}, dtype.value_or(ScalarType::Float), kEncodedTypes);
  const auto sizes = one_hot_sizes(kOneHot, labels, num_classes, dim);
  describe(task, {kOneHot, "labels"}, labels, num_classes, dim, ignore_index);
  Tensor out = device.empty(sizes, dtype.value_or(ScalarType::Float));
  describe_output(task, out, hot, cold);
  write(task, labels, raise, device);
  return out;
}

static void one_hot_out_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                             std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  const OnDevice device(labels);
  OneHotTask task;
  check_out(kOneHot, out, one_hot_sizes(kOneHot, labels, num_classes, dim), labels);
  check_dtype({kOneHot, "out"}, out, kEncodedTypes);
  describe(task, {kOneHot, "labels"}, labels, num_classes, dim, ignore_index);
  describe_output(task, out, hot, cold);
  write(task, labels, raise, device);
}

static Tensor class_indices_cuda(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index,
                                 bool raise, int64_t argument) {
  const OnDevice device(labels);
  OneHotTask task;
  check_within({"class_indices", "argument"}, argument, kLabels, kPermutation);
  describe(task, {"class_indices", "labels"}, labels, num_classes, labels.dim(), ignore_index);
  Tensor out = device.empty({labels.sizes().begin(), labels.sizes().end()}, ScalarType::Long);
  const LabelShape recorded = shape_of(labels, device, raise, static_cast<LabelArgument>(argument));
  int64_t* data = static_cast<int64_t*>(out.mutable_data_ptr());
  with_index(one_hot_fits_32(task),
             [&](auto index) { run_class_indices<decltype(index)>(task, data, recorded, device); });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("one_hot", TORCH_BOX(&torchext::one_hot_cuda));
  library.impl("one_hot_out", TORCH_BOX(&torchext::one_hot_out_cuda));
  library.impl("class_indices", TORCH_BOX(&torchext::class_indices_cuda));
}
