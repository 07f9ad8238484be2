#include "onehot/labels/bad_label.h"

#include <stdexcept>
#include <string>

#include "common/dtypes.h"

namespace torchext {

// The texts for LabelArgument, as in torchext/onehot/labels.py.
static constexpr const char* kNames[] = {"label", "predicted: label", "target: label", "permutation: entry"};

static std::string label_text(const Tensor& labels, int64_t offset) {
  return with_number_type(labels.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using Wide = std::conditional_t<std::is_same_v<T, uint64_t>, uint64_t, int64_t>;
    return std::to_string(static_cast<Wide>(static_cast<const T*>(labels.const_data_ptr())[offset]));
  });
}

void throw_bad_label(const Tensor& labels, const LabelTask& task, LabelArgument argument) {
  if (task.bad == kNoBadLabel) return;
  int64_t position = task.bad;
  const int64_t dims = labels.dim();
  int64_t offset = 0;
  std::string where;
  for (int64_t d = dims - 1; d >= 0; --d) {
    const int64_t index = position % labels.size(d);
    position /= labels.size(d);
    offset += index * labels.stride(d);
    where = std::to_string(index) + (d == dims - 1 ? "" : ", ") + where;
  }
  if (dims == 1) where += ",";
  throw std::out_of_range(std::string(kNames[argument]) + " " + label_text(labels, offset) + " at position (" + where +
                          ") is outside [0, " + std::to_string(task.classes) + ")");
}

}  // namespace torchext
