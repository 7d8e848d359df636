# The commands of this project. `make demo` and `make test` are all a newcomer needs.

GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# What ships has no cgo: one static file, the same on every machine. Vet, tests and tools are
# built in the same way, so that they all share what the go command has in its cache, also with
# a clone of the tree somewhere else. The version is that of git describe; -buildvcs would fail
# on a tree of another owner.
export CGO_ENABLED = 0
export GOFLAGS := $(shell $(GO) env GOFLAGS) -trimpath -buildvcs=false
# What staticcheck has found about packages is kept with what the go command has built of them.
export STATICCHECK_CACHE ?= $(shell $(GO) env GOCACHE)/staticcheck

GOBUILD = $(GO) build -ldflags "-s -w -X main.version=$(VERSION)"
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# Where make install puts things; DESTDIR is what packagers set before PREFIX.
PREFIX ?= /usr/local
DESTDIR ?=
SHARE = $(DESTDIR)$(PREFIX)/share
# The date of the manual pages, in seconds since 1970: that of the source, not of the day.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

TESTFLAGS ?=
KILLS ?= 1000
SEEDS ?= 50
CONTEND ?= 1m
FUZZTIME ?= 30s
# Of make torture: how long workers on several hosts fight over a namespace, on each engine.
HAMMER ?= 5m
# Of make torture: operations on images, crashes of images, damaged images, images with
# fast commits.
EXT4OPS ?= 1000000
EXT4CRASHES ?= 20000
EXT4DAMAGED ?= 10000
EXT4FASTCOMMITS ?= 5000
BENCHFLAGS ?=

# go test of one part of the tests, as scripts/gotest.sh describes it.
GOTEST = scripts/gotest.sh run $(GO) test -timeout 30m -exec "'$(CURDIR)/scripts/gotest.sh' exec $(1)" $(TESTFLAGS)

.PHONY: help build man install uninstall demo quickstart test test-unraced test-runsc race lint vet staticcheck servers bench torture torture-home torture-bucket torture-vm torture-ext4 torture-server torture-random fuzz cross clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## bin/vole for this machine
	$(GOBUILD) -o bin/vole ./cmd/vole

man: ## the manual pages, in bin/man
	rm -rf bin/man
	$(GO) run -tags manpages -ldflags "-X main.version=$(VERSION)" ./cmd/vole -dir bin/man -date $(SOURCE_DATE_EPOCH)

# The completions come from the binary, which runs on the machine that builds it.
install: build man ## the binary, its manual pages and completions below $(DESTDIR)$(PREFIX)
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(SHARE)/man/man1" "$(SHARE)/bash-completion/completions" "$(SHARE)/zsh/site-functions" "$(SHARE)/fish/vendor_completions.d"
	install -m 755 bin/vole "$(DESTDIR)$(PREFIX)/bin/vole"
	install -m 644 bin/man/*.1 "$(SHARE)/man/man1/"
	bin/vole completion bash > "$(SHARE)/bash-completion/completions/vole"
	bin/vole completion zsh > "$(SHARE)/zsh/site-functions/_vole"
	bin/vole completion fish > "$(SHARE)/fish/vendor_completions.d/vole.fish"
	chmod 644 "$(SHARE)/bash-completion/completions/vole" "$(SHARE)/zsh/site-functions/_vole" "$(SHARE)/fish/vendor_completions.d/vole.fish"

uninstall: ## remove what make install put there
	rm -f "$(DESTDIR)$(PREFIX)/bin/vole" "$(SHARE)/man/man1/vole.1" "$(SHARE)"/man/man1/vole-*.1 "$(SHARE)/bash-completion/completions/vole" \
		"$(SHARE)/zsh/site-functions/_vole" "$(SHARE)/fish/vendor_completions.d/vole.fish"

demo: ## see the main job done on real files; installs an OCI runtime if there is none
	@bash scripts/demo.sh

quickstart: build ## a server and two hosts that share a volume, in seconds
	@bash scripts/quickstart.sh

test: ## all tests
	$(call GOTEST,all) ./...

# The other tests of the gate, which runs no test twice, and vet by make lint.
test-unraced: ## the tests that make race does not run
	$(call GOTEST,unraced) -count=1 -vet=off $$(scripts/gotest.sh packages unraced)

# Also with gVisor's runtime, which is built, not installed. As root.
test-runsc: ## the tests of sandboxes with runsc beside crun and runc
	bash scripts/setup.sh runsc
	PATH="$(CURDIR)/bin:$$PATH" $(GO) test -count=1 -timeout 30m $(TESTFLAGS) ./sandbox/...

# Needs a C compiler. Never from the cache, which does not know what raced.txt says.
race: ## the tests that scripts/raced.txt names, under the race detector
	CGO_ENABLED=1 $(call GOTEST,raced) -count=1 -vet=off -race $$(scripts/gotest.sh packages raced)

lint: vet staticcheck ## gofmt, go vet and staticcheck, for Linux, macOS and Windows
	@bad=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$bad" ]; then echo "gofmt is needed on:"; echo "$$bad"; exit 1; fi

vet:
	GOOS=linux $(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) vet -tags manpages ./cmd/vole

# For other systems only the packages that differ there. Where there are no sandboxes, opening them
# always fails, which SA4023 would report. Windows has the client alone: what only other systems and
# tests use is not unused.
staticcheck: bin/staticcheck
	GOOS=linux bin/staticcheck ./...
	GOOS=darwin bin/staticcheck -checks inherit,-SA4023 $$(scripts/differs.sh darwin)
	GOOS=windows bin/staticcheck -tests=false -checks inherit,-SA4023,-U1000 $$(scripts/differs.sh windows)

bin/staticcheck: internal/tools/go.mod
	$(GO) -C internal/tools build -o ../../bin/staticcheck honnef.co/go/tools/cmd/staticcheck

servers: ## PostgreSQL and an S3 server for the tests of the bucket backend; installs what is missing
	bash scripts/setup.sh servers

# The bucket backend is measured where the servers can be installed, which is on Linux.
bench: $(if $(filter Linux,$(shell uname -s)),servers) ## speed beside plain calls of the same durability; BENCHFLAGS="-quick" for a short look
	$(GO) run ./internal/testing/bench $(BENCHFLAGS)

torture: torture-random torture-home torture-bucket torture-vm torture-server torture-ext4 ## kill -9 at random instants, many processes and hosts on the same names, images after crashes

# Random operations with seeds that nobody has tried, against a model, on every backend.
torture-random:
	CONFORMANCE_NEW_SEEDS=1 $(GO) test -count=$(SEEDS) -timeout 2h -run 'TestConformance(Disk)?/(Random|Race)' ./drivers/local
	CONFORMANCE_NEW_SEEDS=1 $(GO) test -count=$(SEEDS) -timeout 2h -run 'TestConformance/.*/(Random|Race)' ./drivers/bucket ./drivers/cloud

