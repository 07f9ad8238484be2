#include "onehot/labels/labels_cuda.h"

#include <algorithm>
#include <atomic>
#include <cstddef>

namespace torchext {

// The bad label with the lowest position on a device. It is a variable because memory could not be allocated while a
// CUDA graph is captured.
static __device__ BadLabel bad_label = {0, 0, 0, kNoBadLabel, 0, {}, kLabels, false};

// The address of the record on each device whose kernels may have written to it. check_errors reads only these. PyTorch
// numbers devices with a signed byte.
static std::atomic<BadLabel*> records[128];

LabelShape shape_of(const Tensor& labels, const OnDevice& device, bool raise, LabelArgument argument) {
  LabelShape shape;
  if (!raise) return shape;
  shape.record = records[device.index()].load(std::memory_order_relaxed);
  if (shape.record == nullptr) {
    void* address;
    cuda_check(cudaGetSymbolAddress(&address, bad_label));
    shape.record = static_cast<BadLabel*>(address);
    records[device.index()].store(shape.record, std::memory_order_relaxed);
  }
  shape.argument = argument;
  shape.dims = static_cast<int>(labels.dim());
  std::copy(labels.sizes().begin(), labels.sizes().end(), shape.sizes);
  return shape;
}

static Tensor take_bad_label_cuda(const Tensor& device_of) {
  const OnDevice device(device_of);
  cuda_check(cudaDeviceSynchronize());  // the kernels may have run on any stream
  BadLabel record;
  cuda_check(cudaMemcpyFromSymbol(&record, bad_label, sizeof(BadLabel)));
  if (record.position == kNoBadLabel) return allocate({0}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  cuda_check(cudaMemcpyToSymbol(bad_label, &kNoBadLabel, sizeof(int64_t), offsetof(BadLabel, position)));
  Tensor taken = allocate({5 + record.dims}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  int64_t* values = static_cast<int64_t*>(taken.mutable_data_ptr());
  *values++ = record.label;
  *values++ = record.position;
  *values++ = record.classes;
  *values++ = record.argument;
  *values++ = record.is_uint64;
  std::copy(record.shape, record.shape + record.dims, values);
  return taken;
}

}  // namespace torchext

// torchext.check_errors() calls this function through ctypes.
extern "C" __attribute__((visibility("default"))) bool torchext_reads_labels(int device) {
  return torchext::records[device].load(std::memory_order_relaxed) != nullptr;
}

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("take_bad_label", TORCH_BOX(&torchext::take_bad_label_cuda));
}
