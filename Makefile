# Each target does its own set-up: tools/setup.sh fetches nvcc and libclang into .cuda only where there are none.
CARGO = cargo
# `make demo ARGS="--text FILE --steps 500"`
ARGS =
# `make demo FEATURES=cuda` on a GPU
FEATURES =
PREFIX = /usr/local
# `make report RESULTS=gpu-bundle/results.json`
COMMITTED_RESULTS = $(sort $(wildcard benches/results/*.json))
RESULTS = $(COMMITTED_RESULTS)
# Bytes of libsumexp.so, nearly all of them kernels: more than this is a kernel with too many forms.
LIBRARY_LIMIT = 32000000

.PHONY: help setup demo test accuracy bench check capi candle candle-cuda install softgpu gpu-bundle peers report resources counters sass mutants barriers soundness fuzz hostile-targets
help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 26

setup:           ## nvcc and libclang into .cuda, if the machine has none
	@tools/setup.sh

demo: setup      ## train a small GPT with candle and sumexp; loss curve, attention heat map, samples; can be resumed
	$(CARGO) run --release --manifest-path crates/sumexp-candle/Cargo.toml --target-dir target --features "$(FEATURES)" --example train_gpt -- $(ARGS)

test: setup      ## every test; kernels run on the software GPU (SUMEXP_TEST_DEVICE=cuda: on a real one)
	$(CARGO) test --workspace --all-features

accuracy: setup  ## the largest errors over a million rows of mixed magnitude per op and type
	SUMEXP_TEST_ROWS=1000000 $(CARGO) test --release --test softmax accuracy -- --nocapture

bench: setup     ## GB/s of every op against the machine's copy bandwidth, on a GPU or on the CPU
	$(CARGO) bench --benches -- $(ARGS)

peers:           ## sumexp beside PyTorch, Triton and others, for a GPU host with PyTorch; ARGS="--device cpu --quick" without one
	[ -e target/capi/libsumexp.so ] || $(MAKE) capi
	PYTHONPATH=benches PYTHONDONTWRITEBYTECODE=1 python3 -m peers --json target/peers.json $(ARGS)

check: setup     ## format, lints, documentation, house rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps
	$(CARGO) test --all-features --test house

capi: setup      ## target/capi: libsumexp.so, libsumexp.a and sumexp.h, for programs in C and C++
	CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols $(CARGO) build --release -p sumexp-capi
	install -D target/release/libsumexp_capi.so target/capi/libsumexp.so
	install -D -m 644 target/release/libsumexp_capi.a target/capi/libsumexp.a
	install -D -m 644 crates/sumexp-capi/include/sumexp.h target/capi/sumexp.h
	@du -bh target/capi/*
	@[ $$(wc -c <target/capi/libsumexp.so) -lt $(LIBRARY_LIMIT) ] || { echo "libsumexp.so: more than $(LIBRARY_LIMIT) bytes" >&2; exit 1; }

candle: setup    ## lints and tests of crates/sumexp-candle, which builds candle
	cd crates/sumexp-candle && $(CARGO) fmt --check
	cd crates/sumexp-candle && $(CARGO) clippy --all-targets --target-dir ../../target -- -D warnings
	cd crates/sumexp-candle && $(CARGO) test --target-dir ../../target

candle-cuda: setup ## crates/sumexp-candle with candle's CUDA backend, on the software GPU: lints and tests
	CARGO="$(CARGO)" tools/candle_cuda.sh clippy --all-targets -- -D warnings
	CARGO="$(CARGO)" tools/candle_cuda.sh test --test cuda

install: capi    ## the C library into PREFIX=/usr/local, with a file for pkg-config; DESTDIR= for packages
	DESTDIR="$(DESTDIR)" tools/install_capi.sh target/capi "$(PREFIX)"

softgpu:         ## target/softgpu/libcuda.so: any driver-API program runs on it with LD_LIBRARY_PATH=target/softgpu
	$(CARGO) build --release -p softgpu
	install -D target/release/libsoftgpu.so target/softgpu/libcuda.so
	ln -sf libcuda.so target/softgpu/libcuda.so.1

gpu-bundle: setup ## target/gpu-bundle.tar.xz: tests and benchmarks for a GPU host without Rust
	tools/bundle.sh

report:          ## results.json of the bundle as target/report/index.html with pictures, and the table of the README
	python3 tools/report.py --out target/report $(RESULTS)
	python3 tools/report.py --readme README.md $(COMMITTED_RESULTS)

resources: setup ## registers, shared memory, spills and occupancy of every kernel
	$(CARGO) run --quiet --example resources

counters: setup  ## what every kernel asks of a GPU beside the least, as the software GPU counts it; ACCEPT=1 writes benches/counters.md
	SUMEXP_COUNTERS_ACCEPT=$(ACCEPT) $(CARGO) test --test counters -- --nocapture

sass: setup      ## what the main loops of the kernels consist of in machine code, and what limits them; ACCEPT=1 writes benches/sass.md
	SUMEXP_SASS_ACCEPT=$(ACCEPT) $(CARGO) test --test sass -- --nocapture

mutants: setup   ## break the kernels in one place at a time; shows which test notices (16 minutes on 2 cores)
	$(CARGO) run --quiet --example mutants -- $(ARGS)

barriers: setup  ## leave out each barrier and fence of every kernel, one at a time; shows what notices
	$(CARGO) test --test barriers -- --nocapture --test-threads=1

soundness: setup ## 100 000 random programs on many streams, and every driver call of 50 failing with 4 codes (minutes)
	SUMEXP_SOUNDNESS_PROGRAMS=100000 SUMEXP_SOUNDNESS_EVERY=1 $(CARGO) test --test soundness -- --nocapture random:: sweep::

hostile-targets: setup ## a million vectors of hostile targets through the cross-entropy kernels
	SUMEXP_HOSTILE_TARGETS=1000000 $(CARGO) test --test loss hostile::hostile_targets

fuzz: setup      ## hostile bytes as views, PTX, images, targets and masks: a minute each (SECONDS=600 for longer, SEED=2 for others)
	SUMEXP_FUZZ_SECONDS=$(or $(SECONDS),60) SUMEXP_FUZZ_SEED=$(or $(SEED),1) $(CARGO) test --test fuzz -- --nocapture
