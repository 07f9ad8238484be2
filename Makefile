# Every target except gpu uses an environment of its own, which is created from pinned requirements at first use.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
JOBS ?= 2
# The GPU and the PyTorch of the machine on which `make gpu` will run.
GPU_ARCH ?= 9.0
GPU_TORCH ?= 2.11.0
BIN := $(abspath $(VENV))/bin
# ninja and clang-format are found on the path, and the package is imported from this tree.
RUN := PATH="$(BIN):$$PATH" PYTHONPATH="$(CURDIR)" TORCH_EXTENSIONS_DIR="$(abspath $(VENV))/extensions"
# Tests that take long to set up, or need much memory, are in groups that run in one process each.
PYTEST := python -m pytest -n $(JOBS) --dist loadgroup

CSRC := $(shell find csrc -type f)
HARNESS := $(shell find tests examples -name '*.cpp' -o -name '*.h')

.PHONY: help build demo test test-fallback test-on-host fuzz sanitize peers zoo peers-explain lint format bench bench-jobs \
  bench-malloc gpu gpu-libraries gpu-symbols wheel wheel-pure wheel-matrix twine docs cross sdist compiler clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build  ## explain photos, extract and merge windows, encode labels; pictures in demo_output/
	@$(RUN) python examples/demo.py

test: build $(VENV)/dev  ## run the tests and the examples of all docstrings
	$(RUN) $(PYTEST) $(ARGS)

# These compile in processes of their own, pass wrong arguments to kernels, or export the same program with and without
# kernels: one run is enough.
ONCE := --ignore=tests/package/test_jit.py --ignore=tests/conformance/test_malformed.py \
  --ignore=tests/export/test_onnx.py --ignore=tests/export/test_onnx_sizes.py \
  --deselect=tests/package/test_package.py::test_jit_build_compiles_where_no_library_is_loaded \
  --deselect=tests/package/test_gpu_script.py::test_the_dry_run_passes_every_stage \
  --deselect=torchext/_native/jit.py::torchext._native.jit.jit_build

test-fallback: build $(VENV)/dev  ## the same without the compiled kernels
	TORCHEXT_DISABLE_NATIVE=1 $(RUN) $(PYTEST) $(ONCE) $(ARGS)

test-on-host: $(VENV)/dev  ## run every thread of the CUDA kernels on the CPU, under AddressSanitizer
	environment=$$($(RUN) python tests/on_host/build.py) && env $$environment $(RUN) $(PYTEST) tests/on_host $(ARGS)

fuzz: build $(VENV)/dev  ## random calls: valid ones, wrong ones and raw ones; ARGS="--valid 50000 --wrong 20000 --raw 10000 --seed 1"
	$(RUN) python -m tests.fuzz $(ARGS)

# AddressSanitizer detects accesses after the end of a tensor, because PyTorch allocates exactly its size. Memory that is
# kept from one result to the next would hide them.
sanitize: $(VENV)/dev  ## random calls of the CPU kernels under AddressSanitizer and UBSan, and in threads under ThreadSanitizer
	environment=$$(TORCHEXT_DISABLE_NATIVE=1 $(RUN) python tests/sanitize/build.py address) || exit 1; \
	for set in baseline avx2 avx512; do \
	  env $$environment TORCHEXT_CPU_CACHE=0 TORCHEXT_CPU_CAPABILITY=$$set $(RUN) python -m tests.fuzz $(or $(ARGS),--valid 100 --wrong 0 --raw 0) || exit 1; \
	done
	environment=$$(TORCHEXT_DISABLE_NATIVE=1 $(RUN) python tests/sanitize/build.py thread) && env $$environment $(RUN) python -m tests.sanitize.races

peers: $(PEERS)/peers  ## compare with MONAI, torchmetrics, timm, kornia, SAHI, diffusers and others, in an environment of their own
	PATH="$(abspath $(PEERS))/bin:$$PATH" TORCHEXT_CUDA=0 python setup.py -q build_ext --inplace > $(PEERS)/build.log 2>&1 || { cat $(PEERS)/build.log; exit 1; }
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python -m pytest tests/peers tests/package/test_docs.py::test_programs_run_as_they_stand $(ARGS)
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python -m benchmarks --in-process --no-compile --quick --filter 'DiceLoss|^sliding'

zoo: $(PEERS)/peers  ## the layers that CAM finds in hundreds of models; ARGS="--source hf|torchvision|timm|ultralytics|monai NAMES"
	TORCHEXT_DISABLE_NATIVE=1 PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python tests/peers/zoo.py $(ARGS)

peers-explain: $(PEERS)/peers  ## time CAM and two other packages from a batch to its maps
	PATH="$(abspath $(PEERS))/bin:$$PATH" TORCHEXT_CUDA=0 python setup.py -q build_ext --inplace > $(PEERS)/build.log 2>&1 || { cat $(PEERS)/build.log; exit 1; }
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python -m benchmarks.cam.explain

# The packages installed without their requirements would bring OpenCV's build with windows next to the one without.
$(PEERS)/peers: requirements/peers.txt
	@echo "Installing $< into $(PEERS) ..."
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps \
		grad-cam==1.5.7 torchcam==0.5.0 ultralytics==8.4.190 ultralytics-thop==2.2.3 \
		kornia==0.9.0 kornia_rs==0.2.0 sahi==0.12.8 shapely==2.2.0 diffusers==0.42.1
	@touch $@

