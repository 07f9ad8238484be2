// Code that all CUDA launchers share. It uses only the CUDA runtime and the LibTorch Stable ABI.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "common/tensor.h"

namespace torchext {

inline void cuda_check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("torchext: CUDA: ") + cudaGetErrorString(error));
}

// Makes the device of a tensor the current device for the lifetime of this object, and holds its current stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    // The CUDA runtime is linked statically into this library and has its own current device.
    cuda_check(cudaSetDevice(index_));
    void* stream;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    int count;
    cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index_));
    processors = count;
  }

  int32_t index() const { return index_; }

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const {
    return allocate(sizes, dtype, aoti_torch_device_type_cuda(), index_);
  }

  void zero(const Tensor& tensor) const {
    const size_t bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
    if (bytes == 0) return;  // an empty tensor has a null pointer
    cuda_check(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, bytes, stream_));
  }

  // Launches a kernel; kernels.cuh takes this object as its `launch`. CUDA rejects a launch with no blocks, so the
  // functions that lay out a call return early where there is no work.
  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
                  const Arguments&... arguments) const {
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared_bytes, stream_>>>(arguments...);
    cuda_check(cudaGetLastError());
  }

  int64_t processors;

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace torchext
