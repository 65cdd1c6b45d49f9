# Portcullis. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# debian: the prebuilt kernel of the host's release; buildroot: our own, see docs/building.md.
BASE ?= debian
PORT ?= 8443
RESET ?=
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portcullis
export PATH := $(CACHE)/bin:$(HOME)/.cargo/bin:$(PATH)

CARGO := cargo
BUILDER := $(CARGO) run --quiet --locked --package portcullis-image --
# Each base has folders of its own: neither image overwrites the other, no disk changes its kernel unnoticed.
OF_BASE := $(if $(filter-out debian,$(BASE)),-$(BASE))
IMAGES := target/image$(OF_BASE)

.PHONY: help setup image buildroot-sources legal-info release run lab test test-unit test-instructions test-e2e \
	test-long check bench compare-bases fuzz clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing needs (only what is missing)
	@scripts/setup
	@$(if $(filter buildroot,$(BASE)),scripts/setup --buildroot)

image: setup ## Build the disk image, the slot blob, the SBOM: target/image/ (BASE=buildroot: target/image-buildroot/)
	@$(BUILDER) build --base $(BASE)

buildroot-sources: ## Fetch all that BASE=buildroot is built from into BR2_DL_DIR
	@scripts/setup --buildroot
	@$(BUILDER) buildroot source

legal-info: setup ## Licences of all that is in the image, with Buildroot's report: target/legal-info/
	@$(BUILDER) legal-info --base $(BASE) --out target/legal-info$(OF_BASE)

release: setup ## Build a signed release from a clean checkout: VERSION=1.2.3 KEY=FILE MIN_VERSION=1.0.0
	@$(BUILDER) release --base $(BASE) "$(VERSION)" $(if $(KEY),--key "$(KEY)") \
		$(if $(MIN_VERSION),--min-version "$(MIN_VERSION)") $(if $(ALLOW_OVERRIDES),--allow-overrides)

run: image ## Boot the appliance in QEMU and open its page (RESET=1: new disk, PORT=8443)
	@$(CARGO) run --quiet --locked --package portcullis-qemu -- run --port $(PORT) $(if $(RESET),--reset) \
		--image $(IMAGES)/portcullis.qcow2 --folder target/run$(OF_BASE)

lab: image ## A shell on a LAN host behind the appliance, with a simulated internet (root)
	@$(CARGO) run --quiet --locked --package portcullis-qemu -- lab --image $(IMAGES)/portcullis.raw

test: test-unit test-instructions test-e2e ## Everything that is tested on every change (root)

test-unit: setup
	@scripts/need-root "make test"
	$(CARGO) test --locked --workspace

test-instructions: setup ## Instructions per packet, held against tests/bench/instructions.toml
	$(CARGO) run --quiet --locked --package portcullis-bench -- instructions

test-e2e: image
	@scripts/need-root "make test"
	$(CARGO) run --quiet --locked --package portcullis-e2e -- --base $(BASE) --image $(IMAGES)/portcullis.raw

test-long: image ## What takes too long for every change: full rebuild compared, every size of ping, floods at full speed, fuzzing (root)
	@scripts/need-root "make test-long"
	$(CARGO) run --quiet --locked --package portcullis-e2e -- --long --base $(BASE) --image $(IMAGES)/portcullis.raw
	$(CARGO) test --locked --package portcullis-firewall --test path --test crowd -- --ignored
	scripts/fuzz 120

fuzz: setup ## Fuzz every parser of outside data, SECONDS_EACH=60
	scripts/fuzz $(or $(SECONDS_EACH),60)

check: setup ## Format, lints, dependencies, docs: warnings are errors
	@scripts/setup --tool cargo-deny
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	cargo-deny --all-features check --hide-inclusion-graph bans licenses sources
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet

bench: image ## Measure against the named peers; tables, target/bench/*.json (root)
	@scripts/need-root "make bench"
	$(CARGO) run --quiet --locked --package portcullis-bench -- all --image $(IMAGES)

compare-bases: setup ## Size and boot time of both bases side by side, target/bench/bases.json (root)
	@scripts/need-root "make compare-bases"
	@$(MAKE) --no-print-directory image BASE=debian
	@$(MAKE) --no-print-directory image BASE=buildroot
	@rm -rf target/bench/debian target/bench/buildroot
	@# A bound that is not kept is said by the benchmark, and the comparison is worth reading all the same.
	-$(CARGO) run --quiet --locked --package portcullis-bench -- boot --image target/image --out target/bench/debian
	-$(CARGO) run --quiet --locked --package portcullis-bench -- boot --image target/image-buildroot --out target/bench/buildroot
	@$(BUILDER) compare target/image target/image-buildroot --bench target/bench --out target/bench/bases.json

clean: ## Remove everything that was built here (the cache outside stays)
	rm -rf target
