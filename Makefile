# SPDX-License-Identifier: Apache-2.0
# Lectern's one Makefile: not recursive, objects under build/<variant>/, header dependencies generated.
# Sources are found by folder, so a new file needs no line here. `make help` lists the targets.

VARIANT ?= release
PREFIX  ?= /usr/local
DESTDIR ?=
FILE    ?= data/sample/guide.pdf
Q       ?=
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)

MAKEFLAGS += --no-print-directory
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(JOBS)
endif
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

ARCH := $(shell uname -m)
# Where objects and programs go; another folder keeps two builds of one tree apart.
BUILD ?= build
O    := $(BUILD)/$(VARIANT)

# ---- libraries ------------------------------------------------------------------------------------------
CORE_PKGS   := ncursesw sqlite3 libpcre2-8 libutf8proc libxxhash jansson sentencepiece libarchive
INGEST_PKGS := poppler-glib libgit2 libarchive uchardet libxxhash
pkg_missing  = $(shell for p in $(1); do pkg-config --exists $$p 2>/dev/null || echo $$p; done)
MISSING     := $(strip $(call pkg_missing,$(CORE_PKGS) $(INGEST_PKGS)))
CORE_CFLAGS   := $(shell pkg-config --cflags $(CORE_PKGS) 2>/dev/null)
CORE_LIBS     := $(shell pkg-config --libs $(CORE_PKGS) 2>/dev/null)
INGEST_CFLAGS := $(shell pkg-config --cflags $(INGEST_PKGS) 2>/dev/null)
INGEST_LIBS   := $(shell pkg-config --libs $(INGEST_PKGS) 2>/dev/null)
# Other people's headers are not held to our warnings.
CORE_CFLAGS   := $(patsubst -I%,-isystem %,$(CORE_CFLAGS))
INGEST_CFLAGS := $(patsubst -I%,-isystem %,$(INGEST_CFLAGS))

# Debian and Ubuntu packages that give all of the above, and what the model's download needs.
APT_PKGS := build-essential pkg-config libncurses-dev libsqlite3-dev libpcre2-dev libutf8proc-dev \
	libxxhash-dev libjansson-dev libsentencepiece-dev libpoppler-glib-dev libgit2-dev libarchive-dev \
	libuchardet-dev libcmocka-dev python3 python3-pip

# ---- flags ----------------------------------------------------------------------------------------------
WARN   := -Wall -Wextra -Wno-sign-conversion
# In C++ a function named like a struct "shadows" its constructor, so -Wshadow is for C alone.
WARN_C := -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla
OPT_release := -O2 -g -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
OPT_debug   := -O0 -g3
SAN_asan    := -fsanitize=address,undefined -fno-sanitize-recover=undefined
OPT_asan    := -O1 -g $(SAN_asan) -fno-omit-frame-pointer
SAN_tsan    := -fsanitize=thread
OPT_tsan    := -O1 -g $(SAN_tsan)
ifeq ($(origin OPT_$(VARIANT)),undefined)
$(error VARIANT is one of release, debug, asan, tsan)
endif

CPPFLAGS_ALL := -D_GNU_SOURCE -I. -MMD -MP
# -ffp-contract=off: a fused product exists only where the source says fma, so results do not hang on the compiler.
CODE    := -ffp-contract=off $(OPT_$(VARIANT)) $(WARN)
STD_C   := -std=c11 $(CODE) $(WARN_C)
STD_CXX := -std=c++17 $(CODE)
# Only tests and CI make warnings fatal: a newer compiler must not stop a user's build.
ifeq ($(WERROR),1)
STD_C   += -Werror
STD_CXX += -Werror
endif
LDFLAGS_ALL := $(SAN_$(VARIANT)) -Wl,-z,relro,-z,now -Wl,--as-needed

# A file whose name ends in an instruction set is compiled for it; who calls it has asked the processor first.
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni -mavx512bf16
isa_flags = $(if $(filter %_avx2.c,$1),$(ISA_avx2))$(if $(filter %_avx512.c,$1),$(ISA_avx512))$(if \
	$(filter %_avx512vnni.c,$1),$(ISA_avx512vnni))
ISA_FILES := %_avx2.c %_avx512.c %_avx512vnni.c

