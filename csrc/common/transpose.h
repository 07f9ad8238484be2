namespace torchext::TORCHEXT_ISA {

#if defined(TORCHEXT_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
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

// Side of the square that is transposed in registers.
template <class U>
constexpr int kTile = sizeof(U) > 8 ? 1 : std::min<int>(8, kVectorBytes / sizeof(U));

template <class U, int side>
struct TileRow {
  typedef typename UnsignedOf<sizeof(U)>::type type __attribute__((vector_size(side * sizeof(U))));
};

// Rows a and b as a0 b0 a1 b1 ..., the first half and the second.
template <int side, class Row>
inline void interleave(const Row& a, const Row& b, Row& first, Row& second) {
  if constexpr (side == 2) {
    first = __builtin_shufflevector(a, b, 0, 2);
    second = __builtin_shufflevector(a, b, 1, 3);
  } else if constexpr (side == 4) {
    first = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    second = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else {
    first = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    second = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

template <class U>
inline void transpose_tile(const U* in, int64_t in_pitch, U* out, int64_t out_pitch) {
  constexpr int side = kTile<U>;
  using Row = typename TileRow<U, side>::type;
  Row rows[side], next[side];
  for (int i = 0; i < side; ++i) std::memcpy(&rows[i], in + i * in_pitch, sizeof(Row));
  for (int step = 1; step < side; step *= 2) {  // each riffles the rows: log2(side) of them transpose
    for (int i = 0; i < side / 2; ++i) interleave<side>(rows[i], rows[i + side / 2], next[2 * i], next[2 * i + 1]);
    for (int i = 0; i < side; ++i) rows[i] = next[i];
  }
  for (int i = 0; i < side; ++i) std::memcpy(out + i * out_pitch, &rows[i], sizeof(Row));
}

// Both sides at least a tile: the last tiles overlap their neighbours instead of leaving a rest.
template <class U>
void transpose_tiles(const U* in, int64_t in_pitch, int64_t rows, int64_t columns, U* out, int64_t out_pitch) {
  constexpr int64_t side = kTile<U>;
  for (int64_t j = 0; j < columns; j += side) {
    const int64_t column = std::min(j, columns - side);
    for (int64_t i = 0; i < rows; i += side) {
      const int64_t row = std::min(i, rows - side);
      transpose_tile(in + row * in_pitch + column, in_pitch, out + column * out_pitch + row, out_pitch);
    }
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
  if constexpr (kTile<U> > 1) {
    if (rows >= kTile<U> && columns >= kTile<U>)
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
