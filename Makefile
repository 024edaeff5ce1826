# `make demo` and `make test` need nothing but Python 3.11 to 3.13 and these two words.
PYTHON ?= python3
BIN := .venv/bin

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip setuptools wheel
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	# sam2 compiles against the torch just installed; its CUDA extension is not needed (SAM2_BUILD_CUDA=0).
	SAM2_BUILD_CUDA=0 $(BIN)/pip install -q -c constraints.txt --no-build-isolation sam2
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: install demo test soak lint format clean

install: .venv/ready

demo: install
	$(BIN)/egoray demo

test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

soak: install
	$(BIN)/python -m pytest -q -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo
