# Every target but gpu runs in an environment of its own, made from pinned requirements when first needed.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
DOCS ?= .venv-docs
JOBS ?= 2
# Of the machine that `make gpu` will run on.
GPU_ARCH ?= 9.0
GPU_TORCH ?= 2.11.0
BIN := $(abspath $(VENV))/bin
# ninja and clang-format are found on the path; the package is imported from this tree.
RUN := PATH="$(BIN):$$PATH" PYTHONPATH="$(CURDIR)" TORCH_EXTENSIONS_DIR="$(abspath $(VENV))/extensions"
# What takes long to set up, or much memory, keeps to one process.
PYTEST := python -m pytest -n $(JOBS) --dist loadgroup

CSRC := $(shell find csrc -type f)
HARNESS := $(shell find tests examples -name '*.cpp' -o -name '*.h')

.PHONY: help build demo test test-fallback test-on-host fuzz sanitize peers zoo peers-explain lint format bench gpu \
  gpu-libraries gpu-symbols wheel wheel-pure wheel-matrix twine docs cross sdist clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build  ## explain photos, cut and join windows, encode labels; pictures in demo_output/
	@$(RUN) python examples/demo.py

test: build $(VENV)/dev  ## run the tests and the examples of all docstrings
	$(RUN) $(PYTEST) $(ARGS)

# What compiles in processes of its own knows nothing of what is loaded here; once is enough.
COMPILING := --ignore=tests/package/test_jit.py \
  --deselect=tests/package/test_package.py::test_jit_build_compiles_where_no_library_is_loaded \
  --deselect=tests/package/test_gpu_script.py::test_the_dry_run_passes_every_stage \
  --deselect=torchext/_native/jit.py::torchext._native.jit.jit_build

test-fallback: build $(VENV)/dev  ## the same without the compiled kernels
	TORCHEXT_DISABLE_NATIVE=1 $(RUN) $(PYTEST) $(COMPILING) $(ARGS)

test-on-host: $(VENV)/dev  ## run the CUDA kernels on the host, every thread of them, under AddressSanitizer
	environment=$$($(RUN) python tests/on_host/build.py) && env $$environment $(RUN) $(PYTEST) tests/on_host $(ARGS)

fuzz: build $(VENV)/dev  ## try random calls, right ones, wrong ones and raw ones; ARGS="--valid 50000 --wrong 20000 --raw 10000 --seed 1"
	$(RUN) python -m tests.fuzz $(ARGS)

# AddressSanitizer sees the end of every tensor: PyTorch allocates as many bytes as one has.
sanitize: $(VENV)/dev  ## random calls of the CPU kernels under AddressSanitizer and UBSan, and in threads under ThreadSanitizer
	environment=$$(TORCHEXT_DISABLE_NATIVE=1 $(RUN) python tests/sanitize/build.py address) || exit 1; \
	for set in baseline avx2 avx512; do \
	  env $$environment TORCHEXT_CPU_CAPABILITY=$$set $(RUN) python -m tests.fuzz $(or $(ARGS),--valid 100 --wrong 0 --raw 0) || exit 1; \
	done
	environment=$$(TORCHEXT_DISABLE_NATIVE=1 $(RUN) python tests/sanitize/build.py thread) && env $$environment $(RUN) python -m tests.sanitize.races

peers: $(PEERS)/peers  ## compare with MONAI, torchmetrics, scikit-learn, timm and two CAM packages, in an environment of their own
	PATH="$(abspath $(PEERS))/bin:$$PATH" TORCHEXT_CUDA=0 python setup.py -q build_ext --inplace > $(PEERS)/build.log 2>&1 || { cat $(PEERS)/build.log; exit 1; }
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python -m pytest tests/peers $(ARGS)
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python -m benchmarks --in-process --no-compile --quick --filter 'DiceLoss|^sliding'

zoo: $(PEERS)/peers  ## the layers that CAM finds in hundreds of models; ARGS="--source hf|torchvision|timm|ultralytics|monai NAMES"
	TORCHEXT_DISABLE_NATIVE=1 PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python tests/peers/zoo.py $(ARGS)

peers-explain: $(PEERS)/peers  ## time CAM and two packages, end to end
	PATH="$(abspath $(PEERS))/bin:$$PATH" TORCHEXT_CUDA=0 python setup.py -q build_ext --inplace > $(PEERS)/build.log 2>&1 || { cat $(PEERS)/build.log; exit 1; }
	PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python -m benchmarks.cam.explain

