# `make` alone prints the targets.
.DEFAULT_GOAL := help
# Every target is a step of its own; the two CPUs that a run may claim are
# already in use.
.NOTPARALLEL:

GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BIN := bin/lxcmatrix
# Arguments for `make matrix`, as in: make matrix ARGS='--only debian/13'
ARGS ?=

# How long, or with a trailing x how often, `make fuzz` tries each target, and a
# pattern of those that it tries, as: make fuzz FUZZ=provisioner/fix:FuzzGate
FUZZTIME ?= 1m
FUZZ ?= .
# What `make test` tries: those that need little compiled. It counts tries, as a
# fuzzer that is ended by the clock may call that a failure of its target.
FUZZ_QUICKLY := ^\./matrix|^\./provisioner/(debian|diagnose|hygiene|cell)

# Releases that the integration tests build and run; each takes minutes once.
RELEASES ?= kubeadm@1.34

GOLANGCI_VERSION := v2.15.0
ACTIONLINT_VERSION := v1.7.12
GOVULNCHECK_VERSION := v1.7.0
# The newest of which all modules can be had from Go's proxy.
GORELEASER_VERSION := v2.16.0
MINISIGN_VERSION := v0.3.0
# Outside the work tree, so that a fresh clone need not build them again.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lxcmatrix/tools
GOLANGCI := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint
ACTIONLINT := $(TOOLS)/actionlint-$(ACTIONLINT_VERSION)/actionlint

GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck
GORELEASER := $(TOOLS)/goreleaser-$(GORELEASER_VERSION)/goreleaser
MINISIGN := $(TOOLS)/minisign-$(MINISIGN_VERSION)/minisign

# The packages whose tests need root, Incus or a build of Kubernetes; those
# tests carry the build tag integration. They share one machine and one
# daemon, so they run one after the other.
# Quick ones come first.
INTEGRATION := \
	./reports/html \
	./provisioner/hygiene \
	./provisioner/image \
	./provisioner/host \
	./provisioner/host/qemu \
	./provisioner/incus \
	./fixtures/containers \
	./provisioner/service \
	./provisioner/artifact \
	./provisioner/distro/contract \
	./provisioner/export \
	./suites/compat \
	./suites/faults \
	./suites/chaos

say = @printf '\n== %s\n' '$(1)'

.PHONY: help
help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nLXCMATRIX_BOOTSTRAP=no refuses to change this machine, and prints what is missing.\n'

.PHONY: matrix
matrix: build ## Set this machine up and run the matrix; ARGS are for `lxcmatrix run`
	$(call say,doctor)
	$(BIN) doctor --fix --for matrix
	$(call say,run)
	$(BIN) run $(ARGS)

.PHONY: test
test: build ## Set this machine up, lint, and run every test, real cells among them
	$(call say,doctor)
	$(BIN) doctor --fix --for test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5000x FUZZ='$(FUZZ_QUICKLY)'
	@$(MAKE) --no-print-directory integration
	@printf '\n== every test passed\n'

.PHONY: lint
lint: $(GOLANGCI) $(ACTIONLINT) ## Lint the code and the workflows
	$(call say,lint)
	$(GOLANGCI) run
	$(ACTIONLINT)

# govulncheck ends with 3 where it found something, and with anything else where
# it could not look: the recipe's own exit code says which.
.PHONY: vuln
vuln: $(GOVULNCHECK) ## Look for known vulnerabilities in what the code calls; Error 3: found, Error 75: could not tell
	$(call say,vulnerabilities)
	@$(GOVULNCHECK) ./...; code=$$?; case $$code in \
	0|3) exit $$code ;; \
	*) echo 'could not tell whether there are known vulnerabilities: see above' >&2; exit 75 ;; \
	esac

# The scripts start the program hundreds of times, which takes ten times as long
# with the race detector. What they start is tested with it by itself.
.PHONY: unit
unit: ## Run the unit tests with the race detector
	$(call say,unit tests)
	CGO_ENABLED=1 $(GO) test -race -timeout 15m $$($(GO) list ./... | grep -v '/cmd/lxcmatrix$$')
	$(GO) test -timeout 15m ./cmd/lxcmatrix

