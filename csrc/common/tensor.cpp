#include "common/tensor.h"

#include "common/huge_pages.h"

namespace torchext {

Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  Tensor tensor = allocate(sizes, dtype, aoti_torch_device_type_cpu(), like.get_device_index());
  hint_huge_pages(tensor.mutable_data_ptr(), static_cast<size_t>(element_count(sizes)) * tensor.element_size());
  return tensor;
}

}  // namespace torchext