# The packages installed without their requirements would bring OpenCV's build with windows next to the one without.
$(PEERS)/peers: requirements/peers.txt
	@echo "Installing $< into $(PEERS) ..."
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps \
		grad-cam==1.5.7 torchcam==0.5.0 ultralytics==8.4.190 ultralytics-thop==2.2.3
	@touch $@

lint: $(VENV)/dev  ## linters, formatters and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	@echo "clang-format --dry-run -Werror"; $(RUN) clang-format --dry-run -Werror $(CSRC) $(HARNESS)

format: $(VENV)/dev  ## rewrite the sources as the formatters want them
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	@echo "clang-format -i"; $(RUN) clang-format -i $(CSRC) $(HARNESS)

bench: build $(VENV)/dev  ## every workload with its peers and its floor
	$(RUN) python -m benchmarks $(ARGS)

gpu:  ## test, sanitize, time and profile the CUDA kernels, with what the machine has installed
	$(PYTHON) -m benchmarks.harness.gpu $(ARGS)

# For a machine with a GPU and little time: git ignores the two files, so they have to be copied there by name. From
# scratch, since the build does not see which headers a .cu includes.
gpu-libraries: build  ## compile torchext/_C.so and, for GPU_ARCH, torchext/_C_cuda.so: what `make gpu` needs elsewhere
	@rm -rf build/cuda
	@echo "Compiling the CUDA kernels for $(GPU_ARCH) ..."
	@TORCHEXT_CUDA=only TORCH_CUDA_ARCH_LIST=$(GPU_ARCH) $(RUN) python setup.py -q build_ext --inplace --build-temp build/cuda > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }

gpu-symbols:  ## whether PyTorch GPU_TORCH has every symbol that these two need (it is downloaded: 0.5 GB)
	$(BIN)/python tools/torch_symbols.py $(GPU_TORCH) torchext/_C.so torchext/_C_cuda.so

# From scratch: with a CPU build of PyTorch, cpp_extension does not note which headers a .cu includes.
wheel: $(VENV)/demo  ## one wheel for every CPython and PyTorch, with CUDA kernels if nvcc is there
	rm -rf build dist/*linux*.whl
	$(RUN) python -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist .

wheel-pure: $(VENV)/demo  ## the same for every platform: the references, and the sources for jit_build
	rm -rf build
	TORCHEXT_PURE=1 $(RUN) python -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist .

wheel-matrix:  ## try the wheel with five pairs of CPython and PyTorch, one after the other (7 GB each)
	$(PYTHON) tools/wheel_matrix.py dist/torchext-*linux*.whl $(PAIRS)

sdist: $(VENV)/demo  ## the source distribution
	$(RUN) python setup.py -q sdist

twine: $(VENV)/dev  ## what an index would say of everything in dist/
	$(RUN) python -m twine check --strict dist/*

docs: $(DOCS)/docs  ## the pages of docs/ and of the API into build/docs, with warnings as errors
	$(DOCS)/bin/python -m mkdocs build --strict --quiet --site-dir build/docs

cross: $(VENV)/cross  ## compile the CPU kernels for aarch64 on Linux and macOS, and everything against the oldest and newest PyTorch's headers
	$(RUN) python tools/cross_compile.py

build: torchext/_C.so  ## compile the kernels in place

# A library belongs to the schemas and to the version that it was built with.
SCHEMAS := torchext/_core/version.py $(shell grep -rl ' = define' torchext --include='*.py')

# Without the CUDA kernels: the environment's PyTorch, a CPU build, could not load them. `make wheel` compiles them.
torchext/_C.so: setup.py torchext/_native/build.py $(SCHEMAS) $(CSRC) $(VENV)/demo
	@echo "Compiling the kernels ..."
	@TORCHEXT_CUDA=0 $(RUN) python setup.py -q build_ext --inplace > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@touch $@

$(DOCS)/docs: requirements/docs.txt
	@echo "Installing $< into $(DOCS) ..."
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

$(VENV)/dev $(VENV)/cross: $(VENV)/demo
$(VENV)/demo $(VENV)/dev $(VENV)/cross: $(VENV)/%: requirements/%.txt
	@echo "Installing $< into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

clean:  ## remove whatever was made here, the environment included
	rm -rf $(VENV) $(PEERS) $(DOCS) build dist demo_output torchext/*.so *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
