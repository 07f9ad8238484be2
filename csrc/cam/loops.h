namespace torchext::TORCHEXT_ISA {

// out[r] = Σ_j factors[j]·data[r][j] for `Rows` rows at once, which have at least `Lanes` columns.
template <class T, int Lanes, int Rows, bool Weighted>
void sum_rows(const T* data, int64_t stride, int64_t columns, const Compute<T>* factors, Compute<T>* out) {
  using C = Compute<T>;
  using V = Vec<C, Lanes>;
  const auto added = [&](V sum, int r, int64_t j) {
    const V value = load<Lanes>(data + r * stride + j);
    return Weighted ? multiply_add<C, Lanes>(load<Lanes>(factors + j), value, sum) : sum + value;
  };
  V sum[Rows];
  for (int r = 0; r < Rows; ++r) sum[r] = added(V{}, r, 0);
  int64_t j = Lanes;
  for (; j + Lanes <= columns; j += Lanes)
    for (int r = 0; r < Rows; ++r) sum[r] = added(sum[r], r, j);
  if constexpr (Lanes > 1)
    if (j < columns)  // the last vector overlaps what is already summed
      for (int r = 0; r < Rows; ++r) sum[r] += keep_last<C, Lanes>(added(V{}, r, columns - Lanes), columns - j);
  if constexpr (Rows == 4 && Lanes >= 4)
    store<4>(out, add_lanes<C, Lanes>(sum[0], sum[1], sum[2], sum[3]));
  else
    for (int r = 0; r < Rows; ++r) out[r] = add_lanes<C, Lanes>(sum[r]);
}

// out[j] += Σ_r factors[r]·data[r][j] over `Rows` rows.
template <class T, int Lanes, int Rows, bool Weighted>
void add_rows(const T* data, int64_t stride, int64_t columns, const Compute<T>* factors, Compute<T>* out) {
  using C = Compute<T>;
  using V = Vec<C, Lanes>;
  C factor[Rows];  // a copy: the factors may share memory with `out` for all the compiler knows
  for (int r = 0; r < Rows; ++r) factor[r] = Weighted ? factors[r] : 1;
  const auto added = [&](int64_t j) {
    V sum{};
    for (int r = 0; r < Rows; ++r) {
      const V value = load<Lanes>(data + r * stride + j);
      sum = Weighted ? multiply_add<C, Lanes>(factor[r] - V{}, value, sum) : sum + value;
    }
    return load<Lanes>(out + j) + sum;
  };
  // Computed before its neighbours are stored: the last vector overlaps the one before, and stores the same
  // there.
  const int64_t last = columns - Lanes;
  const V tail = added(last);
  for (int64_t j = 0; j < last; j += Lanes) store<Lanes>(out + j, added(j));
  store<Lanes>(out + last, tail);
}

template <class T, int Lanes, bool Weighted>
void sum_each_row(const CamSum& task, const T* data, int64_t rows, int64_t columns, const Compute<T>* factors,
                  Compute<T>* out) {
  constexpr int kRows = 4;
  const int64_t stride = task.row_stride;
  if (rows < kRows) {
    for (int64_t r = 0; r < rows; ++r)
      sum_rows<T, Lanes, 1, Weighted>(data + r * stride, stride, columns, factors, out + r);
    return;
  }
  for (int64_t next = 0; next < rows; next += kRows) {
    // The last group overlaps the one before: all rows are summed in one order, so that equal rows have equal sums and
    // a constant map is seen to be one.
    const int64_t r = std::min(next, rows - kRows);
    sum_rows<T, Lanes, kRows, Weighted>(data + r * stride, stride, columns, factors, out + r);
  }
}

template <class T, int Lanes, bool Weighted>
void add_all_rows(const CamSum& task, const T* data, int64_t rows, int64_t columns, const Compute<T>* factors,
                  Compute<T>* out) {
  constexpr int kRows = 8;
  const int64_t stride = task.row_stride;
  std::fill(out, out + columns, Compute<T>{});
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    add_rows<T, Lanes, kRows, Weighted>(data + r * stride, stride, columns, factors + r, out);
  for (; r < rows; ++r) add_rows<T, Lanes, 1, Weighted>(data + r * stride, stride, columns, factors + r, out);
}

template <class T, int Lanes, bool Weighted>
void sum_block(const CamSum& task, const T* data, int64_t rows, int64_t columns, const Compute<T>* factors,
               Compute<T>* out) {
  if (task.along_rows)
    sum_each_row<T, Lanes, Weighted>(task, data, rows, columns, factors, out);
  else
    add_all_rows<T, Lanes, Weighted>(task, data, rows, columns, factors, out);
}

template <class T>
void sum_items(const CamSum& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t column_block = item % task.column_blocks;
    const int64_t row_block = item / task.column_blocks % task.row_blocks;
    const int64_t sample = item / task.column_blocks / task.row_blocks;
    const int64_t row = task.rows * row_block / task.row_blocks;
    const int64_t rows = task.rows * (row_block + 1) / task.row_blocks - row;
    const int64_t column = task.columns * column_block / task.column_blocks;
    const int64_t columns = task.columns * (column_block + 1) / task.column_blocks - column;
    const T* data = static_cast<const T*>(task.data) + sample * task.batch_stride + row * task.row_stride + column;
    const C* factors = static_cast<const C*>(task.factors);
    if (factors) factors += sample * task.factor_batch_stride + (task.along_rows ? column : row);
    C* out = static_cast<C*>(task.out);
    if (task.along_rows)
      out += (sample * task.column_blocks + column_block) * task.rows + row;
    else
      out += (sample * task.row_blocks + row_block) * task.columns + column;
    with_lanes<C>(columns, [&](auto lanes) {
      if (factors)
        sum_block<T, lanes(), true>(task, data, rows, columns, factors, out);
      else
        sum_block<T, lanes(), false>(task, data, rows, columns, factors, out);
    });
  }
}

