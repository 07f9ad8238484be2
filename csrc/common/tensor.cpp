#include "common/tensor.h"

#include <memory>

#include "common/block_pool.h"
#include "common/huge_pages.h"
#include "common/streams.h"

// In PyTorch 2.11 and later. Null in older versions.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError torch_from_blob(
    void* data, int64_t dims, const int64_t* sizes, const int64_t* strides, int64_t storage_offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* tensor, int32_t layout, const uint8_t* metadata,
    int64_t metadata_size, void (*deleter)(void* data, void* context), void* context);

namespace torchext {

// The number of bytes of a tensor; 0 if it is larger than any memory.
static size_t bytes_of(const std::vector<int64_t>& sizes, ScalarType dtype) {
  size_t bytes = aoti_torch_dtype_element_size(code_of(dtype));
  for (const int64_t size : sizes)
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes)) return 0;
  return bytes;
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype, bool* streams) {
  const int32_t device = aoti_torch_device_type_cpu();
  const size_t bytes = bytes_of(sizes, dtype);
  if (streams != nullptr) *streams = worth_streaming(bytes, true);
  if (bytes >= kSmallestPooled && torch_from_blob != nullptr) {
    if (Block* const block = take_block(bytes)) {
      if (streams != nullptr) *streams = worth_streaming(bytes, is_fresh(block));
      const std::vector<int64_t> strides = row_major_strides(sizes, dtype);
      AtenTensorHandle handle;
      if (torch_from_blob(
              data_of(block), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), 0, code_of(dtype),
              device, like.get_device_index(), &handle, aoti_torch_layout_strided(), nullptr, 0,
              [](void*, void* context) { give_block(static_cast<Block*>(context)); }, block) == TORCH_SUCCESS)
        return Tensor(handle);
      give_block(block);
    }
  }
  try {
    Tensor tensor = allocate(sizes, dtype, device, like.get_device_index());
    hint_huge_pages(tensor.mutable_data_ptr(), bytes);
    return tensor;
  } catch (const std::runtime_error&) {
    if (release_blocks() == 0) throw;
  }
  return allocate(sizes, dtype, device, like.get_device_index());
}

}  // namespace torchext
