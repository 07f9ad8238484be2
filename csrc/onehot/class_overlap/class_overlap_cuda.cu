#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "onehot/class_overlap/describe.h"
#include "onehot/class_overlap/kernels.cuh"
#include "onehot/labels/labels_cuda.h"

namespace torchext {

// Calls body with values of the type of the scores and of the indices.
template <class Body>
static void with_types(const OverlapTask& task, const Body& body) {
  with_float_type(task.type,
                  [&](auto type) { with_index(overlap_fits_32(task), [&](auto index) { body(type, index); }); });
}

static std::tuple<Tensor, Tensor, Tensor> class_overlap_cuda(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                             int64_t samples, int64_t activation, bool squared,
                                                             std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(scores);
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  const std::vector<int64_t> sizes = class_sizes(scores, samples, task.classes);
  const ScalarType compute = compute_type(task.type);
  Tensor intersection = device.empty(sizes, compute), total = device.empty(sizes, compute);
  Tensor support = device.empty(sizes, ScalarType::Long);
  task.intersection = intersection.mutable_data_ptr();
  task.total = total.mutable_data_ptr();
  task.support = static_cast<int64_t*>(support.mutable_data_ptr());
  const LabelShape recorded = shape_of(labels, device, raise);
  with_types(task, [&](auto type, auto index) {
    using T = decltype(type);
    using Index = decltype(index);
    Tensor sums = device.empty({static_cast<int64_t>(overlap_sums_bytes<T, Index>(task))}, ScalarType::Byte);
    run_overlap<T, Index>(task, recorded, sums.mutable_data_ptr(), device);
  });
  return {intersection, total, support};
}

static Tensor class_overlap_backward_cuda(const Tensor& grad_intersection, const Tensor& grad_total,
                                          const Tensor& scores, const Tensor& labels, int64_t dim, int64_t samples,
                                          int64_t activation, bool squared, std::optional<int64_t> ignore_index) {
  const OnDevice device(scores);
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  const Tensor intersection = checked_gradient("grad_intersection", grad_intersection, task, scores, samples);
  const Tensor total = checked_gradient("grad_total", grad_total, task, scores, samples);
  Tensor out = device.empty({scores.sizes().begin(), scores.sizes().end()}, task.type);
  describe(task.grad_planes, out, dim, samples);
  task.grad_intersection = intersection.const_data_ptr();
  task.grad_total = total.const_data_ptr();
  task.grad_scores = out.mutable_data_ptr();
  with_types(task, [&](auto type, auto index) { run_overlap_backward<decltype(type), decltype(index)>(task, device); });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("class_overlap", TORCH_BOX(&torchext::class_overlap_cuda));
  library.impl("class_overlap_backward", TORCH_BOX(&torchext::class_overlap_backward_cuda));
}
