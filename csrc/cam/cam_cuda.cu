#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

#include "cam/kernels.cuh"
#include "cam/ops.h"
#include "common/cuda.h"

namespace torchext {

static CamInput input_of(const Tensor& tensor) {
  CamInput input;
  input.data = tensor.const_data_ptr();
  input.sample_stride = tensor.stride(0);
  input.channel_stride = tensor.stride(1);
  Axis axes[kMaxDims];
  input.axes = merged_axes(tensor, 2, static_cast<int>(tensor.dim()), axes);
  std::copy(axes, axes + input.axes, input.axis);
  input.positions = 1;
  for (int a = 0; a < input.axes; ++a) input.positions *= axes[a].size;
  input.by_channel = input.axes == 0 || input.channel_stride < axes[input.axes - 1].stride;
  return input;
}

// Gradients that a mean over positions sent back are one value, expanded: the mean of that value is itself.
static CamInput gradients_of(const Tensor& gradients) {
  CamInput input = input_of(gradients);
  if (input.axes == 1 && input.axis[0].stride == 0) {
    input.axes = 0;
    input.positions = 1;
    input.by_channel = true;
  }
  return input;
}

template <class T, class Index>
static void run(const CamTask& task, const OnDevice& device) {
  const CamScratch counts = scratch_of(task, sizeof(Compute<T>));
  const int64_t count = counts.sums + counts.maps + counts.ranges;
  Tensor scratch = device.empty({count}, sizeof(Compute<T>) == 8 ? ScalarType::Double : ScalarType::Float);
  run_cam_pool<T, Index>(task, scratch.mutable_data_ptr(), device);
}

template <class T>
static void run(const CamTask& task, const OnDevice& device) {
  if (fits_32(task, sizeof(Compute<T>)))
    run<T, int32_t>(task, device);
  else
    run<T, int64_t>(task, device);
}

static void run(const CamTask& task, ScalarType dtype, const OnDevice& device) {
  switch (dtype) {
    case ScalarType::Half:
      return run<c10::Half>(task, device);
    case ScalarType::BFloat16:
      return run<c10::BFloat16>(task, device);
    case ScalarType::Float:
      return run<float>(task, device);
    case ScalarType::Double:
      return run<double>(task, device);
    default:
      STD_TORCH_CHECK(false, "torchext: cam_pool does not take this dtype");
  }
}

Tensor cam_pool_cuda(const Tensor& activations, const Tensor& gradients, bool relu, int64_t normalize,
                     std::optional<std::vector<int64_t>> size) {
  const OnDevice device(activations);
  const auto shape = activations.sizes();
  std::vector<int64_t> out_sizes(shape.begin() + 1, shape.end());
  if (size) std::copy(size->begin(), size->end(), out_sizes.begin() + 1);
  out_sizes[0] = shape[0];
  Tensor out = device.empty(out_sizes, activations.scalar_type());
  if (out.numel() == 0) return out;
  if (activations.numel() == 0) {  // no channels
    device.zero(out);
    return out;
  }
  CamTask task;
  task.activations = input_of(activations);
  task.gradients = gradients_of(gradients);
  task.batch = shape[0];
  task.channels = shape[1];
  task.relu = relu;
  task.resizes = size.has_value();
  task.normalize = static_cast<CamNormalize>(normalize);
  const size_t absent = kCamRank - (shape.size() - 2);
  for (size_t a = 0; a < kCamRank; ++a) {
    task.from[a] = a < absent ? 1 : shape[2 + a - absent];
    task.to[a] = a < absent ? 1 : out_sizes[1 + a - absent];
  }
  task.out = out.mutable_data_ptr();
  run(task, activations.scalar_type(), device);
  return out;
}

}  // namespace torchext
