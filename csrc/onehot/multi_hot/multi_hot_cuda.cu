#include <optional>

#include "common/cuda.h"
#include "onehot/labels/labels_cuda.h"
#include "onehot/multi_hot/describe.h"
#include "onehot/multi_hot/kernels.cuh"

namespace torchext {

template <class Task>
static void write_hits(const Task& task, const Tensor& labels, bool raise, const OnDevice& device) {
  const LabelShape recorded = shape_of(labels, device, raise);
  with_index(fits_32(task), [&](auto index) { run_hits<decltype(index)>(task, recorded, device); });
}

static void write_multi_hot(const Tensor& indices, const std::optional<Tensor>& weights, int64_t num_classes,
                            int64_t dim, double hot, double cold, std::optional<int64_t> ignore_index, bool raise,
                            const Tensor& out, const OnDevice& device) {
  with_multi_hot_task(indices, weights, num_classes, dim, hot, cold, ignore_index, out,
                      [&](const auto& task) { write_hits(task, indices, raise, device); });
}

static Tensor multi_hot_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                             ScalarType dtype, double hot, double cold, std::optional<int64_t> ignore_index,
                             bool raise) {
  const OnDevice device(indices);
  check_multi_hot(indices, weights, dtype);
  Tensor out = device.empty(multi_hot_sizes(indices, num_classes, dim), dtype);
  write_multi_hot(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, device);
  return out;
}

static void multi_hot_out_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                               double hot, double cold, std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  const OnDevice device(indices);
  check_out(kMultiHot, out, multi_hot_sizes(indices, num_classes, dim), indices);
  check_multi_hot(indices, weights, out.scalar_type());
  write_multi_hot(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, device);
}

static Tensor mixup_one_hot_cuda(const Tensor& labels, std::optional<Tensor> partners, std::optional<Tensor> lam,
                                 double share, double total, int64_t num_classes, int64_t dim, ScalarType dtype,
                                 double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(labels);
  check_dtype({kMixup, "dtype"}, dtype, kFloatTypes);
  if (partners.has_value()) partners = torch::stable::contiguous(*partners);
  WeightedHotTask task;
  describe_mixup(task, labels, partners, lam, share, total, num_classes, dim, ignore_index);
  Tensor out = device.empty(one_hot_sizes(kMixup, labels, num_classes, dim), dtype);
  describe_output(task, out, hot, cold);
  write_hits(task, labels, raise, device);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("multi_hot", TORCH_BOX(&torchext::multi_hot_cuda));
  library.impl("multi_hot_out", TORCH_BOX(&torchext::multi_hot_out_cuda));
  library.impl("mixup_one_hot", TORCH_BOX(&torchext::mixup_one_hot_cuda));
}
