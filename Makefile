# Portcullis. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BASE ?= debian
PORT ?= 8443
RESET ?=
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portcullis
export PATH := $(CACHE)/bin:$(HOME)/.cargo/bin:$(PATH)

CARGO := cargo
IMAGE := target/image/portcullis.raw

.PHONY: help setup run test test-unit test-instructions test-e2e test-long image check bench lab fuzz clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing needs (only what is missing)
	@scripts/setup

image: setup ## Build the disk image, the slot blob, the SBOM: target/image/
	@$(CARGO) run --quiet --locked --package portcullis-image -- build --base $(BASE)

run: image ## Boot the appliance in QEMU and open its page (RESET=1: new disk, PORT=8443)
	@$(CARGO) run --quiet --locked --package portcullis-qemu -- run --port $(PORT) $(if $(RESET),--reset)

lab: image ## A shell on a LAN host behind the appliance, with a simulated internet (root)
	@$(CARGO) run --quiet --locked --package portcullis-qemu -- lab

test: test-unit test-instructions test-e2e ## Everything that is tested on every change (root)

test-unit: setup
	@scripts/need-root "make test"
	$(CARGO) test --locked --workspace

test-instructions: setup ## Instructions per packet, held against tests/bench/instructions.toml
	$(CARGO) run --quiet --locked --package portcullis-bench -- instructions

test-e2e: image
	@scripts/need-root "make test"
	$(CARGO) run --quiet --locked --package portcullis-e2e

test-long: image ## What takes too long for every change: full rebuild compared, every size of ping, fuzzing (root)
	@scripts/need-root "make test-long"
	$(CARGO) run --quiet --locked --package portcullis-e2e -- --long
	$(CARGO) test --locked --package portcullis-firewall --test path -- --ignored
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
	$(CARGO) run --quiet --locked --package portcullis-bench -- all

clean: ## Remove everything that was built here (the cache outside stays)
	rm -rf target
