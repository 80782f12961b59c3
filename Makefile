# growbin's tasks; `make` lists them. Kept to what GNU make 3.81 (macOS) understands.

PYTHON ?= python3
PORT ?= 8080
ARGS ?=
JOBS ?= 500
KILLS ?= 10

# Empty when PYTHON is missing or older than 3.11. Each other interpreter has a venv of its own.
VERSION := $(shell $(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) and sys.stdout.write("%d.%d" % v[:2])' 2>/dev/null)
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(VERSION))
# Two stages: what `make run` needs, and what every other task needs besides.
RUNNABLE := $(VENV)/.runnable-$(VERSION)
INSTALLED := $(VENV)/.installed-$(VERSION)
PIP := $(VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
# The other locks have the versions of the one for all, so that each may be installed over another.
COMPILE_PART := $(COMPILE) --constraint requirements/dev.txt
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo sudo)
QUIETLY := $(MAKE) --no-print-directory

# The deployment's checks: what they need conflicts with growbin's own packages.
DEPLOY_VENV := .venv-deploy
DEPLOY_INSTALLED := $(DEPLOY_VENV)/.installed-$(VERSION)

# What looks at the locked packages from outside.
AUDIT_VENV := .venv-audit
AUDIT_INSTALLED := $(AUDIT_VENV)/.installed-$(VERSION)
LOCKS := $(wildcard requirements/*.txt) bench/references/peers/requirements.txt

# What growbin's consumer is measured beside.
PEERS_VENV := .venv-peers
PEERS_LOCK := bench/references/peers/requirements.txt
PEERS_INSTALLED := $(PEERS_VENV)/.installed-$(VERSION)

# Training: PyTorch is heavy, and nothing that runs needs it.
DATA ?=
TORCH ?=
TRAIN_VENV := .venv-train
TRAIN_LOCK := requirements/train$(if $(TORCH),-$(TORCH)).txt
TRAIN_INSTALLED := $(TRAIN_VENV)/.installed-$(VERSION)$(if $(TORCH),-$(TORCH))
TRAIN_PYTHON := PYTHONPATH=src $(TRAIN_VENV)/bin/python

BROWSER := $(PYTHON) -m tests.browser
FAILED_LINES := grep -hE "^(FAILED|ERROR|INTERNALERROR)" $(VENV)/test-*.log | tail -n 40
TEST := $(VENV)/bin/python -m pytest -m "not long" --durations=10 --durations-min=2 --ignore=tests/deploy --ignore=tests/image --ignore=tests/train
# A lane each, of about the same length; a fourth is all that is not named here.
TEST_FAULTS := tests/faults
TEST_PARTS := tests/contract tests/page tests/stream_conformance
TEST_UNIT := tests/unit tests/test_tidy.py

# What npm installs for tests.
CLIENTS := tests/stream_conformance/clients
SCHEMAS := tests/deploy/schemas

.PHONY: help run test faults alerts mutants chaos conformance servers mixed bench photos check train train-check deploy-setup deploy-check image-check deploy-programs audit sbom format lock clean setup test-here test-faults test-parts test-unit lint rabbitmq curl chromium node prometheus faketime buildah debian-packages

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.13 chooses the interpreter, PORT=9000 the address of run, ARGS='-k cdn' the tests."

run: $(RUNNABLE) rabbitmq curl  ## start everything here and serve http://127.0.0.1:8080
	@exec $(VENV)/bin/growbin stack --port $(PORT) $(ARGS)

test: setup chromium node prometheus  ## all tests but the long ones, on real RabbitMQ, Valkey, SeaweedFS and nginx
	@$(if $(ARGS),$(TEST) $(ARGS),$(QUIETLY) --jobs=4 test-here test-faults test-parts test-unit; code=$$?; cat $(VENV)/test-*.log; $(FAILED_LINES); exit $$code)

# Runs that mostly wait, each on servers of its own; the output of all but one is kept apart until the end.
test-here:
	@echo "$(TEST_FAULTS) $(TEST_PARTS) $(TEST_UNIT) run beside these: their output follows."
	@$(TEST) $(TEST_FAULTS:%=--ignore=%) $(TEST_PARTS:%=--ignore=%) $(TEST_UNIT:%=--ignore=%)

test-faults:
	@$(TEST) $(TEST_FAULTS) >$(VENV)/test-faults.log 2>&1

test-parts:
	@$(TEST) $(TEST_PARTS) >$(VENV)/test-parts.log 2>&1

test-unit:
	@$(TEST) $(TEST_UNIT) >$(VENV)/test-unit.log 2>&1

faults: setup chromium faketime prometheus  ## kill, freeze and cut everything, one fault at a time, the long ones too
	@ROLLING_SECONDS=120 FROZEN_SECONDS=20 REDIS_AWAY_SECONDS=60 BROKER_AWAY_SECONDS=60 \
		AWAY_SECONDS=$(or $(AWAY_SECONDS),40) $(VENV)/bin/python -m pytest tests/faults $(ARGS)
	@$(if $(ARGS),,$(VENV)/bin/python -m pytest -m long tests/contract tests/page)
	@$(if $(ARGS),,FUZZ_CASES=10000 $(VENV)/bin/python -m pytest tests/contract/test_altered_values.py)
	@$(if $(ARGS),,RANDOM_REQUESTS=100000 $(VENV)/bin/python -m pytest --timeout 1200 tests/unit/test_random_requests.py)
	@$(if $(ARGS),,DESCRIBED_EXAMPLES=1200 $(VENV)/bin/python -m pytest --timeout 1800 tests/e2e/test_description.py)

alerts: setup prometheus  ## a real Prometheus over each fault: its alert during it, no other, silence after (half an hour)
	@$(VENV)/bin/python -m pytest -s tests/faults/test_alerts.py $(ARGS)

mutants: setup faketime  ## take one control out at a time: its row must fail
	@$(VENV)/bin/python -m tests.faults.mutants $(ARGS)

chaos: setup  ## random harm and one table: JOBS=10000 KILLS=200 SEED=7 repeats a run; IN_FLIGHT=500
	@$(VENV)/bin/python -m tests.faults.chaos --jobs $(JOBS) --kills $(KILLS) $(if $(SEED),--seed $(SEED)) \
		$(if $(IN_FLIGHT),--in-flight $(IN_FLIGHT)) $(if $(EARLIER),--before $(EARLIER)) $(ARGS)

conformance: setup  ## put a job stream through the rules: URL=http://… (another's: DESCRIPTION=its.toml)
	@$(VENV)/bin/python -m tests.stream_conformance $(or $(URL),http://127.0.0.1:$(PORT)) \
		$(if $(DESCRIPTION),--description $(DESCRIPTION)) $(ARGS)

servers: setup faketime prometheus  ## the rows of broker and Redis on RabbitMQ 3.10 and 4 and Redis 7, unpacked beside (Debian)
	@$(VENV)/bin/python -m tests.other_servers $(or $(SERVERS),rabbitmq-3.10 rabbitmq-4 redis-7) $(if $(ARGS),--pytest $(ARGS))

mixed: setup  ## this version beside an earlier one, rolled forward and back under load: EARLIER=a-commit
	@EARLIER=$(EARLIER) $(VENV)/bin/python -m pytest tests/faults/test_mixed_versions.py $(ARGS)

bench: setup $(if $(findstring --quick,$(ARGS)),,$(PEERS_INSTALLED))  ## what all costs, beside references, in turn (an hour; ARGS="jobs --quick": one of them, in short)
	@$(VENV)/bin/python -m bench $(ARGS)

photos: setup  ## thousands of hostile and odd photos through the photo cleaner: what each costs (a minute or two)
	@$(VENV)/bin/python -m bench.hostile_photos $(ARGS)

check: setup lint  ## format, lint, types, shape and unit tests, before each commit (some minutes)
	@$(VENV)/bin/python -m pytest -q tests/test_tidy.py tests/unit

lint: setup  ## the checks that run no code: format, lint, types, imports
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo --no-cache

train: $(TRAIN_INSTALLED)  ## make the embedded model's file from DATA=a folder of photos (an hour or two; TORCH=cpu)
	@test -n "$(DATA)" || { echo "make train DATA=folder: a folder of collections of labelled photos, see docs/embedded-model.md" >&2; exit 1; }
	@# On an accelerator PyTorch gives the same numbers each time only with this.
	@CUBLAS_WORKSPACE_CONFIG=:4096:8 $(TRAIN_PYTHON) -m growbin.embedded_model.train $(DATA) $(ARGS)

train-check: $(TRAIN_INSTALLED)  ## train for seconds on drawn pictures: the same file twice, and after a stop
	@$(TRAIN_PYTHON) -m pytest --config-file /dev/null --rootdir . --confcutdir tests/train -W error -p no:cacheprovider tests/train $(ARGS)

deploy-setup: setup $(DEPLOY_INSTALLED)

deploy-check: deploy-programs deploy-setup prometheus $(SCHEMAS)/node_modules/.package-lock.json  ## image, manifests and Terraform: render, validate, scan, roll out as processes
	@$(VENV)/bin/python -m pytest tests/deploy $(ARGS)

image-check: setup buildah  ## build the image from the Dockerfile without Docker (as root, some minutes) and do a job in it
	@$(VENV)/bin/python -m pytest tests/image $(ARGS)

audit: $(AUDIT_INSTALLED)  ## known vulnerabilities in every locked package (asks PyPI; one that it cannot tell of is a failure)
	@# Each by itself: what stands in two of them would be refused. A build of PyTorch's own index is not on PyPI.
	@failed=; for lock in $(filter-out %-cpu.txt,$(LOCKS)); do \
		echo "$$lock"; \
		$(AUDIT_VENV)/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement $$lock $(ARGS) \
			|| failed=1; \
	done; test -z "$$failed"

sbom: $(AUDIT_INSTALLED)  ## dist/sbom.json: the packages of the image, with their hashes, as CycloneDX
	@mkdir -p dist
	@PYTHONWARNINGS=ignore $(AUDIT_VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json requirements/model.txt
	@echo dist/sbom.json

format: setup  ## format the code and apply safe fixes
	@$(VENV)/bin/ruff check --quiet --fix-only .
	@$(VENV)/bin/ruff format --quiet .

lock: setup  ## compile requirements/; ARGS=--upgrade takes new versions
	@$(COMPILE) $(ARGS) --all-extras pyproject.toml requirements/build.in --output-file requirements/dev.txt
	@$(COMPILE_PART) --extra local pyproject.toml requirements/build.in --output-file requirements/local.txt
	@$(COMPILE_PART) --extra model pyproject.toml --output-file requirements/model.txt
	@$(COMPILE_PART) --extra tracing pyproject.toml --output-file requirements/tracing.txt
	@$(COMPILE_PART) pyproject.toml --output-file requirements/run.txt
	@$(COMPILE_PART) requirements/build.in --output-file requirements/build.txt
	@$(COMPILE) $(ARGS) requirements/deploy.in --output-file requirements/deploy.txt
	@$(COMPILE) $(ARGS) requirements/audit.in --output-file requirements/audit.txt
	@$(COMPILE_PART) $(PEERS_LOCK:.txt=.in) --output-file $(PEERS_LOCK)
	@$(COMPILE_PART) --extra model pyproject.toml requirements/train.in --output-file requirements/train.txt
	@test -z "$(TORCH_WHEELS)" || sed "s/^torch==.*/&+cpu/" requirements/train.in \
		| $(COMPILE_PART) --find-links $(TORCH_WHEELS) --no-emit-find-links --extra model pyproject.toml - --output-file requirements/train-cpu.txt

clean:  ## remove all that make has made: venvs, data, caches
	@rm -rf .venv .venv-* var $(CLIENTS)/node_modules $(SCHEMAS)/node_modules .cache dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(INSTALLED) rabbitmq curl  ## install what is missing (every task does it first; run needs less)

$(RUNNABLE): pyproject.toml requirements/local.txt
	@$(if $(VERSION),,$(error growbin needs Python 3.11 or newer and "$(PYTHON)" is not: choose one, as in make PYTHON=python3.13))
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(QUIETLY) debian-packages PACKAGES=python$(VERSION)-venv
	@test "$$($(VENV)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = $(VERSION) \
		|| $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the locked packages that growbin runs with into $(VENV)."
	@$(PIP) install --require-hashes --requirement requirements/local.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Only what is missing is added.
$(INSTALLED): requirements/dev.txt | $(RUNNABLE)
	@echo "Installing the locked packages of the tests and checks into $(VENV)."
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

# Only the program is wanted: growbin starts a private broker, so the packaged one stays off.
rabbitmq:
	@test -n "$$RABBITMQ_URL" || command -v rabbitmq-server >/dev/null || test -x /usr/sbin/rabbitmq-server \
		|| if command -v brew >/dev/null; then brew install --quiet rabbitmq; else \
			$(QUIETLY) debian-packages PACKAGES=rabbitmq-server; \
			if command -v systemctl >/dev/null; then $(AS_ROOT) systemctl --quiet disable rabbitmq-server || true; fi; \
		fi

# The walk-through that `make run` prints speaks curl.
curl:
	@command -v curl >/dev/null || $(QUIETLY) debian-packages PACKAGES=curl

# The page is tested in a real browser, with Korean glyphs. Ubuntu's package is an empty one that asks for a snap.
chromium:
	@$(BROWSER) >/dev/null 2>&1 || ! command -v apt-get >/dev/null || grep -qx ID=ubuntu /etc/os-release \
		|| $(QUIETLY) debian-packages PACKAGES="chromium fonts-noto-cjk"
	@$(BROWSER) >/dev/null

# Its programs read our alerts, and scrape real runs. As the broker's, the packaged service stays off.
prometheus:
	@command -v prometheus >/dev/null && command -v promtool >/dev/null \
		|| if command -v brew >/dev/null; then brew install --quiet prometheus; else \
			$(QUIETLY) debian-packages PACKAGES=prometheus; \
			if command -v systemctl >/dev/null; then $(AS_ROOT) systemctl --quiet disable prometheus || true; fi; \
		fi

# Some rows give a process a wrong clock.
faketime:
	@command -v faketime >/dev/null || $(QUIETLY) debian-packages PACKAGES=faketime

# Neither needs a daemon: one builds what the other makes the base of.
buildah:
	@command -v buildah >/dev/null || $(QUIETLY) debian-packages PACKAGES=buildah
	@command -v mmdebstrap >/dev/null || $(QUIETLY) debian-packages PACKAGES=mmdebstrap

# The streams are also read by npm's clients; what is installed is what the lock file says.
node: $(CLIENTS)/node_modules/.package-lock.json

%/node_modules/.package-lock.json: %/package-lock.json
	@command -v npm >/dev/null || $(QUIETLY) debian-packages PACKAGES="nodejs npm"
	@cd $* && npm ci --silent --ignore-scripts

$(AUDIT_INSTALLED): requirements/audit.txt
	@$(PYTHON) -m venv --clear $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --require-hashes --requirement $<
	@touch $@

$(PEERS_INSTALLED): $(PEERS_LOCK)
	@$(PYTHON) -m venv --clear $(PEERS_VENV)
	@echo "Installing what the consumer is measured beside into $(PEERS_VENV)."
	@$(PEERS_VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --require-hashes --requirement $<
	@touch $@

$(DEPLOY_INSTALLED): requirements/deploy.txt
	@$(PYTHON) -m venv --clear $(DEPLOY_VENV)
	@echo "Installing the locked tools into $(DEPLOY_VENV): some minutes the first time."
	@$(DEPLOY_VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --require-hashes --requirement $<
	@touch $@

# TORCH=cpu takes PyTorch's wheels without CUDA, which lie on an index of their own: pip must know it.
$(TRAIN_INSTALLED): $(TRAIN_LOCK)
	@$(if $(VERSION),,$(error growbin needs Python 3.11 or newer and "$(PYTHON)" is not: choose one, as in make PYTHON=python3.13))
	@$(PYTHON) -m venv --clear $(TRAIN_VENV)
	@echo "Installing the locked packages of the training into $(TRAIN_VENV)."
	@$(TRAIN_VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --require-hashes --requirement $<
	@touch $@

# Neither comes from a registry that we lock, and Debian 12's kubectl is too old to be used instead.
deploy-programs:
	@kubectl kustomize --help >/dev/null 2>&1 || { echo "make deploy-check needs kubectl 1.27 or newer: install it, put it on the PATH, then run make again." >&2; exit 1; }
	@terraform version >/dev/null 2>&1 || { echo "make deploy-check needs terraform 1.10 or newer: install it, put it on the PATH, then run make again." >&2; exit 1; }

# policy-rc.d with exit code 101 is Debian's way to install a service without starting it.
debian-packages:
	@command -v apt-get >/dev/null || { echo "Please install $(PACKAGES) (no apt-get here), then run make again." >&2; exit 1; }
	@test -z "$(AS_ROOT)" || command -v sudo >/dev/null || { echo "Please install $(PACKAGES) as root (no sudo here), then run make again." >&2; exit 1; }
	@echo "Installing $(PACKAGES) with apt-get."
	@$(AS_ROOT) sh -c 'set -e; policy=/usr/sbin/policy-rc.d; trap "exit 1" INT TERM; \
		if ! test -e $$policy; then trap "rm -f $$policy" EXIT; printf "#!/bin/sh\nexit 101\n" > $$policy; chmod +x $$policy; fi; \
		apt-get -qq update; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(PACKAGES) >/dev/null'
