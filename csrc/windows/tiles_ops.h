#pragma once

#include <optional>
#include <vector>

#include "common/tensor.h"

namespace torchext {

// The schemas and what each argument means stand in torchext/tiles.py.
Tensor extract_windows_cpu(const Tensor& input, int64_t mode, std::vector<int64_t> geometry, double value);
Tensor merge_windows_cpu(const Tensor& windows, std::optional<Tensor> weight, int64_t mode,
                         std::vector<int64_t> geometry, bool normalize);
Tensor gather_windows_cpu(const Tensor& input, const Tensor& offsets, int64_t rank, std::vector<int64_t> size);
Tensor scatter_windows_cpu(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight, int64_t samples,
                           std::vector<int64_t> output_size, bool normalize);

Tensor extract_windows_cuda(const Tensor& input, int64_t mode, std::vector<int64_t> geometry, double value);
Tensor merge_windows_cuda(const Tensor& windows, std::optional<Tensor> weight, std::vector<int64_t> geometry,
                          int64_t mode, bool normalize);
Tensor gather_windows_cuda(const Tensor& input, const Tensor& offsets, int64_t rank, std::vector<int64_t> size);
Tensor scatter_windows_cuda(const Tensor& windows, const Tensor& offsets, std::optional<Tensor> weight, int64_t samples,
                            std::vector<int64_t> output_size, bool normalize);

}  // namespace torchext
