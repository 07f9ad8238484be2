namespace torchext::TORCHEXT_ISA {

#if defined(TORCHEXT_AVX2)
constexpr int kTileRowBytes = 32;
#else
constexpr int kTileRowBytes = 16;
#endif

template <int bytes>
struct UnsignedOf;
template <>
struct UnsignedOf<1> {
  using type = uint8_t;
};
template <>
struct UnsignedOf<2> {
  using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
  using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
  using type = uint64_t;
};

// What is transposed in registers: `side` rows of `lane` columns. Shuffles within 16 bytes are the cheap ones, so two
// rows `lane` apart are loaded side by side as the two parts of a register and never shuffled across them.
template <class U>
struct Tile {
  static constexpr int lane = std::min<int>(8, 16 / sizeof(U));
  static constexpr int lanes = sizeof(U) == 4 || sizeof(U) == 8 ? kTileRowBytes / 16 : 1;
  static constexpr int side = lane * lanes;
  typedef typename UnsignedOf<sizeof(U)>::type Lane __attribute__((vector_size(lane * sizeof(U))));
  typedef typename UnsignedOf<sizeof(U)>::type Row __attribute__((vector_size(side * sizeof(U))));
};

// a0 b0 a1 b1 ... in each lane, the lower halves of the lanes and the upper ones.
template <int lane, int lanes, class Row>
inline void interleave(const Row& a, const Row& b, Row& lower, Row& upper) {
  if constexpr (lane == 2 && lanes == 1) {
    lower = __builtin_shufflevector(a, b, 0, 2);
    upper = __builtin_shufflevector(a, b, 1, 3);
  } else if constexpr (lane == 2) {
    lower = __builtin_shufflevector(a, b, 0, 4, 2, 6);
    upper = __builtin_shufflevector(a, b, 1, 5, 3, 7);
  } else if constexpr (lane == 4 && lanes == 1) {
    lower = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    upper = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else if constexpr (lane == 4) {
    lower = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    upper = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  } else {
    lower = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    upper = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

// The lane at `from`, beside it in a second lane the one `distance` further.
template <class U>
inline typename Tile<U>::Row load_lanes(const U* from, int64_t distance) {
  using T = Tile<U>;
  typename T::Lane first, second;
  std::memcpy(&first, from, sizeof first);
  if constexpr (T::lanes == 1) return first;
  std::memcpy(&second, from + distance, sizeof second);
  if constexpr (T::lanes == 2 && T::lane == 2) return __builtin_shufflevector(first, second, 0, 1, 2, 3);
  if constexpr (T::lanes == 2 && T::lane == 4) return __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7);
}

template <class U>
[[gnu::always_inline]] inline void transpose_tile(const U* in, int64_t in_pitch, U* out, int64_t out_pitch) {
  using T = Tile<U>;
  typename T::Row rows[T::lane], next[T::lane];
#pragma GCC unroll 8
  for (int i = 0; i < T::lane; ++i) rows[i] = load_lanes(in + i * in_pitch, T::lane * in_pitch);
#pragma GCC unroll 3
  for (int step = 1; step < T::lane; step *= 2) {  // each riffles the rows: log2(lane) of them transpose
    constexpr int half = T::lane / 2;
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) interleave<T::lane, T::lanes>(rows[i], rows[i + half], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 8
    for (int i = 0; i < T::lane; ++i) rows[i] = next[i];
  }
  // Not left to the compiler, which else takes the rows through memory.
#pragma GCC unroll 8
  for (int i = 0; i < T::lane; ++i) std::memcpy(out + i * out_pitch, &rows[i], sizeof rows[i]);
}

// At least a tile: the last tiles overlap their neighbours instead of leaving a rest.
template <class U>
void transpose_tiles(const U* in, int64_t in_pitch, int64_t rows, int64_t columns, U* out, int64_t out_pitch) {
  constexpr int64_t side = Tile<U>::side, lane = Tile<U>::lane;
  const int64_t last = rows - side;
  for (int64_t j = 0; j < columns; j += lane) {
    const int64_t column = std::min(j, columns - lane);
    const U* from = in + column;
    U* to = out + column * out_pitch;
    for (int64_t i = 0; i <= last; i += side) transpose_tile(from + i * in_pitch, in_pitch, to + i, out_pitch);
    if (rows % side != 0) transpose_tile(from + last * in_pitch, in_pitch, to + last, out_pitch);
  }
}

// `rows` packed rows of a few columns.
template <int columns, class U>
void split_columns(const U* __restrict in, int64_t rows, U* __restrict out, int64_t out_pitch) {
#pragma GCC ivdep
  for (int64_t i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) out[j * out_pitch + i] = in[i * columns + j];
}

// A few rows to packed columns.
template <int rows, class U>
void join_rows(const U* __restrict in, int64_t in_pitch, int64_t columns, U* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < columns; ++j)
    for (int i = 0; i < rows; ++i) out[j * rows + i] = in[i * in_pitch + j];
}

// out[j * out_pitch + i] = in[i * in_pitch + j] for i < rows and j < columns.
template <class U>
void transpose(const U* in, int64_t in_pitch, int64_t rows, int64_t columns, U* out, int64_t out_pitch) {
  if constexpr (sizeof(U) <= 8) {
    if (rows >= Tile<U>::side && columns >= Tile<U>::lane)
      return transpose_tiles(in, in_pitch, rows, columns, out, out_pitch);
  }
  if (in_pitch == columns) {
    if (columns == 2) return split_columns<2>(in, rows, out, out_pitch);
    if (columns == 3) return split_columns<3>(in, rows, out, out_pitch);
    if (columns == 4) return split_columns<4>(in, rows, out, out_pitch);
  }
  if (out_pitch == rows) {
    if (rows == 2) return join_rows<2>(in, in_pitch, columns, out);
    if (rows == 3) return join_rows<3>(in, in_pitch, columns, out);
    if (rows == 4) return join_rows<4>(in, in_pitch, columns, out);
  }
  if (rows == 1 && out_pitch == 1) return void(std::memcpy(out, in, columns * sizeof(U)));
  if (columns <= rows)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t i = 0; i < rows; ++i) out[j * out_pitch + i] = in[i * in_pitch + j];
  else
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) out[j * out_pitch + i] = in[i * in_pitch + j];
}

}  // namespace torchext::TORCHEXT_ISA
