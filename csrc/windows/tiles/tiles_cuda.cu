#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

#include "common/cuda.h"
#include "windows/tiles/describe.h"
#include "windows/tiles/kernels.cuh"

namespace torchext {

static Tensor extract(ExtractTask& task, const Tensor& input, const Sizes& windows, const Sizes& size,
                      const OnDevice& device) {
  Tensor out = device.empty(extracted_sizes(task, windows, size), input.scalar_type());
  task.out = out.mutable_data_ptr();
  if (fits_32(task))
    run_extract<int32_t>(task, device);
  else
    run_extract<int64_t>(task, device);
  return out;
}

static Tensor extract_windows_cuda(const Tensor& input, int64_t mode, Sizes geometry, double value) {
  const OnDevice device(input);
  ExtractTask task;
  const Argument argument{"extract_windows", "geometry"};
  const GridSizes sizes = extract_grid(argument, input, geometry);
  check_dtype({argument.operation, "input"}, input, kEncodedTypes);
  describe_grid(task.tiles, argument, sizes, mode);
  describe_image(task, input, value);
  return extract(task, input, sizes.grid, sizes.size, device);
}

static Tensor gather_windows_cuda(const Tensor& input, const Tensor& offsets, int64_t rank, Sizes size) {
  const OnDevice device(input);
  check_gather(input, offsets, rank, size);
  ExtractTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  describe_offsets(task.tiles, starts, some_sizes(input, 2, rank), size);
  describe_image(task, input, 0);
  return extract(task, input, {starts.size(0)}, size, device);
}

template <class Type, class Index>
static void merge_as(const MergeTask& task, const OnDevice& device) {
  const BinLayout layout(task);
  if (task.tiles.on_grid) return run_merge<Type>(task, bin_task<Index>(task, layout, nullptr), device);
  const ScalarType type = sizeof(Index) == 4 ? ScalarType::Int : ScalarType::Long;
  const Tensor memory = device.empty({layout.entries()}, type);
  device.zero(memory);
  const BinTask<Index> bins = bin_task<Index>(task, layout, memory.mutable_data_ptr());
  run_bins(bins, device);
  run_merge<Type>(task, bins, device);
}

template <class Type>
static void merge_as(const MergeTask& task, const OnDevice& device) {
  if (fits_32(task))
    merge_as<Type, int32_t>(task, device);
  else
    merge_as<Type, int64_t>(task, device);
}

template <class Signed, class Unsigned>
static void merge_integers(const MergeTask& task, bool is_signed, const OnDevice& device) {
  if (!task.blends()) return merge_as<PlainElements<Unsigned>>(task, device);
  if (is_signed) return merge_as<IntegerElements<Signed>>(task, device);
  merge_as<IntegerElements<Unsigned>>(task, device);
}

static void merge(const MergeTask& task, const OnDevice& device) {
  switch (task.dtype) {
    case ScalarType::Bool:
      return merge_as<PlainElements<Truth>>(task, device);
    case ScalarType::Byte:
    case ScalarType::Char:
      return merge_integers<int8_t, uint8_t>(task, task.dtype == ScalarType::Char, device);
    case ScalarType::Short:
    case ScalarType::UInt16:
      return merge_integers<int16_t, uint16_t>(task, task.dtype == ScalarType::Short, device);
    case ScalarType::Int:
    case ScalarType::UInt32:
      return merge_integers<int32_t, uint32_t>(task, task.dtype == ScalarType::Int, device);
    case ScalarType::Long:
    case ScalarType::UInt64:
      return merge_integers<int64_t, uint64_t>(task, task.dtype == ScalarType::Long, device);
    case ScalarType::Half:
      return merge_as<FloatElements<c10::Half>>(task, device);
    case ScalarType::BFloat16:
      return merge_as<FloatElements<c10::BFloat16>>(task, device);
    case ScalarType::Float:
      return merge_as<FloatElements<float>>(task, device);
    case ScalarType::Double:
      return merge_as<FloatElements<double>>(task, device);
    case ScalarType::ComplexFloat:
      return merge_as<ComplexElements<float>>(task, device);
    case ScalarType::ComplexDouble:
      return merge_as<ComplexElements<double>>(task, device);
    default:
      STD_TORCH_CHECK(false, "torchext: windows of this dtype do not add");
  }
}

static Tensor merge(MergeTask& task, const Tensor& windows, std::optional<Tensor> weight, int64_t samples,
                    const Sizes& output_size, bool normalize, const OnDevice& device) {
  if (weight.has_value()) weight = torch::stable::contiguous(*weight);
  describe_windows(task, windows, weight, samples, normalize);
  Tensor out = device.empty(concatenated({task.samples, task.channels}, output_size), task.dtype);
  task.out = out.mutable_data_ptr();
  if (out.numel() > 0) merge(task, device);
  return out;
}

static Tensor merge_windows_cuda(const Tensor& windows, std::optional<Tensor> weight, int64_t mode, Sizes geometry,
                                 bool normalize) {
  const OnDevice device(windows);
  MergeTask task;
  const Argument argument{"merge_windows", "geometry"};
  const GridSizes sizes = merge_grid(argument, windows, geometry);
  check_merge(argument.operation, windows, weight, sizes.size, normalize);
  describe_grid(task.tiles, argument, sizes, mode);
  return merge(task, windows, weight, windows.size(0), sizes.image, normalize, device);
}

static Tensor scatter_windows_cuda(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight,
                                   int64_t samples, Sizes output_size, bool normalize) {
  const OnDevice device(windows);
  check_scatter(windows, offsets, weight, samples, output_size, normalize);
  MergeTask task;
  const Tensor starts = torch::stable::contiguous(offsets);
  const int64_t rank = static_cast<int64_t>(output_size.size());
  describe_offsets(task.tiles, starts, output_size, some_sizes(windows, windows.dim() - rank, rank));
  if (!task.tiles.own_sample) samples = windows.size(0);
  return merge(task, windows, weight, samples, output_size, normalize, device);
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("extract_windows", TORCH_BOX(&torchext::extract_windows_cuda));
  library.impl("gather_windows", TORCH_BOX(&torchext::gather_windows_cuda));
  library.impl("merge_windows", TORCH_BOX(&torchext::merge_windows_cuda));
  library.impl("scatter_windows", TORCH_BOX(&torchext::scatter_windows_cuda));
}
