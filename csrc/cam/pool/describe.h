// What the arguments of cam_pool are, for CPU and CUDA alike.
#pragma once

#include <optional>
#include <vector>

#include "cam/pool/task.h"
#include "common/tensor.h"

namespace torchext {

struct CamCall {
  CamMethod method;
  int64_t targets, batch, channels, positions;
  std::vector<int64_t> leading;  // ([targets,] batch), of all results
  std::vector<int64_t> size;     // of the result's maps
};

inline CamCall describe_call(const Tensor& activations, const Tensor& gradients, int64_t method,
                             const std::optional<std::vector<int64_t>>& size) {
  CamCall call{static_cast<CamMethod>(method), 1, activations.size(0), activations.size(1), 1, {}, {}};
  const auto shape = activations.sizes();
  call.size.assign(shape.begin() + 2, shape.end());
  call.positions = element_count(call.size);
  if (size) call.size = *size;
  const int64_t one_target = call.method == CamMethod::kGiven ? 2 : activations.dim();
  if (gradients.dim() > one_target) call.leading.push_back(call.targets = gradients.size(0));
  call.leading.push_back(call.batch);
  return call;
}

inline std::vector<int64_t> with_sizes(std::vector<int64_t> leading, const std::vector<int64_t>& last) {
  leading.insert(leading.end(), last.begin(), last.end());
  return leading;
}

// Of the weights that the operation gives back: none where it finds none.
inline std::vector<int64_t> weights_shape(const CamCall& call) {
  const bool none = multiplies(call.method) || call.method == CamMethod::kGiven;
  return with_sizes(call.leading, {none ? 0 : call.channels});
}

inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace torchext
