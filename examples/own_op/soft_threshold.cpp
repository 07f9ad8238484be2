// An operation that uses the helpers of torchext's kernels: sign(x) * max(|x| - threshold, 0). Its schema is in Python,
// like the schemas of torchext; see own_op.py.
#include <cmath>

#include "common/parallel.h"
#include "common/tensor.h"

namespace {

using torchext::ScalarType;
using torchext::Tensor;

Tensor soft_threshold(const Tensor& input, double threshold) {
  // Python has checked the dtype. A copy is made only if the input is not row-major.
  const Tensor values = torch::stable::contiguous(input);
  std::vector<int64_t> sizes(values.sizes().begin(), values.sizes().end());
  Tensor output = torchext::empty(values, sizes, ScalarType::Float);  // requests huge pages if it is large
  const float* from = values.const_data_ptr<float>();
  float* to = output.mutable_data_ptr<float>();
  const float limit = static_cast<float>(threshold);
  torchext::parallel(values.numel(), 2 * sizeof(float), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float left = std::max(std::abs(from[i]) - limit, 0.0f);
      to[i] = std::copysign(left, from[i]);
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(own, CPU, library) {
  library.impl("soft_threshold", TORCH_BOX(&soft_threshold));
}
