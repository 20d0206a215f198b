# `make check` runs the main job on this machine, `make test` passes the tests; both install what is missing first.

CARGO ?= cargo
BIN := target/release/gonogo
# Where `make check` measures storage: the checkpoint directory of your run, e.g. make check CKPT=/mnt/checkpoints
CKPT ?= .

.PHONY: check test gpu-test kernels lint build packages third-party setup bench clean

check: build
	$(BIN) check --path $(CKPT)

build: setup
	$(CARGO) build --release --quiet

test: setup
	$(CARGO) test --quiet --no-fail-fast

# What needs a GPU, on a machine that has one, within 8 minutes: make gpu-test OUT=DIR; else under reports/. A binary that is there
# is taken as it is: the machine needs no Rust.
gpu-test:
	@[ -x $(BIN) ] || $(MAKE) --no-print-directory build
	@GONOGO=$${GONOGO:-$(BIN)} tests/labs/gpu-test $(OUT)

# The device code, after a change of kernels.cu; kernels.py says which compiler it wants.
kernels:
	python3 src/sys/cuda/kernels.py

# Packages for older systems, x86-64 and aarch64, into target/packages; FORMATS says which (docs/install.md).
packages: setup
	packaging/build
	packaging/package target/packages

# THIRD-PARTY.md, after a change of dependencies: cargo install --locked --features cli cargo-about
third-party:
	$(CARGO) about generate --config packaging/about.toml --output-file THIRD-PARTY.md packaging/third-party.md.hbs

# Formatting, lints with warnings denied, and the documentation.
lint: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps

# Functions by criterion, then whole comparisons with the peers (see benches/README.md).
bench: build
	$(CARGO) bench --quiet
	python3 benches/peers/compare.py

# A Rust toolchain builds everything but links with the system's C compiler.
setup:
	@command -v $(CARGO) >/dev/null || { echo "no $(CARGO): install a Rust toolchain (https://rustup.rs), then run make again"; exit 3; }
	@command -v cc >/dev/null || { echo "installing a linker (gcc)"; \
	  if [ "$$(id -u)" = 0 ]; then S=; else S=sudo; fi; \
	  $$S apt-get update -qq && $$S apt-get install -y -qq --no-install-recommends gcc libc6-dev; }

clean:
	$(CARGO) clean
