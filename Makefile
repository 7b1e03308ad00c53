# One command for each thing that is done with vipd. Every target installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help deps rust deny demo demo-cluster peers test soak bench bench-peers lint clean

# A user's PATH on Debian lacks the folders that nft, ip and conntrack live in.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin

CARGO ?= cargo
# Cases in namespaces mostly wait, so a few more than there are cores.
TEST_THREADS ?= 4
SOAK_THREADS ?= 8
# In a user namespace a socket's send buffer is limited, and sets have no fixed size.
ROOT_CASES := 'sets grow under traffic' 'takes more than it was made for'
RUST_MINIMUM := 1.95

help:
	@echo 'make demo    build, and show a service at work in network namespaces (KEEP=1 leaves them)'
	@echo 'make demo-cluster  the same on a real Kubernetes control plane, step by step with kubectl (needs Go once)'
	@echo 'make test    all tests (under 20 minutes on two cores)'
	@echo 'make lint    format, clippy, licences and sources of dependencies'
	@echo 'make bench   benchmarks of the pure rooms, whole-system scale runs, the relay beside HAProxy'
	@echo 'make bench-peers  vipd and the real kube-proxy side by side, on a real API server (needs Go once)'
	@echo 'make soak    the long tests: every case repeated, 100,000 objects'
	@echo 'make deps    only install what the others need'
	@echo 'make clean   remove what was built'

# command:package pairs; only what is missing is installed.
NEEDED := nft:nftables ip:iproute2 conntrack:conntrack tcpdump:tcpdump sysctl:procps \
	ping:iputils-ping unshare:util-linux iptables-nft:iptables gcc:gcc curl:curl openssl:openssl \
	haproxy:haproxy

deps: rust
	@missing=()
	for pair in $(NEEDED); do
	  command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}")
	done
	[[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
	if (( $${#missing[@]} )); then
	  echo "installing $${missing[*]}"
	  as_root=()
	  if (( EUID != 0 )); then
	    command -v sudo >/dev/null || {
	      echo "missing: $${missing[*]}. Install them as root, or install sudo." >&2; exit 1; }
	    as_root=(sudo)
	  fi
	  command -v apt-get >/dev/null || {
	    echo "missing: $${missing[*]}. Not a Debian: install what holds them here." >&2; exit 1; }
	  "$${as_root[@]}" apt-get update -qq
	  "$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends "$${missing[@]}" </dev/null
	fi

rust:
	@command -v $(CARGO) >/dev/null || {
	  echo 'cargo is missing: install Rust $(RUST_MINIMUM) or later (rustup).' >&2; exit 1; }
	have=$$($(CARGO) --version | cut -d' ' -f2)
	oldest=$$(printf '%s\n' $(RUST_MINIMUM) "$$have" | sort -V | head -n1)
	[[ $$oldest == $(RUST_MINIMUM) ]] || {
	  echo "cargo is $$have, vipd needs Rust $(RUST_MINIMUM) or later (rustup update)." >&2; exit 1; }

deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || {
	  echo 'installing cargo-deny (built from source, some minutes)'
	  $(CARGO) install --locked cargo-deny </dev/null; }

# As root in namespaces of its own; as a user in a user namespace besides.
demo: deps
	@echo 'building vipd (release; minutes the first time)'
	$(CARGO) build --release --bin vipd --example demo
	$(CARGO) run --quiet --release --example demo

# On real parts of Kubernetes, each built once into a cache outside the tree: that needs Go.
demo-cluster: deps
	@parts=(etcd kube-apiserver kube-controller-manager kube-scheduler)
	command -v kubectl >/dev/null || parts+=(kubectl)
	peers=$${PEERS_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/vipd-peers}
	missing=()
	for part in "$${parts[@]}"; do [[ -x $$peers/$$part ]] || missing+=("$$part"); done
	if (( $${#missing[@]} )); then
	  command -v go >/dev/null || {
	    echo "!!!! Go is missing: it is needed once, to build $${missing[*]} (go.dev/dl, 1.26 or later) !!!!" >&2
	    exit 1; }
	  echo "building $${missing[*]} (minutes, only this time)"
	  tests/cluster/build-peers "$${missing[@]}"
	fi
	echo 'building vipd (release; minutes the first time)'
	$(CARGO) build --release --bin vipd --example demo_cluster
	$(CARGO) run --quiet --release --example demo_cluster

# Real parts of Kubernetes, built once into a cache outside the tree. Without Go their tests are
# skipped, and say so.
peers: deps
	@if command -v go >/dev/null; then
	  tests/cluster/build-peers || echo '!!!! no parts of Kubernetes could be built: their tests will be skipped !!!!' >&2
	else
	  echo '!!!! Go is missing: the tests against a real API server will be skipped !!!!' >&2
	fi

test: deps peers
	$(CARGO) test --no-fail-fast -- --test-threads=$(TEST_THREADS)
	if (( EUID == 0 )); then
	  NETNS_WAY=root $(CARGO) test --no-fail-fast --test netns --test nftables -- $(ROOT_CASES)
	else
	  echo '!!!! SKIPPED: the sets that a root daemon makes are tested as root only !!!!' >&2
	fi

# Every case twenty times at its usual length; then all tests once at their full length, the generated
# ones with ten times as many cases.
soak: deps peers
	NETNS_REPEAT=20 $(CARGO) test --profile soak --test netns -- --test-threads=$(SOAK_THREADS)
	NETNS_SOAK=1 PROPTEST_CASES=5000 \
	  $(CARGO) test --profile soak --no-fail-fast -- --include-ignored --test-threads=$(SOAK_THREADS)

# Ends with the bars that were met and those that were missed. The limits count from the build on.
bench: deps
	$(CARGO) bench --benches --no-run
	timeout 6m $(CARGO) bench --bench decode --bench store --bench planner --bench lowering
	timeout 19m $(CARGO) bench --bench scale
	timeout 10m $(CARGO) bench --bench relay

# As root. Eight minutes, and once as many for the parts and for the build.
bench-peers: deps
	tests/cluster/build-peers etcd kube-apiserver kube-proxy
	$(CARGO) bench --bench peers --no-run
	timeout 20m $(CARGO) bench --bench peers

# Advisories are left out: they need a database from the network at the moment of the check, and
# would turn an unchanged tree red overnight. `cargo deny check advisories` asks for them.
lint: deps deny
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || {
	  echo 'rustfmt or clippy is missing: rustup component add rustfmt clippy' >&2; exit 1; }
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) deny --all-features check licenses bans sources

clean:
	$(CARGO) clean
	rm -rf benches/out
