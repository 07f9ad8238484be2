#pragma once

#include <vector>

#include "common/tensor.h"

namespace torchext {

// The schemas and what each argument means stand in torchext/windows.py.
Tensor unfold_cpu(const Tensor& input, int64_t padding_mode, std::vector<int64_t> geometry, double value);
Tensor fold_cpu(const Tensor& columns, int64_t padding_mode, std::vector<int64_t> geometry);

Tensor unfold_cuda(const Tensor& input, int64_t padding_mode, std::vector<int64_t> geometry, double value);
Tensor fold_cuda(const Tensor& columns, int64_t padding_mode, std::vector<int64_t> geometry);

}  // namespace torchext
