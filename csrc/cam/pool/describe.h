// Describes the arguments of cam_pool for the launchers of the CPU and of CUDA.
#pragma once

#include <optional>
#include <vector>

#include "cam/pool/task.h"
#include "common/check.h"
#include "common/tensor.h"

namespace torchext {

struct CamCall {
  CamMethod method;
  int64_t targets, batch, channels, positions;
  std::vector<int64_t> leading;  // ([targets,] batch): the first sizes of all results
  std::vector<int64_t> size;     // the sizes of the resulting maps
};

inline void check_call(const Tensor& activations, const Tensor& gradients, int64_t method, int64_t normalize,
                       const std::optional<std::vector<int64_t>>& size) {
  const char* const operation = "cam_pool";
  const Argument gradients_argument{operation, "gradients"};
  check_dims({operation, "activations"}, activations, 3, 5);
  check_dtype({operation, "activations"}, activations, kFloatTypes);
  check_within({operation, "method"}, method, 0, static_cast<int64_t>(CamMethod::kWeightsGiven));
  check_within({operation, "normalize"}, normalize, 0, static_cast<int64_t>(CamNormalize::kMinMax));
  const bool given = static_cast<CamMethod>(method) == CamMethod::kWeightsGiven;
  const ScalarType type = activations.scalar_type();
  check_dtype(gradients_argument, gradients, dtypes({given ? compute_type(type) : type}));
  const auto expected = activations.sizes().slice(0, given ? 2 : static_cast<size_t>(activations.dim()));
  const int64_t dims = static_cast<int64_t>(expected.size());
  check_dims(gradients_argument, gradients, dims, dims + 1);
  check_sizes(gradients_argument, gradients, gradients.dim() - dims, expected);
  check_same_device(gradients_argument, gradients, activations);
  if (!size.has_value()) return;
  check_count({operation, "size"}, size->size(), static_cast<size_t>(activations.dim()) - 2);
  check_all_within({operation, "size"}, *size, 1, kMostElements);
  product_of({operation, "size"}, *size);
}

inline CamCall describe_call(const Tensor& activations, const Tensor& gradients, int64_t method, int64_t normalize,
                             const std::optional<std::vector<int64_t>>& size) {
  check_call(activations, gradients, method, normalize, size);
  CamCall call{static_cast<CamMethod>(method), 1, activations.size(0), activations.size(1), 1, {}, {}};
  const auto shape = activations.sizes();
  call.size.assign(shape.begin() + 2, shape.end());
  call.positions = element_count(call.size);
  if (size) call.size = *size;
  const int64_t one_target = call.method == CamMethod::kWeightsGiven ? 2 : activations.dim();
  if (gradients.dim() > one_target) call.leading.push_back(call.targets = gradients.size(0));
  call.leading.push_back(call.batch);
  return call;
}

inline std::vector<int64_t> with_sizes(std::vector<int64_t> leading, const std::vector<int64_t>& last) {
  leading.insert(leading.end(), last.begin(), last.end());
  return leading;
}

// The shape of the weights that the operation returns. It has no channels if the method does not compute weights.
inline std::vector<int64_t> weights_shape(const CamCall& call) {
  const bool none = multiplies(call.method) || call.method == CamMethod::kWeightsGiven;
  return with_sizes(call.leading, {none ? 0 : call.channels});
}

}  // namespace torchext
