#pragma once

#include <cstdint>

namespace torchext {

struct OneHotValues {
  double hot, cold;
};

// off + (on - off) * ((1 - e) * hot + e / classes), as F.cross_entropy(label_smoothing=e) spreads it.
inline OneHotValues one_hot_values(int64_t classes, double on_value, double off_value, double label_smoothing) {
  if (label_smoothing == 0 || classes == 0) return {on_value, off_value};  // exact, and infinities stay
  const double share = label_smoothing / static_cast<double>(classes);
  return {off_value + (on_value - off_value) * (1 - label_smoothing + share),
          off_value + (on_value - off_value) * share};
}

}  // namespace torchext
