# SPDX-License-Identifier: Apache-2.0
# make test | test-slow | demo | docs | lint | clean. Everything is installed into .venv, nothing elsewhere.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check

.PHONY: test test-slow lint demo docs clean help

help:
	@echo "make test       install, lint, check types, run the fast tests (at most 15 minutes)"
	@echo "make test-slow  whole programs, kills and other long tests (at most 45 minutes)"
	@echo "make demo       prepare the emoji pairs, train, evaluate: runs/demo/report.html"
	@echo "make docs       the pages of docs/ as a site: build/site/index.html"

# The stamps depend on pyproject.toml alone: a second run installs nothing.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo-installed: pyproject.toml | $(VENV)/.made
	@echo "installing into $(VENV): some minutes"
	$(pip) -e '.[emoji,search]'
	touch $@

$(VENV)/.test-installed: pyproject.toml | $(VENV)/.made
	@echo "installing into $(VENV): some minutes"
	$(pip) -e '.[emoji,video,export,search,milvus,test,parity,lint,docs]'
	touch $@ $(VENV)/.demo-installed

lint: $(VENV)/.test-installed
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/pyrefly check

# Most of the time of the tests is the compiler's, so that it may take less care. What is about the
# compiler's work asks for `users_compiler`.
test test-slow: export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 1
test test-slow: export XLA_FLAGS ?= --xla_cpu_use_fusion_emitters=false
test: lint
	$(bin)/python -m pytest -m 'not slow' -n $(WORKERS) --dist loadgroup -q

# libtpu compiles for TPUs without one. In a folder of its own, since JAX looks for a TPU wherever it
# can import it; a machine that it is not made for skips the test that needs it.
libtpu := "$$($(bin)/python -c 'import importlib.metadata as found; print(next( \
  name.split(";")[0] for name in found.requires("jax") if name.startswith("libtpu")))')"
$(VENV)/.libtpu-tried: $(VENV)/.test-installed
	$(pip) --no-deps --upgrade --target $(VENV)/libtpu $(libtpu) || echo "no libtpu for this machine"
	touch $@

test-slow: export COTS_LIBTPU = $(abspath $(VENV)/libtpu)
test-slow: $(VENV)/.libtpu-tried
	$(bin)/python -m pytest -m slow -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q

# A warning, a link that leads nowhere or a page that is not in mkdocs.yml's nav is an error.
docs: $(VENV)/.test-installed
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# Large pages: without them a step faults in and clears some 23,000 small ones for its buffers.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# Every step looks for its own result first and does only what is missing.
demo: $(VENV)/.demo-installed
	$(bin)/python -m cots_jax.prepare emoji --out=data/emoji
	$(bin)/python -m cots_jax.main --config=configs/demo.py:kl --workdir=runs/demo
	$(bin)/python -m cots_jax.evaluate --workdir=runs/demo
	@echo
	@echo "To search the held-out drawings on a web page (it says where; the first time it embeds them):"
	@echo "    $(bin)/python -m cots_jax.search serve --index=indexes/demo \\"
	@echo "        --model=runs/demo --images=data/emoji#emoji_style"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
