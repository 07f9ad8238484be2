#include <optional>
#include <tuple>
#include <vector>

#include "cam/pool/describe.h"
#include "cam/pool/kernels.cuh"
#include "common/cuda.h"

namespace torchext {

// `first` is the dimension of the samples. A dimension of targets may come before it.
static CamInput input_of(const Tensor& tensor, int first) {
  CamInput input;
  input.data = tensor.const_data_ptr();
  input.target_stride = first > 0 ? tensor.stride(0) : 0;
  input.sample_stride = tensor.stride(first);
  input.channel_stride = tensor.stride(first + 1);
  append_axes(tensor, first + 2, tensor.dim(), input.axes);
  const Axes& axes = input.axes;
  input.positions = axes.elements();
  input.by_channel = axes.count == 0 || input.channel_stride < axes[axes.count - 1].stride;
  return input;
}

// The gradients of a mean over positions are one expanded value, which is also their mean.
static void keep_one_position(CamInput& input) {
  if (input.axes.count != 1 || input.axes[0].stride != 0) return;
  input.axes.count = 0;
  input.positions = 1;
  input.by_channel = true;
}

static void run(const CamTask& task, ScalarType dtype, const OnDevice& device) {
  with_float_type(dtype, [&](auto type) {
    using T = decltype(type);
    const CamPlan plan = plan_of(task, sizeof(Compute<T>));
    const Tensor scratch = device.empty({plan.ranges + plan.sums + plan.partial_maps}, compute_type(dtype));
    with_index(fits_32(task, plan),
               [&](auto index) { run_cam_pool<T, decltype(index)>(task, plan, scratch.mutable_data_ptr(), device); });
  });
}

static std::tuple<Tensor, Tensor, Tensor> cam_pool_cuda(const Tensor& activations, const Tensor& gradients,
                                                        int64_t method, bool relu, int64_t normalize,
                                                        std::optional<std::vector<int64_t>> size) {
  const OnDevice device(activations);
  const CamCall call = describe_call(activations, gradients, method, normalize, size);
  const ScalarType type = activations.scalar_type();
  Tensor out = device.empty(with_sizes(call.leading, call.size), type);
  Tensor maps = device.empty(with_sizes(call.leading, {call.positions}), compute_type(type));
  Tensor weights = device.empty(weights_shape(call), compute_type(type));
  if (activations.numel() == 0 || call.targets == 0) {
    for (const Tensor* result : {&out, &maps, &weights}) device.zero(*result);
    return {out, maps, weights};
  }
  CamTask task{};
  task.method = call.method;
  task.activations = input_of(activations, 0);
  const Tensor given = call.method == CamMethod::kWeightsGiven ? torch::stable::contiguous(gradients) : weights;
  task.given = given.const_data_ptr();
  if (call.method != CamMethod::kWeightsGiven)
    task.gradients = input_of(gradients, static_cast<int>(call.leading.size()) - 1);
  if (call.method == CamMethod::kGradCam) keep_one_position(task.gradients);
  task.targets = call.targets;
  task.batch = call.batch;
  task.channels = call.channels;
  task.relu = relu;
  task.resizes = size.has_value();
  task.normalize = static_cast<CamNormalize>(normalize);
  const size_t rank = call.size.size(), absent = kCamRank - rank;
  for (size_t a = 0; a < kCamRank; ++a) {
    task.from[a] = a < absent ? 1 : activations.size(static_cast<int64_t>(2 + a - absent));
    task.to[a] = a < absent ? 1 : call.size[a - absent];
  }
  task.out = out.mutable_data_ptr();
  task.maps = maps.mutable_data_ptr();
  task.weights = weights.mutable_data_ptr();
  run(task, type, device);
  return {out, maps, weights};
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("cam_pool", TORCH_BOX(&torchext::cam_pool_cuda));
}
