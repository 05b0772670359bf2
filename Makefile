# Needs python3 (3.11 or newer) with pip, and make. Every target sets up what it uses; a second call finds it ready.
PYTHON ?= python3
VENV   := .venv
FLOOR  := .venv-floor
BIN    := $(VENV)/bin
PIP    := python -m pip install --quiet --disable-pip-version-check

# The core requirements of pyproject.toml with >= read as ==: the floor is stated once, there.
CORE_AT_FLOOR = $(FLOOR)/bin/python -c 'import tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(line.replace(">=", "==") for line in project["dependencies"]))'

# What builds the package: pip fetches it by itself, but for an environment that builds with its own jax.
BUILD_TOOLS = $(FLOOR)/bin/python -c 'import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "cmake", "ninja")'

# What the kernels are built from: an environment is set up again when it changes.
NATIVE = $(wildcard jals/data/native/*.cpp $(addprefix jals/rows/native/,*.cpp *.hpp cuda/*.cu cuda/*.cuh)) \
	jals/rows/native/CMakeLists.txt

# `make gpu GPU_PYTHON=python3` takes an environment as it is: jals, what its tests need, and a jax that sees the GPU; with
# GPU_PYTEST= one without pytest-xdist. The seconds are for the tests, and for the figures after them.
GPU_PYTHON  ?= $(BIN)/python
GPU_PYTEST  ?= -n 4 --dist worksteal
GPU_READY    = $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/gpu)
GPU_TESTS   ?= 120
GPU_SECONDS ?= 170

.PHONY: help demo test test-long lint floor sanitize gpu plan package cross nvcc fuzz faults docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

# Installed for the demo is what it needs, unless everything is there already.
demo: $(if $(wildcard $(VENV)/ready),$(VENV)/ready,$(VENV)/demo)  ## factors of MovieLens latest-small, then their certificate again from the files
	$(BIN)/jals run configs/movielens.toml --overwrite
	$(BIN)/jals certify runs/movielens

test: lint  ## ruff, pyright and pytest
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-long: $(VENV)/ready $(FLOOR)/ready  ## all tests, the slow ones too, compiled as users compile; all the floor can run: hours
	JALS_XLA=default $(BIN)/python -m pytest -n 2 --dist worksteal -m ""
	$(FLOOR)/bin/python -m pytest -n 2 --dist worksteal -m "not newest"

lint: $(VENV)/ready  ## ruff and pyright only
	$(BIN)/ruff check .
	$(BIN)/pyright

floor: $(FLOOR)/ready  ## the core tests on the oldest jax, optax and numpy that pyproject.toml allows
	$(FLOOR)/bin/python -m pytest -n 2 --dist worksteal -m "not newest and not slow"

sanitize: $(VENV)/ready  ## the CPU kernel on random cases, under each instruction set and sanitizer: minutes
	JALS_FUZZ=500 $(BIN)/python -m pytest -n 2 --dist worksteal tests/rows/test_native_fuzz.py

# Tests compile as users do, several processes share the card, and a kernel that hangs keeps nobody waiting. JALS_PEER
# names a folder of implicit's wheels (experiments/speed/peer.py), GPU_OUT one for the figures.
gpu: $(GPU_READY)  ## what only a GPU can show: the kernel's tests, its times beside the card's limits, in five minutes
	JALS_XLA=default XLA_PYTHON_CLIENT_PREALLOCATE=false timeout $(GPU_TESTS) $(GPU_PYTHON) -m pytest $(GPU_PYTEST) \
		-p no:benchmark -rs tests/rows/test_cuda.py; tested=$$?; \
	$(GPU_PYTHON) experiments/bench_gpu.py --seconds $(GPU_SECONDS) $(if $(GPU_OUT),--out $(GPU_OUT)) && exit $$tested

# Without a TPU: libtpu compiles for one that is not there. It is kept out of the environment of the tests, where jax would
# look for TPUs at every start.
plan: $(VENV)/libtpu  ## what a TPU's compiler makes of sweeps and top_k on a chip, and of ALS on 256: ten minutes
	for program in als gradient top_k; do \
		JAX_PLATFORMS=cpu PYTHONPATH=$(VENV)/libtpu $(BIN)/jals plan v5e:1x1 --program $$program \
		--users 138493 --items 26744 --entries 20000263 --rank 128 --no-search || exit 1; done
	JAX_PLATFORMS=cpu PYTHONPATH=$(VENV)/libtpu $(BIN)/jals plan v5e:16x16 --users 365000000 --items 365000000 \
		--entries 30000000000 --rank 128 --exchange routed:64 --value uint8 --precision bfloat16 --no-search

package: $(VENV)/ready  ## what is packed, and what is installed with a compiler and without: a minute
	$(BIN)/python -m pytest -m slow tests/test_package.py

# By Zig's clang, which has the headers of both systems in its wheel. Nothing is run: the machines are not here.
cross: $(VENV)/zig  ## the CPU's code compiled and linked for Linux on arm64 and for macOS: minutes
	for target in aarch64-linux-gnu.2.28 aarch64-macos.11.0; do \
		PYTHONPATH=$(VENV)/zig $(BIN)/python -m ziglang c++ -target $$target -std=c++17 -O1 -fPIC -shared -pthread \
		-fvisibility=hidden -Wall -Wextra -Werror -DJALS_ISA=baseline -DJALS_BYTES=16 \
		-isystem $$($(BIN)/python -c 'import jax; print(jax.ffi.include_dir())') \
		jals/rows/native/*.cpp jals/data/native/*.cpp -o $(VENV)/zig/$$target.so && echo "$$target compiles" || exit 1; done

nvcc: $(VENV)/nvcc  ## what nvcc makes of the GPUs' kernel, for each of them: minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "" -rP tests/rows/test_cuda_emulated.py -k nvcc

fuzz: $(VENV)/ready  ## 10,000 random text files against Python's csv module, 300 random configs: half an hour
	JALS_FUZZ=10000 $(BIN)/python -m pytest -n 2 --dist worksteal tests/data/test_text_fuzz.py
	JALS_FUZZ_CONFIGS=300 $(BIN)/python -m pytest -n 2 --dist worksteal tests/app/config/test_config_fuzz.py

faults: $(VENV)/ready  ## runs killed 50 times, stopped 20 times, raced 20 times; every file damaged in every way: an hour
	JALS_MOMENTS=10 $(BIN)/python -m pytest tests/app/run/test_interrupt.py
	JALS_KILLS=50 JALS_RACES=20 $(BIN)/python -m pytest -n 2 --dist worksteal tests/app/run/test_stops.py
	JALS_DAMAGE=100000 $(BIN)/python -m pytest -s tests/app/run/test_damage.py
	JALS_KILLS=50 $(BIN)/python -m pytest -m slow tests/partitioned/test_stops.py
	JALS_KILLS=50 $(BIN)/python -m pytest -s -m "" tests/app/run/test_processes.py

docs: $(VENV)/ready  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove environments, runs and caches
	rm -rf $(VENV) $(FLOOR) runs site build dist wheelhouse *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -f jals/rows/native/_kernel* jals/rows/native/_cuda* jals/data/native/_grouping*
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/demo: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	@echo "Installing jals with jax, polars and matplotlib, and building its kernel for this processor's kind."
	JALS_ISA=host $(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable '.[cli,data]' \
		--constraint constraints.txt
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	$(BIN)/$(PIP) --editable '.[all]' --constraint constraints.txt
	touch $@

# jax's plugin for CUDA 13, which brings nvcc; then jals once more, which builds its kernel for a GPU that is there.
$(VENV)/gpu: $(VENV)/ready
	@nvidia-smi -L || { echo "make gpu needs an NVIDIA GPU, and its driver (nvidia-smi)."; exit 1; }
	$(BIN)/$(PIP) 'jax[cuda13]' --constraint constraints.txt
	$(BIN)/$(PIP) --editable '.[all]' --constraint constraints.txt
	touch $@

$(VENV)/libtpu: $(VENV)/ready
	$(BIN)/$(PIP) --target $@ --no-deps $$($(BIN)/python -c 'import importlib.metadata as metadata; \
		print(*(each.partition(";")[0] for each in metadata.requires("jax") if each.startswith("libtpu")))')
	touch $@

$(VENV)/zig: $(VENV)/ready
	$(BIN)/$(PIP) --target $@ ziglang
	touch $@

# The extra `nvcc`, for tests that have no other at hand.
$(VENV)/nvcc: $(VENV)/ready
	$(BIN)/$(PIP) $$($(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["nvcc"])')
	touch $@

# Only the extra `test`: tests of the other extras skip themselves, and the core is seen to work without them. The CPU
# kernel is built with this jax's own headers, beside the newest's: an older jax does not load what a newer one's built.
$(FLOOR)/ready: pyproject.toml constraints.txt $(NATIVE) | $(FLOOR)/bin/python
	$(FLOOR)/bin/$(PIP) $$($(BUILD_TOOLS)) $$($(CORE_AT_FLOOR)) --constraint constraints.txt
	$(FLOOR)/bin/$(PIP) --no-build-isolation --editable '.[test]' $$($(CORE_AT_FLOOR)) --constraint constraints.txt
	touch $@

# Debian's python3 lacks ensurepip unless python3-venv is installed; the machine's own pip then fills the environment.
%/bin/python:
	$(PYTHON) -m venv $* || { \
		$(PYTHON) -m venv --clear --without-pip $* && $(PYTHON) -m pip --python $@ install --quiet pip; }
