# What CI runs. Each target works alone; `make test` is all of them, first those that fail fastest.
# One debug profile and one set of features serve tests, benches and clients, so that nothing is built twice.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.NOTPARALLEL:

TARGET := $(or $(CARGO_TARGET_DIR),target)
ALL := tools fmt deny workflows lint doc test-rust browser bench-smoke charts alerts image pods clients fuzz-smoke

.PHONY: test $(ALL) fuzz-nightly deny-advisories sbom

# Everything, with the time that each part took.
test:
	@for part in $(ALL); do \
	  echo "== $$part"; SECONDS=0; \
	  $(MAKE) --no-print-directory $$part; \
	  echo "== $$part: $$SECONDS s"; \
	done
	@echo "make test: everything passed"

# Installs what is missing (root or sudo for Debian's packages); does nothing when nothing is.
tools:
	@.ci/tools

fmt:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml

# Licences, banned crates, sources. Advisories need a database that is not in this repository.
deny:
	cargo fetch --locked
	cargo deny --locked --offline check licenses bans sources
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	cargo deny --manifest-path fuzz/Cargo.toml --locked --offline --config deny.toml check licenses bans sources

# Known vulnerabilities: fetches the database. In CI every day.
deny-advisories:
	cargo deny --locked check advisories
	cargo deny --manifest-path fuzz/Cargo.toml --locked --config deny.toml check advisories

# The workflow files: their schema, what is unsafe in them, their form.
workflows:
	tests/lint/setup.sh
	$(TARGET)/lint/venv/bin/yamllint --strict .github/workflows
	$(TARGET)/lint/venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(TARGET)/lint/venv/bin/zizmor --offline --quiet .github/workflows

lint:
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --no-default-features -- -D warnings

# The images that tests use, and what the released one must be. The release build takes minutes, once.
image:
	tests/lint/setup.sh
	$(TARGET)/lint/venv/bin/hadolint Dockerfile
	tests/image/build.sh
	tests/image/check.py
	tests/image/published.py

# What the image's binary is made of, for the release: CycloneDX.
sbom:
	packaging/sbom.sh $(TARGET)/sbom

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Unit tests, the whole program, the binary, the documentation's tables.
test-rust:
	cargo test --locked

# `login` in a real headless Chromium, against the practice org's consent page. Ignored by `cargo test`, so that it runs without one.
browser:
	cargo test --locked --test it -- --ignored chromium

# Each bench once, without measuring.
bench-smoke:
	cargo bench --locked --profile dev --bench '*' -- --test

# Both Helms, kustomize, the schemas of Kubernetes; every rendered configuration is checked by the program. UPDATE=1 writes what is
# made from the charts: the component's patches, the snippet of docs/kubernetes.md, the READMEs' tables.
charts:
	cargo test --locked --test it --no-run
	tests/charts/setup.sh
	PYTHONDONTWRITEBYTECODE=1 $(TARGET)/charts/venv/bin/python -m pytest --quiet -p no:cacheprovider tests/charts

# Real clients against the practice org. `cargo build` would build the dependencies again: tests enable more of them.
clients:
	cargo test --locked --test it --no-run
	tests/clients/setup.sh
	$(TARGET)/clients/venv/bin/python tests/clients/run.py --bin $(TARGET)/debug/sf-token-proxy

# Alert rules, runbooks and the dashboard: promtool, then a Prometheus that scrapes proxies while practice orgs misbehave. The build is that of
# the Rust tests (see clients).
alerts:
	tests/alerts/setup.sh
	$(TARGET)/alerts/venv/bin/python tests/alerts/check.py
	cargo test --locked --test it --no-run
	$(TARGET)/alerts/venv/bin/python tests/alerts/live.py --bin $(TARGET)/debug/sf-token-proxy --out $(TARGET)/alerts/run

# The rendered charts as real pods, by podman under a stand-in for the kubelet. Needs root. The practice org and the app are those that `cargo test`
# builds (see clients): build.sh makes neither when its images are there already.
pods:
	cargo test --locked --test it --no-run
	cargo build --locked --example pod_app
	tests/image/build.sh > /dev/null
	tests/charts/setup.sh
	tests/pods/images.sh
	PYTHONDONTWRITEBYTECODE=1 $(TARGET)/charts/venv/bin/python tests/pods/run.py

# Each fuzz target from its seeds, a fixed number of runs; and clippy for them, with what that has built.
fuzz-smoke:
	fuzz/run.sh smoke
	fuzz/run.sh lint

# Each fuzz target for a minute: in CI every night.
fuzz-nightly:
	fuzz/run.sh nightly