// The blocks of one sample added up, in order, each vector passed through `last` before it is stored.
template <class C, class Last>
void add_blocks(const CamBlocks& task, C* sums, const Last& last) {
  each_vector<C>(task.count, [&](auto lanes, int64_t i) {
    auto sum = load<lanes()>(sums + i);
    for (int64_t block = 1; block < task.blocks; ++block) sum += load<lanes()>(sums + block * task.count + i);
    store<lanes()>(sums + i, last(sum));
  });
}

template <class C>
struct Range {
  C low, high;
};

// Both NaN where a value is, as torch.amin and torch.amax have it.
template <class C, int Lanes>
Range<C> range_of(const C* values, int64_t count) {
  using V = Vec<C, Lanes>;
  V low = load<Lanes>(values), high = low, nan{};
  const auto include = [&](V value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
    nan = value == value ? nan : value;
  };
  for (int64_t i = 0; i + Lanes <= count; i += Lanes) include(load<Lanes>(values + i));
  include(load<Lanes>(values + count - Lanes));
  C lows[Lanes], highs[Lanes], nans[Lanes];
  store<Lanes>(lows, low);
  store<Lanes>(highs, high);
  store<Lanes>(nans, nan);
  Range<C> range{lows[0], highs[0]};
  for (int i = 0; i < Lanes; ++i) {
    if (nans[i] != nans[i]) return {nans[i], nans[i]};
    range = {std::min(range.low, lows[i]), std::max(range.high, highs[i])};
  }
  return range;
}

template <class C>
Range<C> range_of(const C* values, int64_t count) {
  Range<C> range{};
  with_lanes<C>(count, [&](auto lanes) { range = range_of<C, lanes()>(values, count); });
  return range;
}

// Sums to what the map says of them: rectified, normalised, rounded to the output's dtype.
template <class C, class Out>
void finish_map(const CamMap& task, C* map, Out* out) {
  const int64_t count = task.blocks.count;
  if (task.relu)
    add_blocks(task.blocks, map, [](auto value) { return value < 0 ? decltype(value){} : value; });  // NaN stays
  else
    add_blocks(task.blocks, map, [](auto value) { return value; });
  C offset = 0, span = 1;
  if (task.normalize != CamNormalize::kNone) {
    const Range<C> range = range_of(map, count);
    const bool stretch = task.normalize == CamNormalize::kMinMax;
    offset = stretch ? range.low : C{0};
    span = stretch ? range.high - range.low : std::max(std::fabs(range.low), std::fabs(range.high));
  }
  each_vector<C>(count, [&](auto lanes, int64_t i) {
    const Vec<C, lanes()> value = load<lanes()>(map + i);
    store<lanes()>(out + i, span == 0 ? Vec<C, lanes()>{} : (value - offset) / span);
  });
}

