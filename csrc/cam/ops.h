#pragma once

#include <optional>
#include <vector>

#include "common/tensor.h"

namespace torchext {

// The schema and what each argument means stand in torchext/cam.py.
Tensor cam_pool_cpu(const Tensor& activations, const Tensor& gradients, bool relu, int64_t normalize,
                    std::optional<std::vector<int64_t>> size);
Tensor cam_pool_cuda(const Tensor& activations, const Tensor& gradients, bool relu, int64_t normalize,
                     std::optional<std::vector<int64_t>> size);

}  // namespace torchext