# A target that finds something leaves it in its package's testdata/fuzz, where
# every `go test` tries it again.
.PHONY: fuzz
fuzz: ## Fuzz everything that reads input, FUZZTIME each; FUZZ picks targets
	$(call say,fuzz tests of $(FUZZTIME) each)
	@targets=$$(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' . | sed 's|/[^/]*:func |:|' | grep -E '$(FUZZ)' | sort); \
	[ -n "$$targets" ] || { echo "no fuzz target matches FUZZ=$(FUZZ)" >&2; exit 1; }; \
	printf '%s\n' "$$targets" | while IFS=: read -r package target; do \
		echo "-- $$package $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(FUZZTIME)' "$$package" </dev/null || exit 1; \
	done

.PHONY: integration
integration: ## Run the tests that need root, Incus and a Kubernetes, real cells among them
	$(call say,integration tests)
	@for f in $$(grep -rl --include='*_test.go' '^//go:build integration' .); do \
		case ' $(strip $(INTEGRATION)) ' in \
		*" $$(dirname "$$f") "*) ;; \
		*) echo "$$f holds integration tests, and INTEGRATION in the Makefile does not name its package" >&2; exit 1 ;; \
		esac; \
	done
	LXCMATRIX_TEST_RELEASES='$(RELEASES)' $(GO) test -tags integration -count=1 -p 1 -timeout 75m -v $(INTEGRATION)

.PHONY: faults
faults: build ## Break a cluster in every known way, and see each fault caught
	$(call say,doctor)
	$(BIN) doctor --fix --for matrix
	$(call say,faults)
	LXCMATRIX_TEST_FAULTS=all $(GO) test -tags integration -count=1 -timeout 60m -v -run TestFaults ./suites/faults

# How many processes of simulated and of real runs are killed, and what the
# moments of the latter are drawn by.
KILLS ?= 2000
KILLS_REAL ?= 100
SEED ?= 1

.PHONY: chaos
chaos: build ## Kill simulated runs KILLS and real ones KILLS_REAL times at random, and see that nothing is lost
	$(call say,$(KILLS) kills of simulated runs)
	LXCMATRIX_TEST_KILLS=$(KILLS) $(GO) test -count=1 -timeout 4h -v -run TestKilled ./provisioner/engine
	$(call say,doctor)
	$(BIN) doctor --fix --for matrix
	$(call say,$(KILLS_REAL) kills of real runs)
	LXCMATRIX_TEST_KILLS_REAL=$(KILLS_REAL) LXCMATRIX_TEST_SEED=$(SEED) $(GO) test -tags integration -count=1 -timeout 4h -v -run TestKilled ./suites/chaos

# LXCMATRIX_BENCH_PAIRS says how many pairs of both are measured, five without
# it; one takes about five minutes.
.PHONY: bench
bench: build ## Measure a cell against the same steps done by hand
	$(call say,doctor)
	$(BIN) doctor --fix --for matrix
	$(call say,benchmark)
	$(GO) test -tags bench -count=1 -timeout 60m -v ./suites/bench

.PHONY: build
build: ## Build bin/lxcmatrix
	$(call say,build $(BIN) $(VERSION))
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/lxcmatrix

.PHONY: release-snapshot
release-snapshot: $(GORELEASER) $(MINISIGN) ## Build what a release is made of, twice, and hold both to be the same
	$(call say,release)
	$(GORELEASER) check
	GORELEASER=$(GORELEASER) MINISIGN=$(MINISIGN) .ci/release-snapshot

# The unit tests hold them to the program, too.
.PHONY: docs
docs: ## Make docs/man and docs/completion; fails where they were stale
	@$(GO) test -run TestHelpIsInManuals ./cmd/lxcmatrix/internal/cli >/dev/null || { \
		$(GO) test -run TestHelpIsInManuals ./cmd/lxcmatrix/internal/cli -update && \
		echo 'docs/man and docs/completion were stale, and are made anew' >&2; exit 1; }

.PHONY: doctor
doctor: build ## Examine this machine; changes nothing
	$(BIN) doctor

.PHONY: clean
clean: ## Remove what was built here; runs and caches stay
	rm -rf bin dist

$(GOLANGCI):
	$(call say,build golangci-lint $(GOLANGCI_VERSION); the first time takes a minute or two)
	GOBIN=$(@D) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

$(ACTIONLINT):
	$(call say,build actionlint $(ACTIONLINT_VERSION))
	GOBIN=$(@D) GOFLAGS= $(GO) install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)

$(GOVULNCHECK):
	$(call say,build govulncheck $(GOVULNCHECK_VERSION))
	GOBIN=$(@D) GOFLAGS= $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

$(GORELEASER):
	$(call say,build goreleaser $(GORELEASER_VERSION); the first time takes minutes)
	GOBIN=$(@D) GOFLAGS= $(GO) install github.com/goreleaser/goreleaser/v2@$(GORELEASER_VERSION)

$(MINISIGN):
	$(call say,build minisign $(MINISIGN_VERSION))
	GOBIN=$(@D) GOFLAGS= $(GO) install aead.dev/minisign/cmd/minisign@$(MINISIGN_VERSION)
