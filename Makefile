# `make demo` and `make test` do all the set-up; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := src tests benchmarks examples papers docs/_ext docs/tutorials docs/conf.py docs/picture.py conftest.py
READY := $(VENV)/.ready

.PHONY: help demo test test-slow test-zoo check lint fix house bench bench-peers bench-zoo gpu-check papers picture docs \
	dist test-dist clean test-peers test-trainers

help:           ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(READY)  ## set up and run the main job: a real network on real digits
	"$(BIN)/hesscope" demo --report report.html

test: $(READY)  ## set up and pass the tests
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -m "not slow and not zoo"

test-slow: $(READY)  ## the tests that take long, too
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -m slow

check: $(READY) ## all that has to hold before a change lands
	$(MAKE) --jobs 2 --output-sync=target lint docs
	$(MAKE) test

lint: $(READY)  ## format, ruff, types, the arrows of the house
	"$(BIN)/ruff" format --check $(CODE)
	"$(BIN)/ruff" check $(CODE)
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-cache

fix: $(READY)   ## format and mend what ruff can
	"$(BIN)/ruff" format $(CODE)
	"$(BIN)/ruff" check --fix $(CODE)

house: $(READY) ## the house in numbers: rooms, sizes, constants, public names
	"$(BIN)/python" -m tests.house

bench: $(READY) ## cost of products and eigenpairs beside gradients
	"$(BIN)/python" benchmarks/hvp.py
	"$(BIN)/python" benchmarks/eigenpairs.py

gpu-check: ## on a machine with a GPU, PyTorch and transformers: all that runs there, and its cost
	"$(PYTHON)" benchmarks/gpu --device cuda --json benchmarks/results/gpu.json

STUDIES := landscapes saddles decomposition layers outliers transformer singular edge_of_stability \
	debugging newton flatness critical
papers: $(READY) ## every statement of three texts measured, figure by figure; resumes (four hours of a core)
	"$(BIN)/python" papers/sagun2016.py
	set -e; for study in $(STUDIES); do "$(BIN)/python" papers/$$study.py; done
	"$(BIN)/python" papers/statements.py

SITE := build/docs/html
docs: $(READY)  ## the site, into build/docs/html; warnings, dead links and requests are errors
	rm -rf docs/learn $(SITE)
	OMP_NUM_THREADS=1 "$(BIN)/python" -m sphinx --quiet --fail-on-warning --keep-going --nitpicky \
		--doctree-dir build/docs/doctrees docs $(SITE)
	"$(BIN)/python" -m tests.site $(SITE)

picture: $(READY)  ## the picture of a report on the site's first page, anew (needs Chromium)
	"$(BIN)/python" docs/picture.py

dist: $(READY)  ## build wheel and sdist, and look into them
	rm -rf dist
	"$(BIN)/python" -m build --outdir dist .
	"$(BIN)/python" -m tests.dist

test-dist: dist ## install the wheel into a clean environment, with its extras, and use it
	"$(BIN)/python" -m tests.dist --install

clean:          ## remove what the commands made
	rm -rf $(VENV) report.html docs/learn .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# torch first and alone: the pin finds a CPU build where there is one, and what follows accepts it.
$(READY): pyproject.toml constraints.txt
	"$(PYTHON)" -m venv $(VENV)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

# Some of the other tools ask for torchvision, which would come with CUDA: they are installed without
# what they depend on, and what they need of it is named here.
PEERS := .venv-peers
PEERS_PIP := "$(PEERS)/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt
$(PEERS)/.ready: pyproject.toml constraints.txt
	"$(PYTHON)" -m venv $(PEERS)
	$(PEERS_PIP) torch
	$(PEERS_PIP) -e ".[demo,hf]" pandas pytest hypothesis jaxtyping networkx six tqdm
	$(PEERS_PIP) --no-deps curvlinops-for-pytorch backpack-for-pytorch einops einconv unfoldNd \
		linear_operator mpmath opt-einsum
	-$(PEERS_PIP) --no-deps PyHessian
	-$(PEERS_PIP) --no-deps hessian-eigenthings
	-$(PEERS_PIP) --no-deps loss-landscapes
	-$(PEERS_PIP) --no-deps landscaper gudhi topopy nglpy treelib coloraide drawsvg
	touch $@

test-peers: $(PEERS)/.ready ## agreement with curvlinops, in an environment of its own
	"$(PEERS)/bin/python" -m pytest --noconftest -p no:cacheprovider tests/peers

bench-peers: $(PEERS)/.ready ## five other tools on the same work; resumes (20 minutes of one core)
	OMP_NUM_THREADS=1 "$(PEERS)/bin/python" -m benchmarks.peers

bench-zoo: $(READY) ## products of 175 small models of transformers; resumes (10 minutes of one core)
	OMP_NUM_THREADS=1 "$(BIN)/python" -m benchmarks.zoo_products

GUESTS := .zoo-guests
test-zoo: $(READY) ## 200 models that others wrote, beside plain torch (10 minutes of two cores)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--target $(GUESTS) -r tests/zoo/guests.txt
	OMP_NUM_THREADS=1 PYTHONPATH=$(GUESTS) "$(BIN)/python" -m pytest -n 2 -m zoo \
		--show-capture=no --zoo-rows zoo-rows.json tests/zoo

test-trainers: $(READY)  ## with Lightning, transformers, Accelerate, and optimisers of other packages
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--target $(GUESTS) -r tests/monitor/guests.txt
	OMP_NUM_THREADS=1 PYTHONPATH=$(GUESTS) "$(BIN)/python" -m pytest -rs tests/monitor/test_trainers.py tests/steps/test_guests.py tests/test_examples.py
