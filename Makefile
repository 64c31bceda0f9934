# Every target is safe to run again. Those that need root say so.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# sudo may hide the Go that the user has.
GO ?= $(shell command -v go || ls /usr/local/go/bin/go 2>/dev/null || echo go)
export PATH := $(dir $(GO)):$(PATH)
export CGO_ENABLED ?= 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BINARY ?= bin/sidecar
IMAGE ?= bin/image
PLATFORM ?= linux/$(shell $(GO) env GOARCH)
CERTIFICATES ?= /etc/ssl/certs/ca-certificates.crt
PACKAGES ?= bin
# grpcnotrace leaves out a debugging page of gRPC's, and 3 MiB with it.
BUILD := $(GO) build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$(VERSION)"
LINT := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help run build generate check-generate fmt lint test test-guest test-long bench picture image image-context packages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## build, and look at this machine, live (root)
	@./scripts/need-root.sh "make run"
	./bin/sidecar top

picture: build ## record docs/top.svg, the picture in the README (root)
	@./scripts/need-root.sh "make picture"
	@./scripts/picture.sh

build: ## build bin/sidecar, one static binary
	$(BUILD) -o $(BINARY) ./cmd/sidecar

generate: ## rebuild the BPF objects and the generated documentation (clang-19, llvm-19, libbpf-dev)
	@./scripts/packages.sh clang-19 llvm-19 libbpf-dev
	$(GO) generate ./...
	$(GO) run ./internal/gendocs docs

check-generate: generate ## fail if what is generated is not what is committed
	git diff --exit-code
	! git ls-files --others --exclude-standard | grep .

fmt: ## format the code
	$(GO) fmt ./...

lint: ## check the code, and the doors between its packages
	$(LINT) run ./...
	$(LINT) run --build-tags matrix,guest,host,docker ./...
	cd deploy && $(LINT) run ./...

test: ## all tests but the long ones: units, this kernel, the kernel matrix, a real Collector (root)
	@./scripts/need-root.sh "make test"
	@./scripts/test.sh

test-guest: ## installation, service, container and packages, in QEMU with systemd and Docker; half an hour (root)
	@./scripts/need-root.sh "make test-guest"
	@./scripts/packages.sh ca-certificates qemu-system-x86 mmdebstrap e2fsprogs
	SIDECAR_VM_TIMEOUT=2400 $(GO) test -tags guest -count=1 -timeout 65m -v ./e2e/guest

test-long: ## fuzzing, storms and soaks; about an hour (root)
	@./scripts/need-root.sh "make test-long"
	@./scripts/test-long.sh

bench: build ## measure, and write docs/benchmarks.md; ONLY=REGEXP prints the tables of that title (root)
	@./scripts/need-root.sh "make bench"
	@./scripts/bench.sh $(if $(ONLY),-only '$(ONLY)')

image: image-context ## build the container image sidecar:latest; PLATFORM=linux/arm64 for another machine's (docker)
	docker build --platform $(PLATFORM) --build-arg VERSION=$(VERSION) -f docker/Dockerfile \
		-t sidecar:$(VERSION) -t sidecar:latest $(IMAGE)

image-context: ## write what the image is built from to bin/image
	@[ -r $(CERTIFICATES) ] || { echo "no $(CERTIFICATES): install ca-certificates, or name another file: CERTIFICATES=FILE"; exit 1; }
	mkdir -p $(IMAGE)
	$(MAKE) build BINARY=$(IMAGE)/sidecar GOOS=linux GOARCH=$(notdir $(PLATFORM))
	$(GO) run ./internal/imageroot $(IMAGE)/sidecar $(CERTIFICATES) >$(IMAGE)/root.tar
	rm $(IMAGE)/sidecar

packages: ## build the .deb and .rpm packages into bin, for amd64 and arm64
	./deploy/packages/build.sh $(PACKAGES) $(VERSION)

clean: ## remove what was built
	rm -rf bin