torture-home:
	$(GO) build -o bin/torture ./internal/testing/torture
	bin/torture -kills $(KILLS) -contend $(CONTEND)

# On SQLite with a directory and on PostgreSQL with an S3 server, against a model.
torture-bucket:
	$(GO) test ./drivers/bucket -run '^TestHammer$$' -count=1 -v -timeout 2h -hammer.time $(HAMMER)
	$(GO) test ./drivers/bucket -run '^TestKill$$' -count=10 -timeout 2h -fault.kills=50
	$(GO) test ./drivers/bucket -run '^(TestLostCommit|TestPostgresStops)$$' -count=1 -timeout 2h -fault.commits=2000 -fault.stops=50

# Servers that are killed, one and one of two; many clients; big files; random requests.
torture-server:
	$(GO) test ./drivers/cloud -run '^(TestKill|TestKillOfTwo|TestCanceled|TestCreateOnce)$$' -count=3 -v -timeout 2h -fault.kills=50
	$(GO) test ./drivers/cloud -run '^(TestLoad|TestMemory)$$' -count=1 -v -timeout 1h -load.time=1m -load.big=1024
	$(GO) test ./server -run '^TestRandomRequests$$' -count=1 -v -timeout 1h -requests=200000

# Linux in a virtual machine that is killed while it writes. Installs QEMU; amd64 only.
torture-vm:
	bash scripts/setup.sh vm
	VOLE_MICROVM=$(CURDIR)/bin/microvm $(GO) test ./cmd/vole -run '^TestMicroVM$$' -count=1 -v -timeout 20m

# Judged by Linux and e2fsck, so it takes root. Hours.
torture-ext4:
	$(GO) test -count=1 -timeout 12h -v -run 'TestRandom|TestCrash|Mutat|TestReadMatrix|TestReplay' ./ext4 \
		-random.ops $(EXT4OPS) -crash.states $(EXT4CRASHES) -ext4.mutations $(EXT4DAMAGED) \
		-fastcommit.seeds $(EXT4FASTCOMMITS)
	$(GO) test -count=1 -timeout 1h -run 'TestFormatHuge' ./ext4 -format.huge
	$(GO) test -count=1 -timeout 1h ./internal/testing/ext4oracle -oracle.all
	$(GO) test -count=1 -timeout 1h -run 'TestAgreesWithE2fsck' ./ext4 -agree.all

fuzz: ## every fuzz target, FUZZTIME each
	@GO="$(GO)" bash scripts/fuzz.sh $(FUZZTIME)

cross: ## the binary for every platform, in bin/
	@for p in $(PLATFORMS); do \
		echo "build $$p"; \
		case $$p in windows/*) exe=.exe;; *) exe=;; esac; \
		GOOS=$${p%/*} GOARCH=$${p#*/} $(GOBUILD) -o bin/vole-$${p%/*}-$${p#*/}$$exe ./cmd/vole || exit 1; \
	done

clean: ## remove what was built
	rm -rf bin
