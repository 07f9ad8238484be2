#include "common/dtypes.h"
#include "common/isa.h"
#include "common/simd.h"
#include "windows/best_channels/task.h"

namespace torchext::TORCHEXT_ISA {

// Like torch.max, finds the first of several equal scores, and the first NaN if there is one.
template <class T>
void find_best(const T* scores, int64_t channels, int64_t channel_stride, int64_t count, int64_t* out) {
  using Number = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  each_vector<T>(count, [&](auto lanes, int64_t i) {
    using Numbers = Vec<Number, lanes>;
    Vec<T, lanes> best = load<lanes>(scores + i);
    Numbers number{};
    for (int64_t channel = 1; channel < channels; ++channel) {
      const Vec<T, lanes> score = load<lanes>(scores + channel * channel_stride + i);
      const auto better = (score > best) | ((score != score) & (best == best));
      best = better ? score : best;
      number = better ? Numbers{} + static_cast<Number>(channel) : number;
    }
    Number numbers[lanes];
    std::memcpy(numbers, &number, sizeof numbers);
    for (int lane = 0; lane < lanes; ++lane) out[i + lane] = numbers[lane];
  });
}

static void best_channels(const BestTask& task, int64_t begin, int64_t end) {
  with_type<float, double>(task.dtype, [&](auto number) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t depth = row / task.image[1];
      const auto* scores = static_cast<const decltype(number)*>(task.scores) + depth * task.strides[0] +
                           (row - depth * task.image[1]) * task.strides[1];
      find_best(scores, task.channels, task.channel_stride, task.image[2], task.out + row * task.image[2]);
    }
  });
}

}  // namespace torchext::TORCHEXT_ISA
