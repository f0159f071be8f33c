# The only entry point: `make` lists what there is. CI runs .ci/run, which
# installs what is missing and then makes the targets of `ci`.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tools that `go run` fetches, by version.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# The black-box tests beside this repository. CONFORMANCE_SKIP leaves out tests,
# as TestName:feature, of what is not built yet.
CONFORMANCE      ?= ../shared/conformance
CONFORMANCE_SKIP := TestSensitiveSurfaces:connections
CONFORMANCE_RUNS ?= 1

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
STATUS   ?= $(shell test -z "$$(git status --porcelain 2>/dev/null)" && echo Clean || echo Modified)
LDFLAGS  := -s -w -X main.buildVersion=$(VERSION) -X main.buildRevision=$(REVISION) -X main.buildStatus=$(STATUS)

# Flags of go test for make test. With -tags=required nothing may be skipped for
# what the machine lacks.
TESTFLAGS ?=
FUZZTIME  ?= 20s
BENCHTIME ?= 1s

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | sort | awk -F '\t' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: build
build: ## build bin/ztunnel, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ztunnel ./cmd/ztunnel

.PHONY: cross
cross: ## compile for the other architecture
	CGO_ENABLED=0 GOARCH=arm64 go build -trimpath -o /dev/null ./cmd/ztunnel

.PHONY: test
test: ## vet, all tests (as root with network namespaces), alert rules
	go vet ./...
	@if [ "$$(id -u)" = 0 ]; then go test -count=1 $(TESTFLAGS) ./...; exit 0; fi; \
	mkdir -p bin; \
	go test -count=1 $(TESTFLAGS) -v ./... >bin/test.log || { grep -vE '^ *(=== |--- PASS)' bin/test.log; exit 1; }; \
	grep '^ok' bin/test.log; \
	echo "Not root: left out$$(awk '/^ *--- SKIP/ { printf " %s", $$3 }' bin/test.log)."
	@$(MAKE) --no-print-directory alerts-test

.PHONY: race
race: ## all tests under the race detector
	CGO_ENABLED=1 go test -race -count=1 ./...

.PHONY: netns
netns: ## all tests as root; fails if any was skipped
	@[ "$$(id -u)" = 0 ] || { echo "make netns needs root"; exit 1; }
	@go test -count=1 -v ./... | awk ' \
		/^ *--- SKIP/ { skipped++; print } \
		/^(ok|FAIL|panic)|--- FAIL/ { print } \
		END { if (skipped) { print skipped " tests were skipped"; exit 1 } }'

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME
	@go list ./... | while read -r package; do \
		{ go test -list '^Fuzz' "$$package" | grep '^Fuzz' || true; } | while read -r target; do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null; \
		done; \
	done

.PHONY: bench
bench: ## every benchmark for BENCHTIME
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

.PHONY: lint
lint: ## all linters
	go run $(GOLANGCI_LINT) run ./...

.PHONY: fmt
fmt: ## format all sources
	go run $(GOLANGCI_LINT) fmt ./...

.PHONY: gen
gen: ## generate code from the .proto files (needs protoc)
	bash proxy/api/generate.sh

.PHONY: gen-check
gen-check: gen ## fail if generated code is not current
	git diff --exit-code -- proxy/api

.PHONY: golden
golden: ## rewrite golden files and the table in README.md; review the difference
	@grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n 1 dirname | sort -u | while read -r dir; do go test -count=1 "$$dir" -update; done

.PHONY: dashboards
dashboards: ## rewrite the dashboards' JSON from their sources
	go test -count=1 ./dashboards -update

.PHONY: alerts-test
alerts-test: ## check and test alert rules and the queries of dashboards (needs promtool)
	@command -v promtool >/dev/null || { echo "make alerts-test needs promtool (Debian package prometheus)"; exit 1; }
	promtool check rules alerts/ztunnel.yaml
	promtool test rules alerts/ztunnel_test.yaml
	go test -count=1 -tags=required ./alerts ./dashboards/...

# The list as an argument of go test.
conformance_names = $(foreach entry,$(CONFORMANCE_SKIP),^$(subst /,$$/^,$(firstword $(subst :, ,$(entry))))$$)
empty :=
conformance_skip  = $(if $(conformance_names),-skip '$(subst $(empty) $(empty),|,$(strip $(conformance_names)))')

.PHONY: conformance
conformance: ## black-box tests of the binary in both modes, then dedicated by a local file (needs root)
	@if [ ! -d '$(CONFORMANCE)' ]; then echo "There are no conformance tests at $(CONFORMANCE); none were run."; exit 0; fi; \
	$(MAKE) --no-print-directory build; \
	for entry in $(CONFORMANCE_SKIP); do echo "left out until $${entry#*:} is built: $${entry%%:*}"; done; \
	cd '$(CONFORMANCE)' && export ZTUNNEL='$(CURDIR)/bin/ztunnel' && \
	go test -count=$(CONFORMANCE_RUNS) -timeout 60m $(conformance_skip) ./cases/... && \
	ZTUNNEL_MODE=dedicated go test -count=$(CONFORMANCE_RUNS) -timeout 60m $(conformance_skip) ./cases/...

.PHONY: demo
demo: ## the whole product on one machine; KEEP=1 stays up
	go run ./loadtest/cmd/mesh $(if $(KEEP),-keep)

.PHONY: mesh
mesh: ## two nodes and six pods on one machine, to explore until Ctrl-C
	go run ./loadtest/cmd/mesh -up

# An Envoy to use instead of the one that is installed below bin.
ENVOY ?=

.PHONY: interop
interop: ## waypoint and east-west gateway with a real Envoy (needs root)
	@envoy='$(ENVOY)'; [ -n "$$envoy" ] || envoy="$$(bash loadtest/interop/envoy.sh bin/envoy)"; \
	go run ./loadtest/cmd/interop -envoy "$$envoy"

.PHONY: nightly
nightly: ## long fuzzing, race detector, benchmarks, conformance three times
	$(MAKE) fuzz FUZZTIME=10m
	$(MAKE) race
	$(MAKE) bench BENCHTIME=3s
	$(MAKE) conformance CONFORMANCE_RUNS=3

.PHONY: ci
ci: test lint conformance interop ## what CI runs, where everything is installed
