#include <vector>

#include "common/dtypes.h"
#include "common/isa.h"
#include "windows/elements.h"
#include "windows/blend/task.h"

namespace torchext::TORCHEXT_ISA {

// Adds windows to rows of the sums and totals.
template <class Type>
class Blender {
 public:
  using Element = typename Type::Element;
  using Sum = typename Type::Sum;
  using Weight = typename Type::Weight;

  explicit Blender(const BlendTask& task)
      : task_(task),
        axes_(task.tiles.axes),
        weight_(static_cast<const Weight*>(task.weight)),
        line_(task.tap_strides[2] == 1 ? 0 : static_cast<size_t>(axes_[2].size)),
        ones_(task.weight != nullptr || task.totals == nullptr ? 0 : static_cast<size_t>(axes_[2].size), Weight{1}) {}

  void run(int64_t begin, int64_t end) {
    const int64_t rows = task_.end[1] - task_.begin[1], depth = task_.end[0] - task_.begin[0];
    while (begin < end) {
      int64_t rest = begin / rows;
      const int64_t row = begin % rows, count = std::min(rows - row, end - begin);
      column_ = task_.begin[2] + rest % task_.column_blocks * task_.columns;
      column_end_ = std::min(column_ + task_.columns, task_.end[2]);
      rest /= task_.column_blocks;
      depth_ = task_.begin[0] + rest % depth;
      const int64_t plane = rest / depth;
      row_ = task_.begin[1] + row;
      row_end_ = row_ + count;
      if (plane < task_.channels)
        add_windows(plane);
      else
        add_weights();
      begin += count;
    }
  }

 private:
  // Calls body(window, sample, first taps, rows, count) for each window that reaches the rows, in order.
  template <class Body>
  void each_window(const Body& body) const {
    for (int64_t window = 0; window < task_.tiles.windows; ++window) {
      const TilePosition& position = task_.positions[window];
      const int64_t tap = depth_ - position.start[0];
      if (position.sample < 0 || tap < 0 || tap >= axes_[0].size) continue;
      const TapRange rows = taps_within(axes_[1], position.start[1], row_, row_end_);
      const TapRange columns = taps_within(axes_[2], position.start[2], column_, column_end_);
      if (rows.first < rows.end && columns.first < columns.end) body(window, position, tap, rows, columns);
    }
  }

  const Weight* weights_at(int64_t depth, int64_t row, int64_t column) const {
    return weight_ + (depth * axes_[1].size + row) * axes_[2].size + column;
  }

  static int64_t offset(const int64_t (&strides)[kSpatial], int64_t depth, int64_t row, int64_t column) {
    return depth * strides[0] + row * strides[1] + column * strides[2];
  }

  void add_windows(int64_t channel) {
    const int64_t step = task_.tap_strides[2];
    each_window([&](int64_t window, const TilePosition& at, int64_t depth, TapRange rows, TapRange columns) {
      const int64_t count = columns.end - columns.first;
      const Element* from = static_cast<const Element*>(task_.windows) + window * task_.window_stride +
                            channel * task_.channel_stride +
                            offset(task_.tap_strides, depth, rows.first, columns.first);
      Sum* sums = static_cast<Sum*>(task_.sums) + at.sample * task_.sample_stride + channel * task_.plane_stride +
                  depth_ * task_.strides[0] + (at.start[1] + rows.first) * task_.strides[1] + at.start[2] +
                  columns.first;
      const Weight* weights = weight_ == nullptr ? nullptr : weights_at(depth, rows.first, columns.first);
      for (int64_t row = rows.first; row < rows.end; ++row) {
        const Element* line = from;
        if (step != 1) {
          for (int64_t i = 0; i < count; ++i) line_[static_cast<size_t>(i)] = from[i * step];
          line = line_.data();
        }
        if (weights == nullptr) {
          Type::add(line, count, sums);
        } else {
          Type::template add_weighted<true>(line, weights, count, sums);
          weights += axes_[2].size;
        }
        from += task_.tap_strides[1];
        sums += task_.strides[1];
      }
    });
  }

  void add_weights() {
    each_window([&](int64_t, const TilePosition& at, int64_t depth, TapRange rows, TapRange columns) {
      Weight* totals = static_cast<Weight*>(task_.totals) + at.sample * task_.total_sample_stride +
                       depth_ * task_.total_strides[0] + (at.start[1] + rows.first) * task_.total_strides[1] +
                       at.start[2] + columns.first;
      const Weight* weights = weight_ == nullptr ? ones_.data() : weights_at(depth, rows.first, columns.first);
      for (int64_t row = rows.first; row < rows.end; ++row) {
        FloatElements<Weight>::add(weights, columns.end - columns.first, totals);
        totals += task_.total_strides[1];
        if (weight_ != nullptr) weights += axes_[2].size;
      }
    });
  }

  const BlendTask& task_;
  const TileAxis<int64_t>* axes_;
  const Weight* weight_;
  std::vector<Element> line_;
  std::vector<Weight> ones_;
  int64_t depth_ = 0, row_ = 0, row_end_ = 0, column_ = 0, column_end_ = 0;  // the rows of the image to add to
};

// Adds items [begin, end).
static void blend(const BlendTask& task, int64_t begin, int64_t end) {
  const auto blend_as = [&](auto type) { Blender<decltype(type)>(task).run(begin, end); };
  if (task.dtype == ScalarType::ComplexFloat) return blend_as(ComplexElements<float>{});
  if (task.dtype == ScalarType::ComplexDouble) return blend_as(ComplexElements<double>{});
  with_float_type(task.dtype, [&](auto number) { blend_as(FloatElements<decltype(number)>{}); });
}

}  // namespace torchext::TORCHEXT_ISA
