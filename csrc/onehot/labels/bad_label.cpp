#include "onehot/labels/bad_label.h"

#include <stdexcept>
#include <string>

namespace torchext {

// The texts for LabelArgument, as in torchext/onehot/labels.py.
static constexpr const char* kNames[] = {"label", "predicted: label", "target: label", "permutation: entry"};

static std::string label_text(const Tensor& labels, int64_t offset) {
  const void* data = labels.const_data_ptr();
  switch (labels.scalar_type()) {
    case ScalarType::Bool:
      return std::to_string(static_cast<const uint8_t*>(data)[offset] != 0);
    case ScalarType::Byte:
      return std::to_string(static_cast<const uint8_t*>(data)[offset]);
    case ScalarType::Char:
      return std::to_string(static_cast<const int8_t*>(data)[offset]);
    case ScalarType::Short:
      return std::to_string(static_cast<const int16_t*>(data)[offset]);
    case ScalarType::UInt16:
      return std::to_string(static_cast<const uint16_t*>(data)[offset]);
    case ScalarType::Int:
      return std::to_string(static_cast<const int32_t*>(data)[offset]);
    case ScalarType::UInt32:
      return std::to_string(static_cast<const uint32_t*>(data)[offset]);
    case ScalarType::UInt64:
      return std::to_string(static_cast<const uint64_t*>(data)[offset]);
    default:
      return std::to_string(static_cast<const int64_t*>(data)[offset]);
  }
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
