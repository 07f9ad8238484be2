#pragma once

#include <optional>

#include "common/tensor.h"

namespace torchext {

// The schemas and what each argument means stand in torchext/onehot.py.
Tensor one_hot_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, ScalarType dtype, double hot, double cold,
                   std::optional<int64_t> ignore_index, bool raise);
void one_hot_out_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                     std::optional<int64_t> ignore_index, bool raise, Tensor out);
Tensor class_indices_cpu(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise);

Tensor one_hot_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, ScalarType dtype, double hot, double cold,
                    std::optional<int64_t> ignore_index, bool raise);
void one_hot_out_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                      std::optional<int64_t> ignore_index, bool raise, Tensor out);
Tensor class_indices_cuda(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise);
Tensor take_bad_label_cuda(const Tensor& device_of);

}  // namespace torchext
