#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <tuple>
#include <vector>

#include "cam/pool/describe.h"
#include "common/parallel.h"
#include "common/scratch.h"

#define TORCHEXT_LOOPS "cam/pool/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto cam_sum_loop = TORCHEXT_BEST(cam_sum);
static const auto cam_weights_loop = TORCHEXT_BEST(cam_weights);
static const auto cam_channels_loop = TORCHEXT_BEST(cam_channels);
static const auto cam_maps_loop = TORCHEXT_BEST(cam_maps);
static const auto cam_resize_loop = TORCHEXT_BEST(cam_resize);

// Sums are computed over blocks of about this many entries. There are then enough blocks to distribute the work, and so
// few that adding up their sums takes little time.
constexpr int64_t kBlock = 16384;
constexpr int64_t kLongestRow = 4096;  // its sums stay in the first-level cache
constexpr int64_t kFewestRows = 64;
constexpr int64_t kMostRows = 512;  // longer runs of additions lose precision

// Processing whole channels reads the inputs once, for every method and number of targets, but the threads can only
// share samples and channels.
constexpr int64_t kMostPositions = 16384;  // the sums of the map stay in the second-level cache
constexpr int64_t kFewestChannels = 32;
constexpr int64_t kEnoughBlocks = 8;

namespace {

struct Scratch {
  explicit Scratch(int64_t bytes) : data(operator new(static_cast<size_t>(bytes), kAlignment, std::nothrow)) {
    if (data == nullptr) throw_no_scratch("cam_pool", bytes, 1);
  }
  ~Scratch() { operator delete(data, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  static constexpr std::align_val_t kAlignment{64};
  void* data;
};

// ([T,] B, C, *S) as matrices whose rows are either the channels or the positions.
struct View {
  Tensor tensor;  // keeps a copy alive
  int64_t positions, channel_stride, position_stride;
  bool rows_are_channels, has_targets;

  CamMatrices matrices() const {
    return {tensor.const_data_ptr(), has_targets ? tensor.stride(0) : 0, tensor.stride(has_targets),
            rows_are_channels ? channel_stride : position_stride};
  }
};

}  // namespace

// `is_summed`: only the sum over the positions is needed.
static View view_of(const Tensor& tensor, bool has_targets, bool is_summed) {
  Axes axes;
  const int channel = 1 + has_targets;
  append_axes(tensor, channel + 1, tensor.dim(), axes);
  const int64_t channel_stride = tensor.size(channel) == 1 ? 1 : tensor.stride(channel);
  View view{tensor, 1, channel_stride, 1, channel_stride != 1, has_targets};
  // The mean over an expanded axis is the value that is expanded.
  if (axes.count == 0 || (axes.count == 1 && axes[0].stride == 0 && is_summed)) return view;
  if (axes.count > 1 || (axes[0].stride != 1 && channel_stride != 1))
    return view_of(torch::stable::contiguous(tensor), has_targets, is_summed);
  view.positions = axes[0].size;
  view.position_stride = axes[0].stride;
  view.rows_are_channels = axes[0].stride == 1;
  return view;
}

static int64_t blocks(int64_t count, int64_t in_one) {
  return std::max<int64_t>(1, count / in_one);
}

static CamSum sum_of(const CamCall& call, const View& view, bool over_positions) {
  CamSum sum{};
  sum.type = view.tensor.scalar_type();
  sum.entry = CamEntry::kPlain;
  sum.matrices = sum.others = view.matrices();
  sum.targets = view.has_targets ? call.targets : 1;
  sum.batch = call.batch;
  sum.rows = view.rows_are_channels ? call.channels : view.positions;
  sum.columns = view.rows_are_channels ? view.positions : call.channels;
  sum.along_rows = view.rows_are_channels == over_positions;
  sum.column_blocks = blocks(sum.columns, kLongestRow);
  sum.row_blocks = blocks(sum.rows, std::clamp(kBlock / sum.columns, kFewestRows, kMostRows));
  return sum;
}

static CamBlocks blocks_of(const CamSum& sum) {
  const int64_t blocks = sum.along_rows ? sum.column_blocks : sum.row_blocks;
  return {sum.type, sum.out, sum.targets, sum.batch, blocks, sum.along_rows ? sum.rows : sum.columns};
}

static int64_t bytes_of(const CamBlocks& blocks) {
  return blocks.blocks * blocks.count * compute_size(blocks.type);
}

static int64_t matrices_of(const CamBlocks& blocks) {
  return blocks.targets * blocks.batch;
}

// Sums over positions or channels, one after another. What a step writes for a sample, the next step reads for the same
// sample only.
struct Steps {
  bool sums_activations, computes_weights;
  CamSum activation_sum;
  CamWeightSums activation_sums;
  CamSum weight_sum;
  CamWeightSums weights;
  CamSum map_sum;
  CamMap maps;
};

static int64_t items_a_sample(const CamSum& sum) {
  return sum.row_blocks * sum.column_blocks;
}

// Calls sum(task) and finish(task, loop) for all steps, in order.
template <class Sum, class Finish>
static void each_step(const Steps& steps, const Sum& sum, const Finish& finish) {
  if (steps.sums_activations) {
    sum(steps.activation_sum);
    finish(steps.activation_sums, cam_weights_loop);
  }
  if (steps.computes_weights) {
    sum(steps.weight_sum);
    finish(steps.weights, cam_weights_loop);
  }
  sum(steps.map_sum);
  finish(steps.maps, cam_maps_loop);
}

static void run_samples(const Steps& steps, int64_t begin, int64_t end) {
  for (int64_t sample = begin; sample < end; ++sample) {
    const auto sum = [&](const CamSum& task) {
      cam_sum_loop(task, sample * items_a_sample(task), (sample + 1) * items_a_sample(task));
    };
    const auto finish = [&](const auto& task, auto loop) {
      for (int64_t target = 0; target < task.blocks.targets; ++target) {
        const int64_t matrix = target * task.blocks.batch + sample;
        loop(task, matrix, matrix + 1);
      }
    };
    each_step(steps, sum, finish);
  }
}

static int64_t bytes_a_sample(const CamSum& sum) {
  const int64_t element_size = is_half(sum.type) ? 2 : compute_size(sum.type);
  return sum.targets * sum.rows * sum.columns * element_size;
}

static void run_steps(const Steps& steps) {
  const auto sum = [](const CamSum& task) {
    parallel(task.batch * items_a_sample(task), bytes_a_sample(task) / items_a_sample(task),
             [&](int64_t begin, int64_t end) { cam_sum_loop(task, begin, end); });
  };
  const auto finish = [](const auto& task, auto loop) {
    parallel(matrices_of(task.blocks), bytes_of(task.blocks),
             [&](int64_t begin, int64_t end) { loop(task, begin, end); });
  };
  each_step(steps, sum, finish);
}

// If each thread processes whole samples, the threads need not wait for each other between steps. This is done if there
// are enough samples to keep them about equally busy.
static void run(const Steps& steps) {
  const int64_t batch = steps.map_sum.batch;
  const int64_t bytes = bytes_a_sample(steps.map_sum) + (steps.computes_weights ? bytes_a_sample(steps.weight_sum) : 0);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t busiest = (batch + threads - 1) / threads;
  if (batch * bytes <= kBytesPerThread || busiest * threads * 8 <= batch * 9)
    parallel(batch, bytes, [&](int64_t begin, int64_t end) { run_samples(steps, begin, end); });
  else
    run_steps(steps);
}

static void resize(const CamCall& call, const CamBlocks& maps, const Tensor& activations, const Tensor& out) {
  CamResize task{maps.type, maps.sums, maps.blocks * maps.count, {1, 1, 1}, {1, 1, 1}, out.mutable_data_ptr()};
  const size_t rank = call.size.size();
  for (size_t d = 0; d < rank; ++d) {
    task.from[3 - rank + d] = activations.size(static_cast<int64_t>(d) + 2);
    task.to[3 - rank + d] = call.size[d];
  }
  const int64_t width = task.to[2];
  parallel(matrices_of(maps) * task.to[0] * task.to[1], width * static_cast<int64_t>(out.element_size()),
           [&](int64_t begin, int64_t end) {
             Scratch scratch(cam_resize_scratch(task.from[2], width, compute_size(task.type)));
             cam_resize_loop(task, begin, end, scratch.data);
           });
}

namespace {

// One call: its inputs as matrices, and where its results are written.
struct Pool {
  CamCall call;
  View activations, gradients;  // gradients are not used if weights are given
  const void* given;            // (targets, batch, channels) in the compute type
  CamMap finish;                // without the blocks, which are added later
  Tensor weights;

