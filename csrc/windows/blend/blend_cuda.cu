#include <optional>

#include "common/cuda.h"
#include "windows/blend/describe.h"
#include "windows/blend/kernels.cuh"

namespace torchext {

static void blend_windows_cuda(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight, Tensor sums,
                               std::optional<Tensor> totals) {
  const OnDevice device(windows);
  BlendTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  weight = row_major(weight);
  describe_blend(task, windows, starts, weight, sums, totals);
  if (is_empty(task)) return;
  const auto blend_as = [&](auto type) {
    with_index(fits_32(task), [&](auto index) { run_blend<decltype(type), decltype(index)>(task, device); });
  };
  if (task.dtype == ScalarType::ComplexFloat) return blend_as(ComplexElements<float>{});
  if (task.dtype == ScalarType::ComplexDouble) return blend_as(ComplexElements<double>{});
  with_float_type(task.dtype, [&](auto number) { blend_as(FloatElements<decltype(number)>{}); });
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("blend_windows", TORCH_BOX(&torchext::blend_windows_cuda));
}
