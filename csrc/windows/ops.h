#pragma once

#include <vector>

#include "common/tensor.h"

namespace torchext {

// The schemas and what each argument means stand in torchext/windows.py.
Tensor unfold_cpu(const Tensor& input, std::vector<int64_t> geometry, int64_t padding_mode, double value);
Tensor fold_cpu(const Tensor& columns, std::vector<int64_t> geometry, int64_t padding_mode);

Tensor unfold_cuda(const Tensor& input, std::vector<int64_t> geometry, int64_t padding_mode, double value);
Tensor fold_cuda(const Tensor& columns, std::vector<int64_t> geometry, int64_t padding_mode);

}  // namespace torchext
