#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "cam/task.h"
#include "common/tensor.h"

namespace torchext {

// The schema and what each argument means stand in torchext/cam.py.
std::tuple<Tensor, Tensor, Tensor> cam_pool_cpu(const Tensor& activations, const Tensor& gradients, int64_t method,
                                                bool relu, int64_t normalize, std::optional<std::vector<int64_t>> size);
std::tuple<Tensor, Tensor, Tensor> cam_pool_cuda(const Tensor& activations, const Tensor& gradients, int64_t method,
                                                 bool relu, int64_t normalize,
                                                 std::optional<std::vector<int64_t>> size);

}  // namespace torchext
