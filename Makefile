# zbuild. `make help` lists the targets.

# Everything is built with the same flags, so that one build cache serves all.
# containers_image_openpgp drops gpgme; the excluded storage drivers would need
# C libraries that nothing else here needs.
TAGS    := containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# CGO is not an option: without it a rootless process cannot enter its user
# namespace before the Go runtime starts threads.
export CGO_ENABLED := 1
export GOFLAGS     := $(strip $(filter-out -tags=% -buildvcs=%,$(GOFLAGS)) -buildvcs=false -tags=$(TAGS))

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -X main.version=$(VERSION)

TESTFLAGS   ?=
# Cold caches on two cores included, nothing here may take longer.
TESTTIMEOUT ?= 25m
FUZZTIME    ?= 30s
SEQUENCES   ?= 1000

.PHONY: build
build: deps ## Build bin/zbuild (the default)
	go build -ldflags '$(LDFLAGS)' -o bin/zbuild ./cmd/zbuild

.PHONY: deps
deps: ## Install what building zbuild needs and is missing
	@.ci/deps build

.PHONY: demo-deps
demo-deps: ## Install what a build with RUN and `make demo` need
	@.ci/deps build run demo

.PHONY: test-deps
test-deps: ## Install what the tests need
	@.ci/deps build run demo test

.PHONY: demo
demo: demo-deps build ## Bake examples/quickstart and run one of its images
	@.ci/demo

.PHONY: test
test: test-deps vet ## Run all tests, end-to-end builds included
	go test -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./...

.PHONY: vet
vet: ## Run go vet
	go vet ./...

.PHONY: cross
cross: ## Compile for macOS and Windows too: only the engine is Linux-only
	GOOS=darwin CGO_ENABLED=0 go vet ./...
	GOOS=windows CGO_ENABLED=0 go build ./...

.PHONY: test-rootless
test-rootless: test-deps build ## Run the demo and the end-to-end tests as an ordinary user
	@.ci/test-rootless

.PHONY: race
race: test-deps ## Run all tests under the race detector
	go test -race -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./...

.PHONY: torture
torture: test-deps ## Kill, starve and disturb real builds for hours; the short form is part of test
	go test -count=1 -timeout 12h -v ./torture -args -long $(TORTUREFLAGS)

.PHONY: lint
lint: ## Run the linters and check the formatting
	go run $(GOLANGCI) run ./...
	cd test && go run $(GOLANGCI) run ./...

.PHONY: fmt
fmt: ## Format the Go code
	go run $(GOLANGCI) fmt ./...
	cd test && go run $(GOLANGCI) fmt ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	@.ci/fuzz $(FUZZTIME)

BENCHFLAGS ?=

.PHONY: bench
bench: bench-bin ## Compare with BuildKit and buildah; writes docs/performance.md and docs/bake-performance.md (an hour, as root)
	cd test && go run ./bench -bin bin $(BENCHFLAGS)
	cd test && go run ./bench -bin bin -bake $(BENCHFLAGS)

.PHONY: bench-bake
bench-bake: bench-bin ## Time bake --print of up to 10,000 targets against buildx; writes docs/bake-performance.md
	cd test && go run ./bench -bin bin -bake $(BENCHFLAGS)

.PHONY: bench-watch
bench-watch: bench-bin ## Time edits that zbuild watch builds against buildx bake; writes docs/watch-performance.md (as root)
	cd test && go run ./bench -bin bin -watch $(BENCHFLAGS)

.PHONY: bench-bin
bench-bin: test-deps
	go build -ldflags '$(LDFLAGS)' -o test/bin/zbuild ./cmd/zbuild
	$(MAKE) -C test tools
	cd test && CGO_ENABLED=0 go build -o bin/fill ./bench/fill

.PHONY: golden
golden: ## Rewrite the golden files of the tests
	go test $$(grep -rlE --include='*_test.go' 'flag\.Bool\("update"' cmd config planner runner internal | xargs -r -n1 dirname | sort -u | sed 's,^,./,') -update

.PHONY: oracle
oracle: ## Compare what zbuild makes of bake's files with what bake does
	cd test && go test -timeout $(TESTTIMEOUT) $(TESTFLAGS) -skip TestBuilds ./bake ./standin

.PHONY: conformance
conformance: test-deps build ## Build what test/conformance and test/bake have with zbuild and with buildkitd, and compare (needs root)
	$(MAKE) -C test tools
	cd test && go test -count=1 -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./buildkitd ./conformance
	cd test && go test -count=1 -timeout $(TESTTIMEOUT) $(TESTFLAGS) -run TestBuilds ./bake

.PHONY: watch-model
watch-model: test-deps ## Compare watching with fresh bakes over SEQUENCES (1000) of random changes
	go test -timeout 5h -run TestModel ./internal/session -sequences $(SEQUENCES)

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin test/bin examples/quickstart/rootfs examples/monorepo/toolchain/rootfs

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
