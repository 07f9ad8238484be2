#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "onehot/labels/bad_label.h"
#include "onehot/class_sums/describe.h"

#define TORCHEXT_LOOPS "onehot/class_sums/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto count_loop = TORCHEXT_BEST(count);
static const auto sum_blocks_loop = TORCHEXT_BEST(sum_blocks);
static const auto add_tables_loop = TORCHEXT_BEST(add_tables);
static const auto count_parts_loop = TORCHEXT_BEST(count_parts);
static const auto order_parts_loop = TORCHEXT_BEST(order_parts);
static const auto sum_pieces_loop = TORCHEXT_BEST(sum_pieces);
static const auto add_pieces_loop = TORCHEXT_BEST(add_pieces);
static const auto class_rows_loop = TORCHEXT_BEST(class_rows);

// Reading a label takes about as long as other work on this many bytes.
constexpr int64_t kBytesALabel = 8;

static void run(CountsTask& task, const Tensor& out) {
  task.counts = static_cast<int64_t*>(out.mutable_data_ptr());
  std::memset(task.counts, 0, static_cast<size_t>(task.outer * task.bins) * sizeof(int64_t));
  const auto body = count_loop;
  parallel(task.outer * task.inner, kBytesALabel, [&](int64_t begin, int64_t end) { body(task, begin, end); });
}

static Tensor class_counts_cpu(const Tensor& labels, int64_t num_classes, int64_t samples,
                               std::optional<int64_t> ignore_index, bool raise) {
  CountsTask task;
  describe(task, {"class_counts", "labels"}, labels, num_classes, samples, ignore_index);
  task.bins = num_classes;
  Tensor out = empty(labels, class_sizes(labels, samples, num_classes), ScalarType::Long);
  run(task, out);
  if (raise) throw_bad_label(labels, task);
  return out;
}

static Tensor confusion_counts_cpu(const Tensor& predicted, const Tensor& target, int64_t num_classes, int64_t samples,
                                   std::optional<int64_t> ignore_index, bool raise) {
  CountsTask task;
  LabelTask predicted_task;
  const auto sizes = describe_pairs(task, predicted_task, predicted, target, num_classes, samples, ignore_index);
  Tensor out = empty(target, sizes, ScalarType::Long);
  run(task, out);
  // The error names the bad label at the lower position, as on a GPU.
  if (raise && predicted_task.bad <= task.bad) throw_bad_label(predicted, predicted_task, kPredicted);
  if (raise) throw_bad_label(target, task, kTarget);
  return out;
}

// Sums are added up in a table for each block if the table stays in the second-level cache, otherwise in the order of
// the labels' classes.
constexpr int64_t kTableBytes = 512 * 1024;
constexpr int64_t kColumnBytes = 128 * 1024;
constexpr int64_t kAllTableBytes = 8 << 20;
constexpr int64_t kMostBlocks = 256;
constexpr int64_t kFewestBlockBytes = 64 * 1024;  // of values
constexpr int64_t kRowsAClass = 32;  // in a block: with fewer, reading and writing its table would take too long
constexpr int64_t kLine = 64;

// Whether tables are filled column by column. This includes any number of classes beyond INT32_MAX, because an order of
// their labels would take several times the memory of the sums.
static bool sums_columns(const SumsTask& task) {
  return !task.feature_axes.is_one_run() || task.features == 1 || task.classes > INT32_MAX;
}

static bool uses_tables(const SumsTask& task) {
  return sums_columns(task) || task.classes * task.features * task.sum_size <= kTableBytes;
}

// Sums are computed over blocks of labels, which depend on the shape alone and are added up in order. So the result has
// the same bits for any number of threads. The division into groups of columns does not change a sum.
static void choose_blocks(SumsTask& task) {
  const int64_t size = task.sum_size;
  const int64_t table = task.classes * task.features * size;
  const int64_t fewest = std::max(kRowsAClass * task.classes, kFewestBlockBytes / (task.features * task.value_size));
  const int64_t most = std::max<int64_t>(1, std::min(kAllTableBytes / (table * task.outer), kMostBlocks / task.outer));
  const int64_t blocks = std::clamp<int64_t>(task.inner / std::max<int64_t>(1, fewest), 1, most);
  task.block = (task.inner + blocks - 1) / blocks;
  task.columns = task.features;
  if (sums_columns(task)) {
    task.columns = std::clamp<int64_t>(kColumnBytes / (4 * (task.classes + 1) * size), 1, task.features);
  } else {
    const int64_t groups = torch::stable::get_num_threads() / (task.outer * blocks);
    const int64_t step = kLine / task.value_size;
    if (groups > 1) task.columns = ((task.features - 1) / groups / step + 1) * step;
  }
}

static void sum_by_tables(SumsTask& task) {
  choose_blocks(task);
  const int64_t entries = task.outer * task.classes * task.features, blocks = blocks_of(task);
  const bool in_place = blocks == 1 && !is_half(task.out_type);
  std::unique_ptr<char[]> tables;
  if (!in_place) tables = scratch<char>("class_sums", entries * blocks * task.sum_size);
  task.tables = in_place ? task.sums : tables.get();
  const auto sum = sum_blocks_loop, add = add_tables_loop;
  const int64_t bytes = std::min(task.block, task.inner) * (task.columns * task.sum_size + kBytesALabel);
  parallel(task.outer * blocks * column_groups_of(task), bytes,
           [&](int64_t begin, int64_t end) { sum(task, begin, end); });
  if (in_place) return;
  parallel(entries, blocks * task.sum_size, [&](int64_t begin, int64_t end) { add(task, begin, end); });
}

