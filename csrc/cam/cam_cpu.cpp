#include "cam/ops.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "cam/task.h"
#include "common/loops.h"
#include "common/parallel.h"

namespace torchext {

// Sums are taken over blocks of about this many entries: enough to spread the work, few enough that adding
// the blocks' sums up costs little.
constexpr int64_t kBlock = 16384;
constexpr int64_t kLongestRow = 4096;  // its sums stay in the first-level cache
constexpr int64_t kFewestRows = 64;
constexpr int64_t kMostRows = 512;  // longer runs of additions lose digits

namespace {

struct Scratch {
  explicit Scratch(int64_t bytes) : data(operator new(static_cast<size_t>(bytes), kAlignment)) {}
  ~Scratch() { operator delete(data, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  static constexpr std::align_val_t kAlignment{64};
  void* data;
};

// (B, C, *S) as B matrices, of which either the channels or the positions are rows.
struct View {
  Tensor tensor;  // keeps a copy alive
  int64_t channels, positions, channel_stride, position_stride;
  bool rows_are_channels;
};

}  // namespace

static View view_of(const Tensor& tensor, bool is_gradient) {
  Axis axis[kMaxDims];
  const int axes = merged_axes(tensor, 2, static_cast<int>(tensor.dim()), axis);
  const int64_t channel_stride = tensor.size(1) == 1 ? 1 : tensor.stride(1);
  View view{tensor, tensor.size(1), 1, channel_stride, 1, channel_stride != 1};
  // The mean over an expanded axis is its one value.
  if (axes == 0 || (axes == 1 && axis[0].stride == 0 && is_gradient)) return view;
  if (axes > 1 || (axis[0].stride != 1 && channel_stride != 1))
    return view_of(torch::stable::contiguous(tensor), is_gradient);
  view.positions = axis[0].size;
  view.position_stride = axis[0].stride;
  view.rows_are_channels = axis[0].stride == 1;
  return view;
}

static int64_t blocks(int64_t count, int64_t in_one) {
  return std::max<int64_t>(1, count / in_one);
}

static CamSum sum_of(const View& view, bool over_positions) {
  CamSum sum{};
  sum.type = view.tensor.scalar_type();
  sum.data = view.tensor.const_data_ptr();
  sum.batch = view.tensor.size(0);
  sum.batch_stride = view.tensor.stride(0);
  sum.rows = view.rows_are_channels ? view.channels : view.positions;
  sum.columns = view.rows_are_channels ? view.positions : view.channels;
  sum.row_stride = view.rows_are_channels ? view.channel_stride : view.position_stride;
  sum.along_rows = view.rows_are_channels == over_positions;
  sum.column_blocks = blocks(sum.columns, kLongestRow);
  sum.row_blocks = blocks(sum.rows, std::clamp(kBlock / sum.columns, kFewestRows, kMostRows));
  return sum;
}

static CamBlocks blocks_of(const CamSum& sum) {
  const int64_t blocks = sum.along_rows ? sum.column_blocks : sum.row_blocks;
  return {sum.type, sum.out, sum.batch, blocks, sum.along_rows ? sum.rows : sum.columns};
}

static int64_t compute_size(ScalarType type) {
  return type == ScalarType::Double ? 8 : 4;
}

static void run(const CamSum& sum, int64_t element_size) {
  const int64_t bytes = (sum.rows / sum.row_blocks) * (sum.columns / sum.column_blocks) * element_size;
  parallel(sum.batch * sum.row_blocks * sum.column_blocks, bytes,
           [&](int64_t begin, int64_t end) { loops().cam_sum(sum, begin, end); });
}

static void resize(const CamMap& map, const Tensor& activations, const std::vector<int64_t>& size,
                   const Tensor& out) {
  CamResize task{map.blocks.type, map.blocks.sums, map.blocks.blocks * map.blocks.count,
                 {1, 1, 1},       {1, 1, 1},       out.mutable_data_ptr()};
  const size_t rank = size.size();
  for (size_t d = 0; d < rank; ++d) {
    task.from[3 - rank + d] = activations.size(static_cast<int64_t>(d) + 2);
    task.to[3 - rank + d] = size[d];
  }
  const int64_t width = task.to[2];
  parallel(map.blocks.batch * task.to[0] * task.to[1], width * static_cast<int64_t>(out.element_size()),
           [&](int64_t begin, int64_t end) {
             Scratch scratch(cam_resize_scratch(width, compute_size(task.type)));
             loops().cam_resize(task, begin, end, scratch.data);
           });
}

Tensor cam_pool_cpu(const Tensor& activations, const Tensor& gradients, bool relu, int64_t normalize,
                    std::optional<std::vector<int64_t>> size) {
  const auto shape = activations.sizes();
  std::vector<int64_t> out_sizes(shape.begin() + 1, shape.end());
  out_sizes[0] = shape[0];
  if (size) std::copy(size->begin(), size->end(), out_sizes.begin() + 1);
  Tensor out = empty(activations, out_sizes, activations.scalar_type());
  const int64_t out_bytes = element_count(out_sizes) * static_cast<int64_t>(out.element_size());
  if (activations.numel() == 0) {
    std::memset(out.mutable_data_ptr(), 0, static_cast<size_t>(out_bytes));
    return out;
  }
  if (out_bytes == 0) return out;

  const View gradient_view = view_of(gradients, true), activation_view = view_of(activations, false);
  CamSum weight_sum = sum_of(gradient_view, true);
  CamSum map_sum = sum_of(activation_view, false);
  CamBlocks weights = blocks_of(weight_sum), maps = blocks_of(map_sum);
  const int64_t weight_bytes = weights.batch * weights.blocks * weights.count * compute_size(weights.type);
  const int64_t weight_span = (weight_bytes + 63) / 64 * 64;
  const Scratch scratch(weight_span + maps.batch * maps.blocks * maps.count * compute_size(maps.type));
  weight_sum.out = weights.sums = scratch.data;
  map_sum.out = maps.sums = static_cast<char*>(scratch.data) + weight_span;
  map_sum.factors = weights.sums;
  map_sum.factor_batch_stride = weights.blocks * weights.count;
  const int64_t element_size = static_cast<int64_t>(activations.element_size());

  run(weight_sum, element_size);
  const CamMeans means{weights, gradient_view.positions};
  parallel(weights.batch, weights.blocks * weights.count * compute_size(weights.type),
           [&](int64_t begin, int64_t end) { loops().cam_weights(means, begin, end); });
  run(map_sum, element_size);
  const CamMap map{maps, relu, static_cast<CamNormalize>(normalize), size ? nullptr : out.mutable_data_ptr()};
  parallel(maps.batch, maps.blocks * maps.count * compute_size(maps.type),
           [&](int64_t begin, int64_t end) { loops().cam_maps(map, begin, end); });
  if (size) resize(map, activations, *size, out);
  return out;
}

}  // namespace torchext
