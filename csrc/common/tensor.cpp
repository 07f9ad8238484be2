#include "common/tensor.h"

#include "common/huge_pages.h"

namespace torchext {

Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  int64_t strides[kMaxDims];
  int64_t count = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = count;
    count *= sizes[d] > 1 ? sizes[d] : 1;
  }
  int32_t device_type;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides,
                                                         dtype_code, device_type, like.get_device_index(), &handle));
  Tensor tensor(handle);
  if (device_type == aoti_torch_device_type_cpu())
    hint_huge_pages(tensor.mutable_data_ptr(), static_cast<size_t>(element_count(sizes)) * tensor.element_size());
  return tensor;
}

int merged_axes(const Tensor& tensor, int first, int last, Axis* axes) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int count = 0;
  for (int d = first; d < last; ++d) {
    if (sizes[d] == 1) continue;
    if (count && axes[count - 1].stride == sizes[d] * strides[d])
      axes[count - 1] = {axes[count - 1].size * sizes[d], strides[d]};
    else
      axes[count++] = {sizes[d], strides[d]};
  }
  return count;
}

}  // namespace torchext
