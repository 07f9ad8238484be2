#include "cam/ops.h"

#include <algorithm>
#include <cstring>
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

// Four steps, in order; what a step writes for a sample, the next reads for that sample alone.
struct Steps {
  CamSum weight_sum;
  CamMeans weights;
  CamSum map_sum;
  CamMap maps;
};

static int64_t items_a_sample(const CamSum& sum) {
  return sum.row_blocks * sum.column_blocks;
}

static void run_samples(const Steps& steps, int64_t begin, int64_t end) {
  const int64_t weight_items = items_a_sample(steps.weight_sum), map_items = items_a_sample(steps.map_sum);
  for (int64_t sample = begin; sample < end; ++sample) {
    loops().cam_sum(steps.weight_sum, sample * weight_items, (sample + 1) * weight_items);
    loops().cam_weights(steps.weights, sample, sample + 1);
    loops().cam_sum(steps.map_sum, sample * map_items, (sample + 1) * map_items);
    loops().cam_maps(steps.maps, sample, sample + 1);
  }
}

static int64_t bytes_a_sample(const CamBlocks& blocks) {
  return blocks.blocks * blocks.count * compute_size(blocks.type);
}

static void run_steps(const Steps& steps, int64_t element_size) {
  const auto sum = [&](const CamSum& task) {
    const int64_t items = items_a_sample(task);
    parallel(task.batch * items, task.rows * task.columns * element_size / items,
             [&](int64_t begin, int64_t end) { loops().cam_sum(task, begin, end); });
  };
  const int64_t batch = steps.maps.blocks.batch;
  sum(steps.weight_sum);
  parallel(batch, bytes_a_sample(steps.weights.blocks),
           [&](int64_t begin, int64_t end) { loops().cam_weights(steps.weights, begin, end); });
  sum(steps.map_sum);
  parallel(batch, bytes_a_sample(steps.maps.blocks),
           [&](int64_t begin, int64_t end) { loops().cam_maps(steps.maps, begin, end); });
}

// Whole samples spare three meetings of the threads, where samples are enough to keep them equally busy.
static void run(const Steps& steps, int64_t element_size) {
  const CamSum &first = steps.weight_sum, &second = steps.map_sum;
  const int64_t bytes = (first.rows * first.columns + second.rows * second.columns) * element_size;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t busiest = (first.batch + threads - 1) / threads;
  if (first.batch * bytes <= kBytesPerThread || busiest * threads * 8 <= first.batch * 9)
    parallel(first.batch, bytes, [&](int64_t begin, int64_t end) { run_samples(steps, begin, end); });
  else
    run_steps(steps, element_size);
}

static void resize(const CamBlocks& maps, const Tensor& activations, const std::vector<int64_t>& size,
                   const Tensor& out) {
  CamResize task{maps.type, maps.sums, maps.blocks * maps.count, {1, 1, 1}, {1, 1, 1}, out.mutable_data_ptr()};
  const size_t rank = size.size();
  for (size_t d = 0; d < rank; ++d) {
    task.from[3 - rank + d] = activations.size(static_cast<int64_t>(d) + 2);
    task.to[3 - rank + d] = size[d];
  }
  const int64_t width = task.to[2];
  parallel(maps.batch * task.to[0] * task.to[1], width * static_cast<int64_t>(out.element_size()),
           [&](int64_t begin, int64_t end) {
             Scratch scratch(cam_resize_scratch(task.from[2], width, compute_size(task.type)));
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
  Steps steps{sum_of(gradient_view, true), {}, sum_of(activation_view, false), {}};
  CamBlocks weights = blocks_of(steps.weight_sum), maps = blocks_of(steps.map_sum);
  const int64_t weight_bytes = (weights.batch * bytes_a_sample(weights) + 63) / 64 * 64;
  const Scratch scratch(weight_bytes + maps.batch * bytes_a_sample(maps));
  steps.weight_sum.out = weights.sums = scratch.data;
  steps.map_sum.out = maps.sums = static_cast<char*>(scratch.data) + weight_bytes;
  steps.map_sum.factors = weights.sums;
  steps.map_sum.factor_batch_stride = weights.blocks * weights.count;
  steps.weights = {weights, gradient_view.positions};
  steps.maps = {maps, relu, static_cast<CamNormalize>(normalize), size ? nullptr : out.mutable_data_ptr()};
  run(steps, static_cast<int64_t>(activations.element_size()));
  if (size) resize(maps, activations, *size, out);
  return out;
}

}  // namespace torchext
