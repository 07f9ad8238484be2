#include "common/check.h"
#include "common/parallel.h"
#include "windows/best_channels/task.h"
#include "windows/sizes.h"

#define TORCHEXT_LOOPS "windows/best_channels/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto best_channels_loop = TORCHEXT_BEST(best_channels);

static Tensor best_channels_cpu(const Tensor& scores) {
  const Argument argument{"best_channels", "scores"};
  check_dims(argument, scores, 2, 1 + kSpatial);
  check_dtype(argument, scores, dtypes({ScalarType::Float, ScalarType::Double}));
  check_within({argument.operation, "the number of channels"}, scores.size(0), 1, INT32_MAX);
  const int64_t rank = scores.dim() - 1;
  if (scores.size(rank) > 1 && scores.stride(rank) != 1) [[unlikely]]
    refuse(argument, "contiguous rows", "strides " + text_of(scores.strides()));
  BestTask task{.scores = scores.const_data_ptr(),
                .channels = scores.size(0),
                .channel_stride = scores.stride(0),
                .image = {1, 1, 1},
                .strides = {},
                .out = nullptr,
                .dtype = scores.scalar_type()};
  Sizes sizes;
  for (int64_t d = 0; d < rank; ++d) {
    const int64_t axis = kSpatial - rank + d;
    sizes.push_back(task.image[axis] = scores.size(1 + d));
    task.strides[axis] = scores.stride(1 + d);
  }
  const Tensor out = empty(scores, sizes, ScalarType::Long);
  task.out = static_cast<int64_t*>(out.mutable_data_ptr());
  if (out.numel() == 0) return out;
  const int64_t bytes = task.image[2] * (task.channels * static_cast<int64_t>(scores.element_size()) + 8);
  parallel(task.image[0] * task.image[1], bytes,
           [&](int64_t begin, int64_t end) { best_channels_loop(task, begin, end); });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("best_channels", TORCH_BOX(&torchext::best_channels_cpu));
}
