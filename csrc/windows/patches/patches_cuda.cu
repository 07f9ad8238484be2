#include <optional>
#include <vector>

#include "common/cuda.h"
#include "windows/patches/describe.h"
#include "windows/patches/kernels.cuh"

namespace torchext {

static Tensor run(PatchTask& task, const OnDevice& device, const std::vector<int64_t>& sizes) {
  Tensor out = device.empty(sizes, task.out_type);
  task.out = out.mutable_data_ptr();
  task.out_size = static_cast<int>(out.element_size());
  std::optional<Tensor> coefficients;
  if (has_many_channels(task)) coefficients = device.empty({2 * task.channels}, ScalarType::Double);
  with_patch_types(task, [&](auto in, auto to, auto index) {
    void* on_device = coefficients ? coefficients->mutable_data_ptr() : nullptr;
    run_patches<decltype(in), decltype(to), decltype(index)>(task, on_device, device);
  });
  return out;
}

static Tensor patchify_cuda(const Tensor& images, ScalarType dtype, std::vector<int64_t> size,
                            std::vector<double> factors, std::vector<double> offsets, bool channels_last,
                            bool channels_inside) {
  const OnDevice device(images);
  PatchTask task;
  describe_patchify(task, images, dtype, size, factors, offsets, {channels_last, channels_inside});
  return run(task, device, token_sizes(task));
}

static Tensor unpatchify_cuda(const Tensor& tokens, ScalarType dtype, std::vector<int64_t> size,
                              std::vector<int64_t> grid, std::vector<double> factors, std::vector<double> offsets,
                              bool channels_last, bool channels_inside) {
  const OnDevice device(tokens);
  PatchTask task;
  describe_unpatchify(task, tokens, dtype, size, grid, factors, offsets, {channels_last, channels_inside});
  return run(task, device, image_sizes(task, channels_last));
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("patchify", TORCH_BOX(&torchext::patchify_cuda));
  library.impl("unpatchify", TORCH_BOX(&torchext::unpatchify_cuda));
}
