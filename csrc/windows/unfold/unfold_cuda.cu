#include "common/cuda.h"
#include "windows/unfold/describe.h"
#include "windows/unfold/kernels.cuh"

namespace torchext {

static Tensor unfold_cuda(const Tensor& input, int64_t padding_mode, Sizes geometry, double value) {
  const OnDevice device(input);
  UnfoldTask task;
  describe_unfold(task, input, geometry, padding_mode, value);
  Tensor out = device.empty(unfold_sizes(task), input.scalar_type());
  task.out = out.mutable_data_ptr();
  with_index(fits_32(task), [&](auto index) { run_unfold<decltype(index)>(task, device); });
  return out;
}

static Tensor fold_cuda(const Tensor& columns, int64_t padding_mode, Sizes geometry) {
  const OnDevice device(columns);
  FoldTask task;
  const Sizes sizes = describe_fold(task, columns, geometry, padding_mode);
  Tensor out = device.empty(sizes, columns.scalar_type());
  task.out = out.mutable_data_ptr();
  with_added_type(task.dtype, [&](auto number) {
    const auto fold = [&](auto type) {
      using T = decltype(type);
      with_index(fits_32(task), [&](auto index) { run_fold<T, SumOf<T>, decltype(index)>(task, device); });
    };
    if constexpr (std::is_integral_v<decltype(number)>)
      fold(std::make_unsigned_t<decltype(number)>{});
    else
      fold(number);
  });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("unfold", TORCH_BOX(&torchext::unfold_cuda));
  library.impl("fold", TORCH_BOX(&torchext::fold_cuda));
}
