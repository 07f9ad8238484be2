#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "onehot/class_overlap/describe.h"
#include "onehot/class_overlap/kernels.cuh"
#include "onehot/labels/labels_cuda.h"

namespace torchext {

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
  const std::optional<LabelShape> shape = shape_of(labels, device, raise);
  with_types(task, [&](auto type, auto index) {
    using T = decltype(type);
    using Index = decltype(index);
    Tensor sums = device.empty({static_cast<int64_t>(overlap_sums_bytes<T, Index>(task))}, ScalarType::Byte);
    run_overlap<T, Index>(task, shape ? &*shape : nullptr, sums.mutable_data_ptr(), intersection.mutable_data_ptr(),
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
  check_gradient("grad_intersection", grad_intersection, task, scores, dim, samples);
  check_gradient("grad_total", grad_total, task, scores, dim, samples);
  Tensor out = device.empty({scores.sizes().begin(), scores.sizes().end()}, task.type);
  describe(task.grad_planes, out, dim, samples);
  const Tensor contiguous_intersection = torch::stable::contiguous(grad_intersection);
  const Tensor contiguous_total = torch::stable::contiguous(grad_total);
  task.grad_intersection = contiguous_intersection.const_data_ptr();
  task.grad_total = contiguous_total.const_data_ptr();
  task.grad_scores = out.mutable_data_ptr();
  with_types(task, [&](auto type, auto index) { run_overlap_backward<decltype(type), decltype(index)>(task, device); });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("class_overlap", TORCH_BOX(&torchext::class_overlap_cuda));
  library.impl("class_overlap_backward", TORCH_BOX(&torchext::class_overlap_backward_cuda));
}
