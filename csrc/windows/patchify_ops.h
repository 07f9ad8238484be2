#pragma once

#include <vector>

#include "common/tensor.h"

namespace torchext {

// The schemas and what each argument means stand in torchext/patches.py.
Tensor patchify_cpu(const Tensor& images, ScalarType dtype, std::vector<int64_t> size, std::vector<double> factors,
                    std::vector<double> offsets, bool channels_last, bool channels_inside);
Tensor unpatchify_cpu(const Tensor& tokens, ScalarType dtype, std::vector<int64_t> size, std::vector<int64_t> grid,
                      std::vector<double> factors, std::vector<double> offsets, bool channels_last,
                      bool channels_inside);

Tensor patchify_cuda(const Tensor& images, ScalarType dtype, std::vector<int64_t> size, std::vector<double> factors,
                     std::vector<double> offsets, bool channels_last, bool channels_inside);
Tensor unpatchify_cuda(const Tensor& tokens, ScalarType dtype, std::vector<int64_t> size, std::vector<int64_t> grid,
                       std::vector<double> factors, std::vector<double> offsets, bool channels_last,
                       bool channels_inside);

}  // namespace torchext