// The order of one sample's labels, and its classes with more than one piece.
template <class Position>
class Order {
 public:
  explicit Order(SumsTask& task) : task_(task) {
    const int64_t fewest = std::max<int64_t>(task.classes, 16384);
    task.parts = std::clamp<int64_t>(task.inner / fewest, 1, torch::stable::get_num_threads());
    order_.reset(static_cast<Position*>(std::calloc(static_cast<size_t>(task.inner), sizeof(Position))));
    if (order_ == nullptr) throw_no_scratch("class_sums", task.inner, sizeof(Position));
    cursors_ = scratch<Position>("class_sums", task.parts * task.classes);
    starts_ = scratch<Position>("class_sums", task.classes + 1);
    task.order = order_.get();
    task.cursors = cursors_.get();
    task.starts = starts_.get();
  }

  void run() {
    run_parts(count_parts_loop);
    add_up();
    run_parts(order_parts_loop);
  }

  int64_t labels() const { return starts_[task_.classes]; }
  int64_t pieces() const { return long_pieces_.back(); }

 private:
  template <class Body>
  void run_parts(const Body& body) {
    parallel(task_.parts, task_.inner / task_.parts * kBytesALabel,
             [&](int64_t begin, int64_t end) { body(task_, begin, end); });
  }

  void add_up() {
    long_classes_.clear();
    long_pieces_.assign(1, 0);
    Position next = 0;
    for (int64_t c = 0; c < task_.classes; ++c) {
      starts_[c] = next;
      for (int64_t part = 0; part < task_.parts; ++part)
        next += std::exchange(cursors_[part * task_.classes + c], next);
      const int64_t count = next - starts_[c];
      if (count <= kPieceRows) continue;
      long_classes_.push_back(c);
      long_pieces_.push_back(long_pieces_.back() + (count + kPieceRows - 1) / kPieceRows);
    }
    starts_[task_.classes] = next;
    task_.long_classes = long_classes_.data();
    task_.long_pieces = long_pieces_.data();
    task_.long_count = static_cast<int64_t>(long_classes_.size());
  }

  SumsTask& task_;
  struct Free {
    void operator()(Position* memory) const { std::free(memory); }
  };

  // Initially zeros, which are valid positions: if labels change while they are read, entries that were never written
  // are read.
  std::unique_ptr<Position[], Free> order_;
  std::unique_ptr<Position[]> cursors_, starts_;
  std::vector<int64_t> long_classes_, long_pieces_;
};

template <class Position>
static void sum_by_order(SumsTask& task) {
  constexpr int64_t kStretches = 64, kFewestColumns = 1024;
  Order<Position> order(task);
  const auto sum = sum_pieces_loop, add = add_pieces_loop;
  for (task.sample = 0; task.sample < task.outer; ++task.sample) {
    order.run();
    const int64_t stretches = stretches_of(order.labels());
    // Columns are divided into groups if there are too few labels for all threads.
    task.columns = std::max(kFewestColumns, task.features * stretches / kStretches);
    const auto pieces = scratch<char>("class_sums", order.pieces() * task.features * task.sum_size);
    task.pieces = pieces.get();
    const int64_t row_bytes = std::min(task.columns, task.features) * task.sum_size;
    parallel(stretches * column_groups_of(task), kPieceRows * row_bytes,
             [&](int64_t begin, int64_t end) { sum(task, begin, end); });
    parallel(task.long_count, task.features * task.sum_size,
             [&](int64_t begin, int64_t end) { add(task, begin, end); });
  }
}

static Tensor class_sums_cpu(const Tensor& values, const Tensor& labels, int64_t num_classes, int64_t samples,
                             std::optional<ScalarType> dtype, std::optional<int64_t> ignore_index, bool raise) {
  SumsTask task;
  describe(task, values, labels, num_classes, samples, dtype, ignore_index);
  Tensor out = empty(values, class_sizes(labels, samples, num_classes, values), sums_type(values, dtype));
  task.sums = out.mutable_data_ptr();
  if (out.numel() == 0)
    class_counts_cpu(labels, num_classes, samples, ignore_index, raise);  // reports bad labels
  else if (task.inner == 0)
    std::memset(task.sums, 0, static_cast<size_t>(out.numel()) * out.element_size());
  else if (uses_tables(task))
    sum_by_tables(task);
  else if (task.inner <= INT32_MAX)
    sum_by_order<int32_t>(task);
  else
    sum_by_order<int64_t>(task);
  if (raise) throw_bad_label(labels, task);
  return out;
}

static Tensor class_rows_cpu(const Tensor& sums, const Tensor& labels, int64_t samples,
                             std::optional<int64_t> ignore_index) {
  check_rows(sums, labels, samples);
  const Tensor rows = torch::stable::contiguous(sums);
  RowsTask task;
  describe(task, {"class_rows", "labels"}, labels, sums.size(samples), samples, ignore_index);
  Tensor out = empty(sums, rows_sizes(sums, labels, samples), sums.scalar_type());
  describe_rows(task, rows, out, labels.dim());
  const auto body = class_rows_loop;
  parallel(task.outer * task.inner, task.row_bytes + kBytesALabel,
           [&](int64_t begin, int64_t end) { body(task, begin, end); });
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("class_counts", TORCH_BOX(&torchext::class_counts_cpu));
  library.impl("confusion_counts", TORCH_BOX(&torchext::confusion_counts_cpu));
  library.impl("class_sums", TORCH_BOX(&torchext::class_sums_cpu));
  library.impl("class_rows", TORCH_BOX(&torchext::class_rows_cpu));
}
