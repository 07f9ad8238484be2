#pragma once

#include <optional>
#include <tuple>

#include "common/tensor.h"

namespace torchext {

// The schemas and what each argument means stand in torchext/: onehot.py, _labels.py, overlap.py, multihot.py,
// mixup.py, classes.py.
Tensor one_hot_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, std::optional<ScalarType> dtype, double hot,
                   double cold, std::optional<int64_t> ignore_index, bool raise);
void one_hot_out_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                     std::optional<int64_t> ignore_index, bool raise, Tensor out);
Tensor class_indices_cpu(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise,
                         int64_t argument);
std::tuple<Tensor, Tensor, Tensor> class_overlap_cpu(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                     int64_t samples, int64_t activation, bool squared,
                                                     std::optional<int64_t> ignore_index, bool raise);
Tensor class_overlap_backward_cpu(const Tensor& grad_intersection, const Tensor& grad_total, const Tensor& scores,
                                  const Tensor& labels, int64_t dim, int64_t samples, int64_t activation, bool squared,
                                  std::optional<int64_t> ignore_index);
Tensor multi_hot_cpu(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                     ScalarType dtype, double hot, double cold, std::optional<int64_t> ignore_index, bool raise);
void multi_hot_out_cpu(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                       double hot, double cold, std::optional<int64_t> ignore_index, bool raise, Tensor out);
Tensor mixup_one_hot_cpu(const Tensor& labels, std::optional<Tensor> partners, std::optional<Tensor> lam, double share,
                         double total, int64_t num_classes, int64_t dim, ScalarType dtype, double hot, double cold,
                         std::optional<int64_t> ignore_index, bool raise);

Tensor one_hot_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, std::optional<ScalarType> dtype, double hot,
                    double cold, std::optional<int64_t> ignore_index, bool raise);
void one_hot_out_cuda(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                      std::optional<int64_t> ignore_index, bool raise, Tensor out);
Tensor class_indices_cuda(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise,
                          int64_t argument);
Tensor take_bad_label_cuda(const Tensor& device_of);
std::tuple<Tensor, Tensor, Tensor> class_overlap_cuda(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                      int64_t samples, int64_t activation, bool squared,
                                                      std::optional<int64_t> ignore_index, bool raise);
Tensor class_overlap_backward_cuda(const Tensor& grad_intersection, const Tensor& grad_total, const Tensor& scores,
                                   const Tensor& labels, int64_t dim, int64_t samples, int64_t activation, bool squared,
                                   std::optional<int64_t> ignore_index);
Tensor multi_hot_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                      ScalarType dtype, double hot, double cold, std::optional<int64_t> ignore_index, bool raise);
void multi_hot_out_cuda(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                        double hot, double cold, std::optional<int64_t> ignore_index, bool raise, Tensor out);
Tensor mixup_one_hot_cuda(const Tensor& labels, std::optional<Tensor> partners, std::optional<Tensor> lam, double share,
                          double total, int64_t num_classes, int64_t dim, ScalarType dtype, double hot, double cold,
                          std::optional<int64_t> ignore_index, bool raise);

Tensor class_counts_cpu(const Tensor& labels, int64_t num_classes, int64_t samples, std::optional<int64_t> ignore_index,
                        bool raise);
Tensor confusion_counts_cpu(const Tensor& predicted, const Tensor& target, int64_t num_classes, int64_t samples,
                            std::optional<int64_t> ignore_index, bool raise);
Tensor class_sums_cpu(const Tensor& values, const Tensor& labels, int64_t num_classes, int64_t samples, bool wide,
                      std::optional<int64_t> ignore_index, bool raise);
Tensor class_rows_cpu(const Tensor& sums, const Tensor& labels, int64_t samples, std::optional<int64_t> ignore_index);

Tensor class_counts_cuda(const Tensor& labels, int64_t num_classes, int64_t samples,
                         std::optional<int64_t> ignore_index, bool raise);
Tensor confusion_counts_cuda(const Tensor& predicted, const Tensor& target, int64_t num_classes, int64_t samples,
                             std::optional<int64_t> ignore_index, bool raise);
Tensor class_sums_cuda(const Tensor& values, const Tensor& labels, int64_t num_classes, int64_t samples, bool wide,
                       std::optional<int64_t> ignore_index, bool raise);
Tensor class_rows_cuda(const Tensor& sums, const Tensor& labels, int64_t samples, std::optional<int64_t> ignore_index);

}  // namespace torchext
