# Two commands set everything up on a machine with Python 3.11 and make:
#   make demo   installs into .venv and runs `edgekd compress` on its embedded default
#   make test   installs what the tests need, lints, type-checks and tests

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint types clean

demo: .venv/installed
	.venv/bin/edgekd compress --out runs/digits

test: .venv/installed-dev lint types
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed-dev
	.venv/bin/mypy

.venv/installed: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) --editable '.[tflite]'
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[tflite,keras,hub,dev]'
	@# It pins protobuf < 4 against everything else, and has no wheels past Python 3.11.
	$(PIP) --no-deps --only-binary tflite-support tflite-support || echo "no tflite-support: its tests will be skipped"
	touch $@

clean:
	rm -rf .venv runs