  bool is_given() const { return call.method == CamMethod::kWeightsGiven; }
};

}  // namespace

// The number of blocks for processing whole channels, or 0 if that is not suitable.
static int64_t channel_blocks(const Pool& pool) {
  const CamCall& call = pool.call;
  if (!pool.activations.rows_are_channels || call.positions > kMostPositions) return 0;
  if (!pool.is_given() && (!pool.gradients.rows_are_channels || pool.gradients.positions != call.positions)) return 0;
  const int64_t in_block = std::clamp(kBlock / call.positions, kFewestChannels, kMostRows);
  const int64_t count = blocks(call.channels, in_block);
  const int64_t bytes = call.batch * call.channels * call.positions * (call.targets + 1) * 4;
  return call.batch * count >= kEnoughBlocks || bytes <= 2 * kBytesPerThread ? count : 0;
}

static CamBlocks pool_by_channels(const Pool& pool, int64_t blocks, Scratch& scratch) {
  const CamCall& call = pool.call;
  CamChannels task{};
  task.type = pool.activations.tensor.scalar_type();
  task.method = call.method;
  task.activations = pool.activations.matrices();
  if (!pool.is_given()) task.gradients = pool.gradients.matrices();
  task.targets = call.targets;
  task.batch = call.batch;
  task.channels = call.channels;
  task.positions = call.positions;
  task.blocks = blocks;
  task.chunk = std::clamp<int64_t>(kBlock / call.positions / 8 * 8, 8, kCamMostChunk);
  task.weights = pool.is_given() ? const_cast<void*>(pool.given) : pool.weights.mutable_data_ptr();
  task.out = scratch.data;
  const int64_t element_size = static_cast<int64_t>(pool.activations.tensor.element_size());
  const int64_t bytes = call.channels * call.positions / blocks * (call.targets + !pool.is_given()) * element_size;
  parallel(call.batch * blocks, bytes, [&](int64_t begin, int64_t end) { cam_channels_loop(task, begin, end); });
  CamMap finish = pool.finish;
  finish.blocks = {task.type, scratch.data, call.targets, call.batch, blocks, call.positions};
  parallel(matrices_of(finish.blocks), bytes_of(finish.blocks),
           [&](int64_t begin, int64_t end) { cam_maps_loop(finish, begin, end); });
  return finish.blocks;
}

// Computes each sum separately, for positions as rows and for inputs with different layouts.
static Steps steps_of(const Pool& pool) {
  const CamCall& call = pool.call;
  Steps steps{};
  steps.sums_activations = needs_activation_sums(call.method);
  steps.computes_weights = !multiplies(call.method) && !pool.is_given();
  if (steps.sums_activations) steps.activation_sum = sum_of(call, pool.activations, true);
  if (steps.computes_weights) {
    steps.weight_sum = sum_of(call, pool.gradients, true);
    if (call.method == CamMethod::kXGradCam) {
      steps.weight_sum.entry = CamEntry::kProduct;
      steps.weight_sum.others = pool.activations.matrices();
    }
    if (call.method == CamMethod::kPlusPlus) steps.weight_sum.entry = CamEntry::kPlusPlus;
  }
  if (multiplies(call.method)) {
    steps.map_sum = sum_of(call, pool.gradients, false);
    steps.map_sum.entry = CamEntry::kProduct;
    steps.map_sum.others = pool.activations.matrices();
    steps.map_sum.rectify_data = call.method == CamMethod::kLayerCam;
    steps.map_sum.rectify_product = call.method == CamMethod::kElementwise;
  } else {
    steps.map_sum = sum_of(call, pool.activations, false);
    steps.map_sum.entry = CamEntry::kWeighted;
    steps.map_sum.targets = call.targets;
    steps.map_sum.factors = pool.is_given() ? pool.given : pool.weights.const_data_ptr();
    steps.map_sum.factor_batch_stride = call.channels;
    steps.map_sum.factor_target_stride = call.batch * call.channels;
  }
  return steps;
}

static int64_t scratch_bytes(const CamSum& sum) {
  const CamBlocks blocks = blocks_of(sum);
  return (matrices_of(blocks) * bytes_of(blocks) + 63) / 64 * 64;
}

static CamBlocks pool_by_steps(const Pool& pool, Steps& steps, Scratch& scratch) {
  const CamCall& call = pool.call;
  char* next = static_cast<char*>(scratch.data);
  const auto allocate = [&](CamSum& sum) {
    sum.out = next;
    next += scratch_bytes(sum);
  };
  allocate(steps.map_sum);
  if (steps.sums_activations) {
    allocate(steps.activation_sum);
    const CamBlocks blocks = blocks_of(steps.activation_sum);
    steps.activation_sums = {blocks, CamMethod::kPlusPlus, call.positions, nullptr, next};
    next += blocks.batch * blocks.count * compute_size(blocks.type);
  }
  if (steps.computes_weights) {
    allocate(steps.weight_sum);
    steps.weights = {blocks_of(steps.weight_sum), call.method, pool.gradients.positions, steps.activation_sums.out,
                     pool.weights.mutable_data_ptr()};
    if (call.method == CamMethod::kPlusPlus) {
      steps.weight_sum.factors = steps.activation_sums.out;
      steps.weight_sum.factor_batch_stride = call.channels;
    }
  }
  steps.maps = pool.finish;
  steps.maps.blocks = blocks_of(steps.map_sum);
  run(steps);
  return steps.maps.blocks;
}

static int64_t scratch_bytes(const Steps& steps) {
  int64_t bytes = scratch_bytes(steps.map_sum);
  if (steps.sums_activations) bytes += 2 * scratch_bytes(steps.activation_sum);
  if (steps.computes_weights) bytes += scratch_bytes(steps.weight_sum);
  return bytes;
}

// Views gradients and activations as matrices. If the method combines their elements, both get the same layout.
static void view_inputs(Pool& pool, const Tensor& activations, const Tensor& gradients) {
  const bool has_targets = pool.call.leading.size() > 1;
  pool.activations = view_of(activations, false, false);
  if (pool.is_given()) return;
  const bool independent = pool.call.method == CamMethod::kGradCam;
  pool.gradients = view_of(gradients, has_targets, independent);
  if (independent || pool.gradients.rows_are_channels == pool.activations.rows_are_channels) return;
  pool.activations = view_of(torch::stable::contiguous(activations), false, false);
  pool.gradients = view_of(torch::stable::contiguous(gradients), has_targets, false);
}

static std::tuple<Tensor, Tensor, Tensor> cam_pool_cpu(const Tensor& activations, const Tensor& gradients,
                                                       int64_t method, bool relu, int64_t normalize,
                                                       std::optional<std::vector<int64_t>> size) {
  const CamCall call = describe_call(activations, gradients, method, normalize, size);
  const ScalarType compute = compute_type(activations.scalar_type());
  Tensor out = empty(activations, with_sizes(call.leading, call.size), activations.scalar_type());
  Tensor maps = empty(activations, with_sizes(call.leading, {call.positions}), compute);
  Tensor weights = empty(activations, weights_shape(call), compute);
  if (activations.numel() == 0 || call.targets == 0) {
    for (const Tensor* result : {&out, &maps, &weights})
      std::memset(result->mutable_data_ptr(), 0, static_cast<size_t>(result->numel()) * result->element_size());
    return {out, maps, weights};
  }
  Pool pool{call, {activations, 1, 1, 1, true, false}, {activations, 1, 1, 1, true, false}, nullptr, CamMap{}, weights};
  view_inputs(pool, activations, gradients);
  const Tensor given = pool.is_given() ? torch::stable::contiguous(gradients) : weights;
  pool.given = given.const_data_ptr();
  pool.finish = {
      {}, relu, static_cast<CamNormalize>(normalize), maps.mutable_data_ptr(), size ? nullptr : out.mutable_data_ptr()};
  const int64_t blocks = channel_blocks(pool);
  Steps steps = blocks ? Steps{} : steps_of(pool);
  Scratch scratch(blocks ? call.targets * call.batch * blocks * call.positions * compute_size(compute)
                         : scratch_bytes(steps));
  const CamBlocks finished = blocks ? pool_by_channels(pool, blocks, scratch) : pool_by_steps(pool, steps, scratch);
  if (size && out.numel()) resize(call, finished, activations, out);
  return {out, maps, weights};
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("cam_pool", TORCH_BOX(&torchext::cam_pool_cpu));
}
