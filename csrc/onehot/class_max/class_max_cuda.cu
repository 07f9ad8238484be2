#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "onehot/class_max/describe.h"
#include "onehot/class_max/kernels.cuh"
#include "onehot/labels/labels_cuda.h"

namespace torchext {

static std::tuple<Tensor, Tensor> class_extremes_cuda(const Tensor& values, const Tensor& labels, int64_t num_classes,
                                                      int64_t samples, bool largest,
                                                      std::optional<int64_t> ignore_index, bool raise) {
  const OnDevice device(values);
  ExtremesTask task;
  describe(task, values, labels, num_classes, samples, largest, ignore_index);
  const std::vector<int64_t> sizes = class_sizes(labels, samples, num_classes, values);
  Tensor best = device.empty(sizes, values.scalar_type()), positions = device.empty(sizes, ScalarType::Long);
  const Tensor keys = device.empty(sizes, ScalarType::Long);
  device.zero(positions);
  device.zero(keys);
  task.best = best.mutable_data_ptr();
  task.positions = static_cast<int64_t*>(positions.mutable_data_ptr());
  const LabelShape recorded = shape_of(labels, device, raise);
  with_order(task, [&](auto order) {
    with_index(extremes_fit_32(task), [&](auto index) {
      run_extremes<decltype(order), decltype(index)>(task, recorded, keys.mutable_data_ptr(), device);
    });
  });
  return {best, positions};
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("class_extremes", TORCH_BOX(&torchext::class_extremes_cuda));
}
