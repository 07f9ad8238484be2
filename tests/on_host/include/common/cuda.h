// Replaces csrc/common/cuda.h: launchers run their kernels with cuda_on_host.h and allocate memory of the CPU.
#pragma once

#include <cuda_runtime.h>

#include "common/tensor.h"

namespace torchext {

inline void cuda_check(cudaError_t) {}

class OnDevice {
 public:
  explicit OnDevice(const Tensor&) : processors(cuda_on_host::device.processors) {}

  int32_t index() const { return 0; }

  // The memory is filled with NaNs, so that a read before a write gives a wrong result.
  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const {
    Tensor tensor = allocate(sizes, dtype, aoti_torch_device_type_cpu(), 0);
    fill(tensor, 0xff);
    return tensor;
  }

  void zero(const Tensor& tensor) const {
    cuda_on_host::device.launches += tensor.numel() > 0;
    fill(tensor, 0);
  }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
                  const Arguments&... arguments) const {
    cuda_on_host::launch(kernel, blocks, threads, shared_bytes, arguments...);
  }

  int64_t processors;

 private:
  static void fill(const Tensor& tensor, int byte) {
    const size_t bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
    if (bytes > 0) std::memset(tensor.mutable_data_ptr(), byte, bytes);
  }
};

}  // namespace torchext
