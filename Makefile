# Every target installs what it needs first (scripts/deps.sh), or says in one line what is missing.

BINARY  := build/bin/migrate
SHIM    := build/bin/containerd-shim-migrate-v1
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X migrate/internal/cli.version=$(VERSION) -X migrate/internal/cli.commit=$(COMMIT)
GO      ?= go

# Packages to test and flags for go test, to run less than everything: make test PKG=./transfer TESTFLAGS='-run Token'
PKG       ?= ./...
TESTFLAGS ?=

# How long torture goes on, and further flags for it: make torture MIGRATIONS=40 TORTUREFLAGS='--cases mapchurn,cow --seed 7'
MIGRATIONS   ?= 500
TORTUREFLAGS ?=

# Engine of the workload matrix (containerd, docker) and generation of Docker (26.1, 28.5, 28.5+shim), rows (names with commas, or how many at
# random; all), how often, further flags: make matrix ENGINE=docker DOCKER=26.1 ROWS=redis,bash REPEAT=20 MATRIXFLAGS='--parallel 1'
ENGINE      ?= containerd
DOCKER      ?=
ROWS        ?=
REPEAT      ?= 1
MATRIXFLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo docker-demo test build install-shim lint fuzz bench torture matrix clean deps root go

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r t d; do printf '  make %-11s %s\n' "$$t" "$$d"; done

demo: root deps build ## move a redis between two hosts on this machine while its client writes (needs root)
	@mkdir -p build/bin && $(GO) build -o build/bin/demo ./scripts/demo
	@build/bin/demo --binary $(BINARY)

docker-demo: root deps build ## the same with Docker 26.1, and with 28.5 and the shim, on every kind of network (needs root)
	@mkdir -p build/bin && $(GO) build -o build/bin/demo ./scripts/demo
	@build/bin/demo --binary $(BINARY) --docker 26.1
	@build/bin/demo --binary $(BINARY) --docker 28.5+shim --shim $(SHIM)

test: root deps lint ## run all tests, with the race detector, two-host tests included (needs root)
	@$(GO) run ./scripts/testsummary -race -count=1 -timeout=40m $(TESTFLAGS) $(PKG)

build: go ## build the program and the shim to build/bin, linked statically
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(SHIM) ./cmd/containerd-shim-migrate-v1

install-shim: root build ## put the shim in the place of containerd's, which Docker from 28 on needs to take in containers on its networks (needs root)
	@install -D -m 755 $(SHIM) $(PREFIX)/bin/containerd-shim-migrate-v1
	@ln -sfn containerd-shim-migrate-v1 $(PREFIX)/bin/containerd-shim-runc-v2
	@echo 'installed: restart containerd, which finds it where $(PREFIX)/bin is before /usr/bin in its PATH (systemctl restart containerd; containers run on)'

lint: go ## check formatting, go vet, staticcheck
	@scripts/lint.sh

fuzz: go ## run each fuzz target for FUZZTIME (default 10m)
	@scripts/fuzz.sh

bench: root deps build ## measure downtime, total time, link use and load beside plain CRIU, ctr, podman and Docker (needs root)
	@$(GO) run ./testbed/cmd/bench

torture: root deps build ## move programs that check their own memory MIGRATIONS times (default 500), comparing every page, with faults (needs root)
	@$(GO) run ./testbed/cmd/torture --binary $(BINARY) --migrations $(MIGRATIONS) $(TORTUREFLAGS)

matrix: root deps build ## move what people run, under load, there and back: ROWS (default all), REPEAT times each, with ENGINE=docker too (needs root)
	@$(GO) run ./testbed/cmd/matrix --binary $(BINARY) --engine '$(ENGINE)' --docker '$(DOCKER)' --rows '$(ROWS)' --repeat $(REPEAT) $(MATRIXFLAGS)

clean: go ## remove build/ and the testbed's cache
	@$(GO) run ./testbed/cmd/testbed clean
	@rm -rf build

deps:
	@scripts/deps.sh

go:
	@command -v $(GO) >/dev/null || { echo 'make: Go is missing: install the version that go.mod names, or a later one' >&2; exit 1; }

root: go
	@[ "$$(id -u)" -eq 0 ] || { echo 'make: this target makes hosts out of namespaces and needs root: run it with sudo' >&2; exit 1; }