# ---- CUDA -----------------------------------------------------------------------------------------------
# With nvcc here, liblectern_cuda.so is made too; without it everything else is. NVCC= turns it off. One
# library for every VARIANT: code for sm_80, for sm_90a, and PTX for what comes later.
CUDA_HOME ?= /usr/local/cuda
ifeq ($(origin NVCC),undefined)
NVCC := $(or $(shell command -v nvcc 2>/dev/null),$(wildcard $(CUDA_HOME)/bin/nvcc))
endif
CUDA_GEN  ?= -gencode arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_90a,code=sm_90a
comma     := ,
NVFLAGS   := -std=c++17 -O3 -lineinfo -I. $(CUDA_GEN) -Wno-deprecated-gpu-targets \
	-Xcompiler -fPIC$(comma)-fvisibility=hidden$(comma)-fno-exceptions$(comma)-fno-rtti \
	-Xcompiler -ffp-contract=off$(comma)-Wall$(comma)-Wextra$(comma)-Wno-unused-parameter$(comma)-Wno-missing-field-initializers \
	-Xptxas -v -Xfatbin -compress-all
ifeq ($(WERROR),1)
NVFLAGS   += -Werror all-warnings
endif
U := $(BUILD)/cuda
CUDA_SRC := $(sort $(wildcard kernels/cuda/*.cu))
# What the library shares with the program, compiled once more as code that may lie anywhere.
CUDA_C_SRC := engine/base/err.c kernels/page.c kernels/weight.c
CUDA_OBJ := $(patsubst %.cu,$U/%.o,$(CUDA_SRC)) $(patsubst %.c,$U/%.o,$(CUDA_C_SRC))
CUDA_LIB := $(if $(NVCC),$(BUILD)/liblectern_cuda.so)
CUDA_BENCHES := $(patsubst tests/bench/%.cu,$U/bench/%,$(wildcard tests/bench/bench_*.cu))

# ---- sources --------------------------------------------------------------------------------------------
LIB_DIRS := engine engine/base engine/model engine/token engine/duo kernels kernels/ref kernels/cpu \
	kernels/device_host engine/device data/store data/transfer \
	ui ingest app
LIB_SRC  := $(filter-out app/main.c,$(sort $(foreach d,$(LIB_DIRS),$(wildcard $d/*.c $d/*.cc))))
ifneq ($(ARCH),x86_64)
LIB_SRC  := $(filter-out $(ISA_FILES),$(LIB_SRC))
endif
# What the ingest child is made of: its own files, the frame format shared with the parent, and the base.
CHILD_SRC  := $(sort $(wildcard engine/base/*.c ingest/*.c))
WORKER_SRC := $(sort $(wildcard ingest/worker/*.c ingest/worker/*.cc))
WORKER_MAIN := $(if $(WORKER_SRC),$(shell grep -l '^int main' $(WORKER_SRC)))
WORKER_LIB_SRC := $(filter-out $(WORKER_MAIN),$(WORKER_SRC))
SUPPORT_SRC := $(sort $(wildcard tests/support/*.c))
TEST_SRC   := $(sort $(wildcard tests/unit/test_*.c))
BENCH_SRC  := $(sort $(wildcard tests/bench/bench_*.c))
# Programs that need the real model or the whole program are too slow for the sanitizers.
ifneq ($(filter asan tsan,$(VARIANT)),)
TEST_SRC   := $(filter-out tests/unit/test_real_%.c tests/unit/test_e2e_%.c,$(TEST_SRC))
endif

objects = $(patsubst %,$(O)/%.o,$(basename $(1)))
LIB     := $(O)/liblectern.a
CHILD   := $(O)/libchild.a
# What tests share; a test gets what it asks for, so that those of the devices need few libraries elsewhere.
SUPPORT := $(O)/libsupport.a
WORKER_OBJ  := $(call objects,$(WORKER_SRC))
WORKER_LIB_OBJ := $(call objects,$(WORKER_LIB_SRC))
SUPPORT_OBJ := $(call objects,$(SUPPORT_SRC))
TESTS   := $(patsubst tests/unit/%.c,$(O)/tests/%,$(TEST_SRC))
BENCHES := $(patsubst tests/bench/%.c,$(O)/bench/%,$(BENCH_SRC))
ALL_OBJ := $(call objects,$(LIB_SRC) app/main.c $(WORKER_SRC) $(SUPPORT_SRC) $(TEST_SRC) $(BENCH_SRC) tests/unit/spm_trainer.cc)

# ---- targets --------------------------------------------------------------------------------------------
.PHONY: all lectern worker run test tests test-asan install uninstall deps model bench format check-format \
	check-layers cuda cuda-check cuda-bench clean help packages FORCE

## all: build/lectern and build/lectern-ingest; with nvcc also build/liblectern_cuda.so
all: lectern worker $(CUDA_LIB)
lectern: $(O)/lectern
	@ln -sfn $(VARIANT)/lectern $(BUILD)/lectern
worker: $(O)/lectern-ingest
	@ln -sfn $(VARIANT)/lectern-ingest $(BUILD)/lectern-ingest

# The recipes that need packages installed first run the build in a sub-make, which asks pkg-config again.
# $(value ...) keeps a question's own dollar signs out of make's hands.
export BUILD
export LECTERN_RUN_FILE := $(value FILE)
export LECTERN_RUN_Q := $(value Q)
## run: install what is missing, build, fetch the model, open FILE=...; with Q="..." or no terminal: answer on stdout
run:
	@$(MAKE) deps >&2
	@$(MAKE) all >&2
	@$(MAKE) model >&2
	@if [ -z "$$LECTERN_RUN_Q" ] && [ -t 0 ] && [ -t 1 ]; then exec $(BUILD)/lectern "$$LECTERN_RUN_FILE"; fi; \
	if [ -z "$$LECTERN_RUN_Q" ]; then \
		echo 'make run: there is no terminal here; ask on the command line: make run Q="your question"' >&2; \
		exit 2; \
	fi; \
	exec $(BUILD)/lectern ask "$$LECTERN_RUN_FILE" "$$LECTERN_RUN_Q"

## test: install what is missing and run every test, also under the sanitizers; FILTER=word picks some
test:
	@$(MAKE) deps
	@$(MAKE) WERROR=1 all tests
	@$(MAKE) WERROR=1 VARIANT=asan tests
	@$(MAKE) model
	@tests/check-layers.sh
	@tests/run.sh $(if $(FILTER),--filter '$(FILTER)') $(BUILD)/release $(BUILD)/asan

## test-asan: build and run the tests under ASan and UBSan alone
test-asan:
	@$(MAKE) WERROR=1 VARIANT=asan tests
	@tests/run.sh $(if $(FILTER),--filter '$(FILTER)') $(BUILD)/asan

# Builds the test programs of this VARIANT, and the child process that some of them start.
tests: $(TESTS) $(if $(WORKER_MAIN),$(O)/lectern-ingest) $(if $(SAN_$(VARIANT)),,$(O)/tests/fault_io.so)

## install: put programs, data and the manual under DESTDIR/PREFIX (/usr/local)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 $(O)/lectern $(O)/lectern-ingest $(DESTDIR)$(PREFIX)/bin/
	$(if $(CUDA_LIB),install -d $(DESTDIR)$(PREFIX)/lib/lectern && \
		install -m 755 $(CUDA_LIB) $(DESTDIR)$(PREFIX)/lib/lectern/)
	$(O)/lectern --man > $(O)/lectern.1
	install -m 644 $(O)/lectern.1 $(DESTDIR)$(PREFIX)/share/man/man1/lectern.1
	$(O)/lectern --completion bash > $(O)/lectern.bash
	install -m 644 $(O)/lectern.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/lectern
	@set -e; for d in sample adapters heads models; do \
		[ -d data/$$d ] || continue; \
		(cd data && find $$d -type f ! -name '*.c' ! -path 'sample/guide/*') | while IFS= read -r f; do \
			mode=644; [ -x "data/$$f" ] && mode=755; \
			install -D -m $$mode "data/$$f" "$(DESTDIR)$(PREFIX)/share/lectern/$$f"; \
		done; \
	done

## uninstall: remove what install put there (documents and sessions stay)
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/lectern $(DESTDIR)$(PREFIX)/bin/lectern-ingest \
		$(DESTDIR)$(PREFIX)/share/man/man1/lectern.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lectern
	rm -rf $(DESTDIR)$(PREFIX)/share/lectern $(DESTDIR)$(PREFIX)/lib/lectern

## deps: install the missing Debian or Ubuntu packages (with sudo when not root)
deps:
	@if ! command -v dpkg-query >/dev/null 2>&1; then \
		if [ -n "$(MISSING)" ]; then \
			echo "Lectern needs these libraries, and this system has no apt: $(MISSING)" >&2; exit 1; \
		fi; exit 0; \
	fi; \
	missing=; for p in $(APT_PKGS); do \
		case "$$(dpkg-query -W -f='$${Status}' $$p 2>/dev/null)" in *" installed") ;; \
		*) missing="$$missing $$p" ;; esac; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	echo "Lectern needs these Debian packages:$$missing"; \
	echo "Installing them with apt-get."; \
	sudo=; if [ "$$(id -u)" != 0 ]; then \
		command -v sudo >/dev/null || { echo "Not root and no sudo: install them by hand." >&2; exit 1; }; \
		sudo=sudo; \
	fi; \
	$$sudo apt-get update -q && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing

## model: fetch the default model once (92 MB) and check its hash
model:
	@data/models/fetch.sh

# Those of the engine need the default model, its adapter and a text.
BENCH_MODEL   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lectern/models/SmolLM2-135M-Instruct.Q4_1.gguf
BENCH_ADAPTER ?= data/adapters/SmolLM2-135M-Instruct-128k
## bench: build and run the benchmarks: kernels, engine, what saving costs, the store beside the disk
bench: $(BENCHES) lectern
	@set -e; echo '== kernels'; $(O)/bench/bench_kernels; \
	echo '== engine'; $(O)/bench/bench_engine $(BENCH_MODEL) $(BENCH_ADAPTER); \
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; cat data/sample/guide/*.md > $$work/guide.txt; \
	echo '== saving'; $(O)/bench/bench_saving $(BENCH_MODEL) $(BENCH_ADAPTER) $$work/guide.txt $$work/data; \
	echo '== store'; $(O)/lectern bench store --data-dir $$work/data

## cuda: build/liblectern_cuda.so alone
cuda: $(if $(NVCC),$(CUDA_LIB),no-nvcc)
## cuda-bench: the benchmarks that call the card's kernels, under build/cuda/bench
cuda-bench: $(if $(NVCC),$(CUDA_BENCHES),no-nvcc)
## cuda-check: fail when a kernel of the library spills registers or lost its tensor core instructions
cuda-check: $(if $(NVCC),$(CUDA_LIB),no-nvcc)
	@tests/cuda-check.sh $U
.PHONY: no-nvcc
no-nvcc:
	@echo 'there is no nvcc here: set CUDA_HOME or NVCC' >&2; exit 1

FORMATTED = $(shell git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.cuh')
## format: lay out every source file by .clang-format
format:
	@clang-format -i $(FORMATTED)
## check-format: fail when a source file is laid out otherwise
check-format:
	@clang-format --dry-run --Werror $(FORMATTED)

## check-layers: hold every include against the table in tests/check-layers.sh
check-layers:
	@tests/check-layers.sh

## clean: remove build/
clean:
	rm -rf $(BUILD)

## help: this list
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' Makefile | while IFS='	' read -r t d; do printf '  %-14s %s\n' "$$t" "$$d"; done
	@echo '  variables      VARIANT=release|debug|asan|tsan WERROR=1 BUILD=folder PREFIX= DESTDIR= FILE= Q= FILTER= JOBS='

# ---- rules ----------------------------------------------------------------------------------------------
# One clear line instead of a page of missing headers.
packages:
	@if [ -n "$(MISSING)" ]; then echo "missing libraries: $(MISSING); run: make deps" >&2; exit 1; fi

# Rewritten only when their content changes: an object follows its flags.
$(O)/flags: FORCE
	@mkdir -p $(@D); printf '%s\n' '$(CC) $(CXX) $(filter-out -Werror,$(STD_C) $(STD_CXX)) $(CORE_CFLAGS) $(CFLAGS) $(CXXFLAGS)' > $@.new; \
	if cmp -s $@.new $@; then rm -f $@.new; else mv $@.new $@; fi
$(O)/prefix: FORCE
	@mkdir -p $(@D); printf '%s\n' '$(PREFIX)' > $@.new; \
	if cmp -s $@.new $@; then rm -f $@.new; else mv $@.new $@; fi

# The commit that a bench's rows name.
$(O)/commit: FORCE
	@mkdir -p $(@D); { git rev-parse --short=10 HEAD 2>/dev/null || echo unknown; } > $@.new; \
	if cmp -s $@.new $@; then rm -f $@.new; else mv $@.new $@; fi
$(O)/app/bench_cuda_report.o: CPPFLAGS_ALL += -DLECTERN_COMMIT='"$(shell git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)"'
$(O)/app/bench_cuda_report.o: $(O)/commit

$(O)/app/%.o: CPPFLAGS_ALL += -DLECTERN_DATA='"$(PREFIX)/share/lectern"'
$(call objects,$(wildcard app/*.c)): $(O)/prefix
$(O)/ingest/worker/%.o: CORE_CFLAGS += $(INGEST_CFLAGS)

$(O)/%.o: %.c $(O)/flags | packages
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CPPFLAGS_ALL) $(CORE_CFLAGS) $(STD_C) $(call isa_flags,$<) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
$(O)/%.o: %.cc $(O)/flags | packages
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	@$(CXX) $(CPPFLAGS_ALL) $(CORE_CFLAGS) $(STD_CXX) $(CPPFLAGS) $(CXXFLAGS) -c -o $@ $<

$(LIB): $(call objects,$(LIB_SRC))
	@rm -f $@ && $(AR) rcs $@ $^
$(CHILD): $(call objects,$(CHILD_SRC))
	@rm -f $@ && $(AR) rcs $@ $^
$(SUPPORT): $(SUPPORT_OBJ)
	@rm -f $@ && $(AR) rcs $@ $^

LINK = $(CXX) $(LDFLAGS_ALL) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^)
$(O)/lectern: $(O)/app/main.o $(LIB)
	@echo "  LINK  $@"
	@$(LINK) $(CORE_LIBS) -lpthread -lm -ldl
$(O)/lectern-ingest: $(WORKER_OBJ) $(CHILD)
	@echo "  LINK  $@"
	@$(LINK) $(INGEST_LIBS) -lpthread -lm

# A test of the ingest child's insides gets its objects too.
$(filter $(O)/tests/test_ingest_worker_%,$(TESTS)): TEST_LIBS := $(INGEST_LIBS)
$(filter $(O)/tests/test_ingest_worker_%,$(TESTS)): $(WORKER_LIB_OBJ)
# The test of the SentencePiece wrapper trains its own model.
$(O)/tests/test_token_spm: TEST_LIBS := -lsentencepiece_train
$(O)/tests/test_token_spm: $(O)/tests/unit/spm_trainer.o
$(TESTS): $(O)/tests/%: $(O)/tests/unit/%.o $(SUPPORT) $(LIB)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(LINK) $(CORE_LIBS) $(TEST_LIBS) -lcmocka -lpthread -lm -ldl
# What makes calls to the system fail is loaded before a program, never linked into one.
$(O)/tests/fault_io.so: tests/support/fault_io/fault_io.c tests/support/fault_io/fault_class.h
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) -D_GNU_SOURCE -I. $(STD_C) -U_FORTIFY_SOURCE -fPIC -fvisibility=hidden -shared -o $@ $< -ldl
$(BENCHES): $(O)/bench/%: $(O)/tests/bench/%.o $(SUPPORT) $(LIB)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(LINK) $(CORE_LIBS) -lcmocka -lpthread -lm -ldl

# ---- the card's library: what ptxas says of each kernel is kept beside its object, for cuda-check ----------
$U/flags: FORCE
	@mkdir -p $(@D); printf '%s\n' '$(NVCC) $(filter-out -Werror all-warnings,$(NVFLAGS))' > $@.new; \
	if cmp -s $@.new $@; then rm -f $@.new; else mv $@.new $@; fi
$U/%.o: %.cu $U/flags
	@mkdir -p $(@D)
	@echo "  NVCC  $<"
	@$(NVCC) $(NVFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $< > $(@:.o=.ptxas) 2>&1 || \
		{ grep -v 'ptxas info\|bytes stack frame\|Compiling entry' $(@:.o=.ptxas) >&2; exit 1; }; \
	grep -A3 -i warning $(@:.o=.ptxas) >&2; true
$U/%.o: %.c $U/flags
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS_ALL) -std=c11 $(OPT_release) -ffp-contract=off $(WARN) $(WARN_C) -fPIC -fvisibility=hidden \
		-ffunction-sections -c -o $@ $<
$(BUILD)/liblectern_cuda.so: $(CUDA_OBJ)
	@echo "  LINK  $@"
	@$(NVCC) -shared -cudart static -Wno-deprecated-gpu-targets $(CUDA_GEN) -o $@ $^ -lcublasLt -lpthread -ldl \
		-Xlinker --no-undefined,--gc-sections,--as-needed,--exclude-libs=ALL,-z,relro,-rpath,$(CUDA_HOME)/lib64
$(CUDA_BENCHES): $U/bench/%: $U/tests/bench/%.o $(CUDA_OBJ)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(NVCC) -cudart static -Wno-deprecated-gpu-targets $(CUDA_GEN) -o $@ $^ -lcublasLt -lpthread -ldl \
		-Xlinker --as-needed,-rpath,$(CUDA_HOME)/lib64

-include $(ALL_OBJ:.o=.d) $(CUDA_OBJ:.o=.d) $(patsubst $U/bench/%,$U/tests/bench/%.d,$(CUDA_BENCHES))