template <class T>
void finish_maps(const CamMap& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t count = task.blocks.count;
  for (int64_t sample = begin; sample < end; ++sample) {
    C* map = static_cast<C*>(task.blocks.sums) + sample * task.blocks.blocks * count;
    if (task.out)
      finish_map(task, map, static_cast<T*>(task.out) + sample * count);
    else
      finish_map(task, map, map);
  }
}

template <class T>
void finish_weights(const CamMeans& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const C count = static_cast<C>(task.positions);
  for (int64_t sample = begin; sample < end; ++sample) {
    C* sums = static_cast<C*>(task.blocks.sums) + sample * task.blocks.blocks * task.blocks.count;
    add_blocks(task.blocks, sums, [&](auto sum) { return sum / count; });
  }
}

template <class T, class C>
void blend_rows(const C* low, const C* high, C weight, int64_t count, T* out) {
  const C rest = 1 - weight;
  each_vector<C>(count, [=](auto lanes, int64_t x) {
    store<lanes()>(out + x, rest * load<lanes()>(low + x) + weight * load<lanes()>(high + x));
  });
}

// The two source rows last expanded to the output's width: consecutive rows of the output mostly share them.
template <class C>
struct ExpandedRows {
  int64_t width, out_width;
  int64_t keys[2] = {-1, -1};
  C *row[2], *blended, *weight;
  int64_t *low, *high;

  ExpandedRows(int64_t width, int64_t out_width, void* scratch) : width(width), out_width(out_width) {
    low = static_cast<int64_t*>(scratch);
    high = low + out_width;
    weight = reinterpret_cast<C*>(high + out_width);
    row[0] = weight + out_width;
    row[1] = row[0] + out_width;
    blended = row[1] + out_width;
    for (int64_t x = 0; x < out_width; ++x) {
      const LinearTap<C> tap = linear_tap<C>(x, width, out_width);
      low[x] = tap.low;
      high[x] = tap.high;
      weight[x] = tap.weight;
    }
  }

  // The blend of a row in two planes. Keys ascend.
  const C* get(int64_t key, const C* near, const C* far, C depth) {
    if (key == keys[0]) return row[0];
    if (key == keys[1]) return row[1];
    const int slot = keys[0] < keys[1] ? 0 : 1;  // the lower one has served
    keys[slot] = key;
    if (near != far) {
      blend_rows(near, far, depth, width, blended);
      near = blended;
    }
    C* const out = row[slot];
    for (int64_t x = 0; x < out_width; ++x) out[x] = lerp(near[low[x]], near[high[x]], weight[x]);
    return out;
  }
};

template <class T>
void resize_rows(const CamResize& task, int64_t begin, int64_t end, void* scratch) {
  using C = Compute<T>;
  const auto [depth, height, width] = task.from;
  const auto [out_depth, out_height, out_width] = task.to;
  ExpandedRows<C> rows(width, out_width, scratch);
  T* out = static_cast<T*>(task.out) + begin * out_width;
  for (int64_t item = begin; item < end;) {
    const int64_t plane = item / out_height, plane_end = std::min(end, (plane + 1) * out_height);
    const LinearTap<C> z = linear_tap<C>(plane % out_depth, depth, out_depth);
    const C* map = static_cast<const C*>(task.maps) + plane / out_depth * task.map_stride;
    const C *near = map + z.low * height * width, *far = map + z.high * height * width;
    for (; item < plane_end; ++item, out += out_width) {
      const LinearTap<C> y = linear_tap<C>(item - plane * out_height, height, out_height);
      const auto row = [&](int64_t index) {
        return rows.get(plane * height + index, near + index * width, far + index * width, z.weight);
      };
      const C* low = row(y.low);
      blend_rows(low, row(y.high), y.weight, out_width, out);
    }
  }
}

static void cam_sum(const CamSum& task, int64_t begin, int64_t end) {
  with_float_type(task.type, [&](auto value) { sum_items<decltype(value)>(task, begin, end); });
}

static void cam_weights(const CamMeans& task, int64_t begin, int64_t end) {
  with_float_type(task.blocks.type, [&](auto value) { finish_weights<decltype(value)>(task, begin, end); });
}

static void cam_maps(const CamMap& task, int64_t begin, int64_t end) {
  with_float_type(task.blocks.type, [&](auto value) { finish_maps<decltype(value)>(task, begin, end); });
}

static void cam_resize(const CamResize& task, int64_t begin, int64_t end, void* scratch) {
  with_float_type(task.type, [&](auto value) { resize_rows<decltype(value)>(task, begin, end, scratch); });
}

}  // namespace torchext::TORCHEXT_ISA
