#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

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
  if (fits_32(task))
    run_unfold<int32_t>(task, device);
  else
    run_unfold<int64_t>(task, device);
  return out;
}

template <class T, class Sum>
static void fold_as(const FoldTask& task, const OnDevice& device) {
  if (fits_32(task))
    run_fold<T, Sum, int32_t>(task, device);
  else
    run_fold<T, Sum, int64_t>(task, device);
}

// Sums of signed integers wrap in the same way as those of unsigned integers.
static void fold(const FoldTask& task, const OnDevice& device) {
  switch (task.dtype) {
    case ScalarType::Bool:
      return fold_as<Truth, Truth>(task, device);
    case ScalarType::Byte:
    case ScalarType::Char:
      return fold_as<uint8_t, uint32_t>(task, device);
    case ScalarType::Short:
    case ScalarType::UInt16:
      return fold_as<uint16_t, uint32_t>(task, device);
    case ScalarType::Int:
    case ScalarType::UInt32:
      return fold_as<uint32_t, uint32_t>(task, device);
    case ScalarType::Long:
    case ScalarType::UInt64:
      return fold_as<uint64_t, uint64_t>(task, device);
    case ScalarType::Half:
      return fold_as<c10::Half, float>(task, device);
    case ScalarType::BFloat16:
      return fold_as<c10::BFloat16, float>(task, device);
    case ScalarType::Float:
      return fold_as<float, float>(task, device);
    case ScalarType::Double:
      return fold_as<double, double>(task, device);
    case ScalarType::ComplexFloat:
      return fold_as<Complex<float>, Complex<float>>(task, device);
    case ScalarType::ComplexDouble:
      return fold_as<Complex<double>, Complex<double>>(task, device);
    default:
      STD_TORCH_CHECK(false, "torchext: fold does not add this dtype");
  }
}

static Tensor fold_cuda(const Tensor& columns, int64_t padding_mode, Sizes geometry) {
  const OnDevice device(columns);
  FoldTask task;
  const Sizes sizes = describe_fold(task, columns, geometry, padding_mode);
  Tensor out = device.empty(sizes, columns.scalar_type());
  task.out = out.mutable_data_ptr();
  fold(task, device);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("unfold", TORCH_BOX(&torchext::unfold_cuda));
  library.impl("fold", TORCH_BOX(&torchext::fold_cuda));
}