lint: $(VENV)/dev  ## linters, formatters and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	@echo "clang-format --dry-run -Werror"; $(RUN) clang-format --dry-run -Werror $(CSRC) $(HARNESS)

format: $(VENV)/dev  ## format the sources
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	@echo "clang-format -i"; $(RUN) clang-format -i $(CSRC) $(HARNESS)

bench: build $(VENV)/dev  ## time every workload with its peers and its floor
	$(RUN) python -m benchmarks $(ARGS)

bench-jobs: $(PEERS)/peers  ## time whole jobs and measure their memory, next to the usual ways to write them
	PATH="$(abspath $(PEERS))/bin:$$PATH" TORCHEXT_CUDA=0 python setup.py -q build_ext --inplace > $(PEERS)/build.log 2>&1 || { cat $(PEERS)/build.log; exit 1; }
	PATH="$(abspath $(PEERS))/bin:$$PATH" PYTHONPATH="$(CURDIR)" python -m benchmarks.jobs $(ARGS)

bench-malloc: build $(VENV)/dev  ## time the rows of docs/speed.md under jemalloc and tcmalloc
	$(RUN) python -m benchmarks.allocators $(ARGS)

gpu:  ## test, sanitize, time and profile the CUDA kernels, with the software installed on the machine
	$(PYTHON) -m benchmarks.harness.gpu $(ARGS)

# For a machine with a GPU on which time is short. git ignores the two files, so they must be copied by name. The CUDA
# kernels are compiled from scratch, because the build does not know which headers a .cu file includes.
gpu-libraries: build  ## compile torchext/_C.so, and torchext/_C_cuda.so for GPU_ARCH, for `make gpu` on another machine
	@rm -rf build/cuda
	@echo "Compiling the CUDA kernels for $(GPU_ARCH) ..."
	@TORCHEXT_CUDA=only TORCH_CUDA_ARCH_LIST=$(GPU_ARCH) $(RUN) python setup.py -q build_ext --inplace --build-temp build/cuda > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }

gpu-symbols:  ## check that PyTorch GPU_TORCH has every symbol that these two require (it is downloaded: 0.5 GB)
	$(BIN)/python tools/torch_symbols.py $(GPU_TORCH) torchext/_C.so torchext/_C_cuda.so

# From scratch: with a CPU build of PyTorch, cpp_extension does not know which headers a .cu file includes.
wheel: $(VENV)/demo  ## one wheel for every CPython and PyTorch, with CUDA kernels if nvcc is found
	rm -rf build dist/*linux*.whl
	$(RUN) python -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist .

wheel-pure: $(VENV)/demo  ## the wheel for every platform: the references, and the sources for jit_build
	rm -rf build
	TORCHEXT_PURE=1 $(RUN) python -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist .

wheel-matrix:  ## test the wheel with five pairs of CPython and PyTorch, one after the other (7 GB each)
	$(PYTHON) tools/wheel_matrix.py dist/torchext_ops-*linux*.whl $(PAIRS)

sdist: $(VENV)/demo  ## the source distribution
	$(RUN) python setup.py -q sdist

twine: $(VENV)/dev  ## check everything in dist/ as a package index does
	$(RUN) python -m twine check --strict dist/*

docs: $(VENV)/docs  ## the pages of docs/ and of the API into build/docs, with warnings as errors, and a check of their HTML
	@rm -rf build/docs
	$(RUN) python -m sphinx --quiet --fail-on-warning --doctree-dir build/doctrees docs build/docs
	$(RUN) python tools/pages.py build/docs

cross: $(VENV)/cross  ## compile the CPU kernels for aarch64 on Linux and macOS, and all kernels with the headers of the oldest and newest PyTorch
	$(RUN) python tools/cross_compile.py

build: compiler torchext/_C.so  ## compile the kernels in place

# Before packages of a gigabyte are downloaded.
compiler:
	@set -- $${CXX:-c++}; command -v "$$1" > /dev/null || { echo "no C++ compiler: $$1 is not on the path. Install one (apt-get install g++), set CXX to one, or install the wheel, which requires none." >&2; exit 1; }

# A library only works with the schemas and the version for which it was built.
SCHEMAS := torchext/_core/version.py $(shell grep -rl ' = define' torchext --include='*.py')

# Without the CUDA kernels, which the PyTorch of the environment, a CPU build, cannot load. `make wheel` compiles them.
torchext/_C.so: setup.py torchext/_native/build.py $(SCHEMAS) $(CSRC) $(VENV)/demo
	@echo "Compiling the kernels ..."
	@TORCHEXT_CUDA=0 $(RUN) python setup.py -q build_ext --inplace > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@touch $@

$(VENV)/dev $(VENV)/cross $(VENV)/docs: $(VENV)/demo
$(VENV)/demo $(VENV)/dev $(VENV)/cross $(VENV)/docs: $(VENV)/%: requirements/%.txt
	@echo "Installing $< into $(VENV) ..."
	@$(PYTHON) tools/environment.py $(VENV) $<
	@touch $@

clean:  ## remove everything that was built here, including the environments
	rm -rf $(VENV) $(PEERS) build dist demo_output torchext/*.so *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
