// The Python module with the CUDA kernels for CPU tensors: importing it registers them. It sets the options of
// cuda_on_host.h, and exposes the index arithmetic of the kernels to tests in Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "windows/unfold/kernels.cuh"
#include "windows/padding.h"
#include "windows/tiles/geometry.h"

namespace py = pybind11;
using namespace torchext;

unsigned char __align__(16) torchext_shared[kMostSharedBytes];

template <class Index>
static int64_t quotient(int64_t numerator, int64_t divisor) {
  Index rest = static_cast<Index>(numerator);
  const Index whole = Divisor<Index>(divisor).split(rest);
  return rest == numerator % divisor ? whole : -1;
}

// Positions of the padding that are copies of an element.
template <class Index>
static std::vector<Index> copies(int mode, Index element, Index size, Index padding) {
  const PaddingCopies<Index> found = padding_copies(PaddingMode{mode}, element, size, padding);
  std::vector<Index> positions;
  for (Index i = 0; i < found.count(); ++i) positions.push_back(found.position(i));
  return positions;
}

// The pairs of tap and window that read a position.
template <class Index>
static std::vector<std::pair<Index, Index>> taps_at(Index position, int64_t image, int64_t kernel, int64_t dilation,
                                                    int64_t padding, int64_t stride) {
  WindowGeometry<int64_t> geometry{};
  geometry.image[2] = image;
  geometry.kernel[2] = kernel;
  geometry.dilation[2] = dilation;
  geometry.padding[2] = padding;
  geometry.stride[2] = stride;
  geometry.grid[2] = grid_size(image, kernel, dilation, padding, stride);
  const FoldAxis<Index> axis(geometry, 2);
  TapRun<Index> run = axis.taps_at(position);
  std::vector<std::pair<Index, Index>> pairs;
  for (; run.count > 0; --run.count) {
    pairs.emplace_back(run.tap, run.window);
    run.tap += axis.tap_step.divisor;
    run.window -= axis.window_step.divisor;
  }
  return pairs;
}

PYBIND11_MODULE(torchext_on_host, module) {
  using cuda_on_host::device;
  module.def(
      "start",
      [](uint32_t seed, int64_t processors, bool wide, std::optional<int64_t> most_32) {
        device.random.seed(seed);
        device.processors = processors;
        device.most_32_bit_indices = wide ? -1 : most_32.value_or(cuda_on_host::Device{}.most_32_bit_indices);
        device.launches = device.threads = device.argument_bytes = 0;
      },
      py::arg("seed"), py::arg("processors") = 1, py::arg("wide") = false, py::arg("most_32") = std::nullopt,
      "Choose the order of threads and blocks, the number of processors, and which indices have 64 bits: all if "
      "`wide`, otherwise those beyond `most_32`. Reset the counters.");
  module.def("launches", [] { return device.launches; }, "Kernels and fills since the start.");
  module.def("threads", [] { return device.threads; }, "Threads of all kernels since the start, for statistics.");
  module.def(
      "argument_bytes", [] { return device.argument_bytes; },
      "The maximal number of bytes of a kernel's arguments since the start.");

  module.def("quotient_32", py::vectorize(quotient<int32_t>));
  module.def("quotient_64", py::vectorize(quotient<int64_t>));
  module.def("padding_source", py::vectorize([](int mode, int64_t position, int64_t size) {
               return padding_source(PaddingMode{mode}, position, size);
             }));
  module.def("padding_copies", copies<int64_t>);
  module.def("taps_at", taps_at<int32_t>);
  module.def("windows_until",
             py::vectorize([](int64_t position, int64_t grid, int64_t stride, int64_t first, int64_t last) {
               return TileAxis<int64_t>{1, 1, 1, grid, stride, first, last}.windows_until(position);
             }));
}
