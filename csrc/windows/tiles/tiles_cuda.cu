#include <optional>

#include "common/cuda.h"
#include "windows/tiles/describe.h"
#include "windows/tiles/kernels.cuh"

namespace torchext {

static Tensor run(ExtractTask& task, const Tensor& input, const Sizes& sizes, const OnDevice& device) {
  Tensor out = device.empty(sizes, input.scalar_type());
  task.out = out.mutable_data_ptr();
  with_index(fits_32(task), [&](auto index) { run_extract<decltype(index)>(task, device); });
  return out;
}

static Tensor extract_windows_cuda(const Tensor& input, int64_t mode, Sizes geometry, double value) {
  const OnDevice device(input);
  ExtractTask task;
  const Sizes sizes = describe_extract(task, input, mode, geometry, value);
  return run(task, input, sizes, device);
}

static Tensor gather_windows_cuda(const Tensor& input, const Tensor& offsets, int64_t rank, Sizes size) {
  const OnDevice device(input);
  ExtractTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  const Sizes sizes = describe_gather(task, input, starts, rank, size);
  return run(task, input, sizes, device);
}

template <class Type, class Index>
static void merge_as(const MergeTask& task, const OnDevice& device) {
  const BinLayout layout(task, kRowsAThread<Type, Index>);
  if (!layout.are_needed) return run_merge<Type>(task, bin_task<Index>(task, layout, nullptr), device);
  const ScalarType type = sizeof(Index) == 4 ? ScalarType::Int : ScalarType::Long;
  const Tensor memory = device.empty({layout.entries()}, type);
  device.zero(memory);
  const BinTask<Index> bins = bin_task<Index>(task, layout, memory.mutable_data_ptr());
  run_bins(bins, device);
  run_merge<Type>(task, bins, device);
}

static void merge(const MergeTask& task, const OnDevice& device) {
  const auto merge_with = [&](auto type) {
    with_index(fits_32(task), [&](auto index) { merge_as<decltype(type), decltype(index)>(task, device); });
  };
  with_added_type(task.dtype, [&](auto number) {
    using T = decltype(number);
    if constexpr (std::is_integral_v<T>)
      task.blends() ? merge_with(IntegerElements<T>{}) : merge_with(PlainElements<std::make_unsigned_t<T>>{});
    else if constexpr (std::is_same_v<T, Truth>)
      merge_with(PlainElements<T>{});
    else if constexpr (kIsComplex<T>)
      merge_with(ComplexElements<decltype(number.real)>{});
    else
      merge_with(FloatElements<T>{});
  });
}

static Tensor run(MergeTask& task, const Sizes& sizes, const OnDevice& device) {
  Tensor out = device.empty(sizes, task.dtype);
  task.out = out.mutable_data_ptr();
  if (out.numel() > 0) merge(task, device);
  return out;
}

static Tensor merge_windows_cuda(const Tensor& windows, std::optional<Tensor> weight, int64_t mode, Sizes geometry,
                                 bool normalize) {
  const OnDevice device(windows);
  MergeTask task;
  weight = row_major(weight);
  const Sizes sizes = describe_merge(task, windows, weight, mode, geometry, normalize);
  return run(task, sizes, device);
}

static Tensor scatter_windows_cuda(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight,
                                   int64_t samples, Sizes output_size, bool normalize) {
  const OnDevice device(windows);
  MergeTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  weight = row_major(weight);
  const Sizes sizes = describe_scatter(task, windows, starts, weight, samples, output_size, normalize);
  return run(task, sizes, device);
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("extract_windows", TORCH_BOX(&torchext::extract_windows_cuda));
  library.impl("gather_windows", TORCH_BOX(&torchext::gather_windows_cuda));
  library.impl("merge_windows", TORCH_BOX(&torchext::merge_windows_cuda));
  library.impl("scatter_windows", TORCH_BOX(&torchext::scatter_windows_cuda));
}
