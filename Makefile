# sagemem: what can be done here; `make help` lists it. Everything built goes under build/.
#
#   make demo                             needs a C compiler and make, nothing else
#   make deps test                        the tests, two at a time; `make -j4 test` runs four
#   make test TESTS="heap_test"           one of them
#   make bench-deps bench                 the comparison with other allocators; BENCH_ONLY=pair,forest runs some rows of it
#   make check COMPILERS="gcc-13 clang"   everything, with other compilers
#
# Tests are found by name, a new file needs no line here:
#   tests/*_test.c    cmocka programs that include the implementation
#   tests/public_*.c  cmocka programs that use the public interface only
#   tests/X_test.sh   called with BUILD/X (a program or a directory, if there is one of the name) and the data directory
#   tests/fuzz/*.c    fuzz targets: what is given to them may be anything, and must do no harm
#   tests/caught/*.c  programs that must die, built as BUILD/caught/NAME for tests/caught_test.sh
#   tests/fault/*.c   cmocka programs in which system calls of the library fail; the test is called fault-NAME
#   examples/*.c, examples/recipes/*.c  compiled and run; the output is compared if the first comment tells it
# Benchmarks are tests/bench/*.c and *.cpp: see tests/bench/bench.h.
#
# Where everything is slower (sanitizers, Valgrind), SAGEMEM_TEST_SLOW is in the environment: a test may then do less.
# Random tests print their seed; SAGEMEM_SEED in the environment sets another.

BUILD   = build
CFLAGS ?= -O2 -g
SHELL   = /bin/sh

WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-align \
           -Wstrict-prototypes -Wmissing-prototypes -Wvla
WERROR   =
SANITIZE =
RUNNER   =
DATA     = tests/data

COMPILERS = $(foreach c,gcc clang,$(if $(shell command -v $(c) 2>/dev/null),$(c)))
cxx_of    = $(subst gcc,g++,$(subst clang,clang++,$(1)))

CMOCKA_CFLAGS = $(shell pkg-config --cflags cmocka 2>/dev/null)
CMOCKA_LIBS   = $(shell pkg-config --libs cmocka 2>/dev/null || echo -lcmocka)

# HDF5, if programs can be linked with it by these flags. Its headers are the system's: their warnings are not ours.
HDF5        := $(firstword $(foreach p,hdf5 hdf5-serial,$(shell pkg-config --exists $(p) 2>/dev/null && echo $(p))))
HDF5_CFLAGS := $(if $(HDF5),-DSAGEMEM_WITH_HDF5=1 $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(HDF5))))
HDF5_LIBS   := $(if $(HDF5),$(shell pkg-config --libs $(HDF5)))
HDF5        := $(if $(HDF5),$(shell sh tests/can.sh $(CC) $(filter -m%,$(SANITIZE)) $(HDF5_LIBS) && echo $(HDF5)))

# Its packet tables, which the benchmarks compare with, are a library apart.
HDF5_HL     := $(if $(HDF5),$(shell sh tests/can.sh $(CC) $(filter -m%,$(SANITIZE)) $(HDF5_LIBS) -lhdf5_hl && echo -lhdf5_hl))

PROGRAMS := $(sort $(patsubst tests/%.c,%,$(wildcard tests/*_test.c tests/public_*.c)))
PROGRAMS := $(filter-out $(if $(HDF5),,public_hdf5),$(PROGRAMS))
SHELLS   := $(sort $(patsubst tests/%,%,$(wildcard tests/*_test.sh)))
CAUGHT   := $(sort $(patsubst tests/caught/%.c,%,$(wildcard tests/caught/*.c)))
FAULTS   := $(sort $(patsubst tests/fault/%.c,%,$(wildcard tests/fault/*.c)))
EXAMPLES := $(sort $(patsubst examples/%.c,%,$(wildcard examples/*.c)))
RECIPES  := $(sort $(patsubst examples/recipes/%.c,%,$(wildcard examples/recipes/*.c)))
FOREST   := $(sort $(wildcard examples/forest/*.c))
TREES    := $(sort $(wildcard examples/forest_trees/*.c))
REPLAY   := $(sort $(wildcard examples/tools/replay*.c))
GROWTH   := tests/bench/growth.c tests/bench/growth_works.c
BENCH    := $(filter-out $(GROWTH),$(sort $(wildcard tests/bench/*.c tests/bench/*.cpp)))

TESTS            = $(SHELLS) $(PROGRAMS) $(addprefix fault-,$(FAULTS)) $(addprefix example-,$(EXAMPLES)) $(addprefix recipe-,$(RECIPES)) $(if $(FOREST),forest)
TSAN_TESTS       = $(foreach t,$(PROGRAMS),$(if $(findstring thread,$(t))$(findstring exact,$(t)),$(t)))
# Threads are for the thread sanitizer, Valgrind runs one at a time; and of forks it knows the half.
VALGRIND_EXCLUDE = %_threads public_process
VALGRIND_TESTS   = $(filter-out $(VALGRIND_EXCLUDE),$(PROGRAMS) $(addprefix fault-,$(FAULTS)))

RESULTS = $(BUILD)/results
flags   = $(strip $(WARNINGS) $(WERROR) $(CFLAGS) $(SANITIZE) -I. -pthread)
compile = $(CC) $(flags) -MMD -MF $@.d -MT $@
# A program that defines SAGEMEM_IMPLEMENTATION in a file carries the library in it; any other is linked with it.
library = $(if $(shell grep -l '^[^a-z/*]*define  *SAGEMEM_IMPLEMENTATION' $(1) /dev/null),,$(BUILD)/implementation.o)
jobs    = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j2)

.PHONY: help demo tools deps test check picture fuzz soak vital bench-deps bench format clean FORCE
.DEFAULT_GOAL = help

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1 \2/p' Makefile | while read -r target text; do printf '  %-10s %s\n' "$$target" "$$text"; done

demo: $(BUILD)/forest $(BUILD)/forest_trees ## builds and runs the forest example (needs a C compiler and make only)
	@mkdir -p $(BUILD)/demo
	$(BUILD)/forest --scale-factors $(DATA)/millennium.a_list --report brief --output $(BUILD)/demo/millennium $(DATA)/trees_063.0
	$(BUILD)/forest_trees --trees 4000 --halos 100 --output $(BUILD)/demo/trees
	$(BUILD)/forest --threads 2 --scale-factors $(BUILD)/demo/trees/trees.a_list --plot $(BUILD)/demo/mass_function.svg \
	  --output $(BUILD)/demo/galaxies $(BUILD)/demo/trees/trees_063.0
	@echo 'The stellar mass function is in $(BUILD)/demo/mass_function.svg.'

tools: $(BUILD)/sagemem-replay ## builds sagemem-replay, which plays a trace again under other settings
	@echo 'Built: $<'

deps: ## installs what the tests need (Debian, Ubuntu, Fedora, macOS)
	@sh tests/deps.sh

test: ## builds and runs every test (some two minutes on two cores)
	@rm -rf $(RESULTS)
	-+@$(MAKE) --no-print-directory -k $(jobs) $(addprefix run-,$(TESTS))
	@sh tests/summary.sh $(RESULTS) $(TESTS)

check: ## everything: both compilers, all standards, sanitizers, Valgrind, every option, static analysis
	@rm -rf $(BUILD)/check
	-+@TEST_TIMEOUT=900 $(MAKE) --no-print-directory -k $(jobs) $(addprefix check-,$(STAGES))
	@sh tests/summary.sh $(BUILD)/check $(STAGES)

soak: $(BUILD)/fault/kill ## kills a writer of atomic files 10,000 times (a quarter of a minute)
	@SAGEMEM_KILLS=10000 $<

fuzz: ## gives the fuzz targets anything (FUZZ_SECONDS=60 each; with libFuzzer where clang has it)
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-60} CC='$(CC)' sh tests/fuzz.sh $(BUILD)

picture: $(BUILD)/forest ## draws the README's picture of the forest example's memory again
	@mkdir -p $(BUILD)/demo
	$(BUILD)/forest --quiet --snapshots 63 --scale-factors $(DATA)/millennium.a_list --report html:$(BUILD)/demo/memory.html \
	  --output $(BUILD)/demo/picture $(DATA)/trees_063.0
	sed -n '/^<svg id="treemap"/,/^<.svg>/p' $(BUILD)/demo/memory.html | \
	  sed '1s,<svg ,<svg xmlns="http://www.w3.org/2000/svg" ,' > examples/forest/memory.svg

vital: $(BUILD)/vital ## measures and prints the manual's vital statistics
	@$(BUILD)/vital

bench-deps: ## installs the allocators that the benchmarks compare with
	@sh tests/bench/deps.sh '$(CC)' '$(CXX)'
	@rm -f $(BUILD)/bench/peers

# Both retention policies are run to their end; a goal that is missed is no error.
bench: $(BUILD)/bench/compare $(BUILD)/bench/growth $(BUILD)/forest ## measures speed and memory against other allocators, stdio, HDF5 (some minutes; BENCH_QUICK=1, BENCH_ONLY=pair,map)
	@for policy in default keep; do \
	  BENCH_FILES=$${BENCH_FILES:-$(BUILD)/bench} BENCH_FOREST=$(BUILD)/forest BENCH_COMMIT="$$(git describe --always --dirty 2>/dev/null)" \
	    $< $$policy $(BUILD)/bench/$$policy || exit 1; \
	done
	@BENCH_COMMIT="$$(git describe --always --dirty 2>/dev/null)" $(BUILD)/bench/growth $(BUILD)/bench/growth
	@echo 'Figures are in $(BUILD)/bench/default.json, keep.json and growth.json, plots beside them.'

format: ## formats the changed C files (needs clang-format)
	@git ls-files --modified --others --exclude-standard -- '*.c' '*.h' '*.cpp' | \
	  while read -r file; do clang-format -i "$$file" || exit 1; echo "$$file"; done

clean: ## removes everything that was built
	rm -rf $(BUILD)

# -- Building ---------------------------------------------------------------------------------------------

# Other flags or another compiler: everything is built again.
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)/tests $(BUILD)/caught $(BUILD)/fault $(BUILD)/examples $(BUILD)/recipes
	@[ "$$(cat $@ 2>/dev/null)" = '$(CC) $(flags)' ] || echo '$(CC) $(flags)' > $@

$(BUILD)/implementation.o: tests/implementation.c sagemem.h $(BUILD)/flags
	@$(compile) -c -o $@ $<

$(BUILD)/tests/public_%: tests/public_%.c $(BUILD)/implementation.o $(BUILD)/flags
	@$(compile) -Itests $(CMOCKA_CFLAGS) -o $@ $< $(BUILD)/implementation.o $(CMOCKA_LIBS) -lm

$(BUILD)/implementation_hdf5.o: tests/implementation.c sagemem.h $(BUILD)/flags
	@$(compile) $(HDF5_CFLAGS) -c -o $@ $<

$(BUILD)/tests/public_hdf5: tests/public_hdf5.c $(BUILD)/implementation_hdf5.o $(BUILD)/flags
	@$(compile) -Itests $(HDF5_CFLAGS) $(CMOCKA_CFLAGS) -o $@ $< $(BUILD)/implementation_hdf5.o $(CMOCKA_LIBS) $(HDF5_LIBS) -lm

$(BUILD)/tests/%: tests/%.c sagemem.h $(BUILD)/flags
	@$(compile) -Itests $(CMOCKA_CFLAGS) -o $@ $< $(CMOCKA_LIBS) -lm

$(BUILD)/caught/%: tests/caught/%.c $(BUILD)/implementation.o $(BUILD)/flags
	@$(compile) -Itests -o $@ $< $(call library,$<) -lm

# What the library calls of the C library, they define themselves; dlsym finds the original.
$(BUILD)/fault/%: tests/fault/%.c $(BUILD)/implementation.o $(BUILD)/flags
	@$(compile) -Itests $(CMOCKA_CFLAGS) -o $@ $< $(BUILD)/implementation.o $(CMOCKA_LIBS) -ldl

$(BUILD)/examples/%: examples/%.c $(BUILD)/implementation.o $(BUILD)/flags
	@$(compile) -o $@ $< $(call library,$<) -lm

# A recipe compiles as it stands, and is linked with the library that is there: the whole of it each time would take minutes.
$(BUILD)/recipes/%: examples/recipes/%.c $(BUILD)/implementation.o $(BUILD)/flags
	@$(CC) $(flags) -fsyntax-only $<
	@$(compile) -DSAGEMEM_IMPLEMENTED -o $@ $< $(BUILD)/implementation.o -lm

$(BUILD)/forest: $(FOREST) $(wildcard examples/forest/*.h) sagemem.h $(call library,$(FOREST)) $(BUILD)/flags
	@$(if $(FOREST),,echo 'examples/forest has no .c files' >&2; exit 1)
	@$(CC) $(flags) -Iexamples/forest -o $@ $(FOREST) $(call library,$(FOREST)) -lm

# The same with HDF5, which brings libraries of its own along: apart from the one that needs nothing.
$(BUILD)/forest_hdf5: $(FOREST) $(wildcard examples/forest/*.h) sagemem.h $(BUILD)/flags
	@$(CC) $(flags) -DFOREST_HDF5 $(HDF5_CFLAGS) -Iexamples/forest -o $@ $(FOREST) $(HDF5_LIBS) -lm

$(BUILD)/sagemem-replay: $(REPLAY) examples/tools/replay.h $(BUILD)/implementation.o
	@$(CC) $(flags) -Iexamples/tools -o $@ $(REPLAY) $(BUILD)/implementation.o

# It shares the layout of tree files with the program that reads them.
$(BUILD)/forest_trees: $(TREES) $(wildcard examples/forest_trees/*.h) examples/forest/halo.h $(BUILD)/flags
	@$(CC) $(flags) -Iexamples/forest -o $@ $(TREES) -lm

$(BUILD)/vital: tests/vital.c $(BUILD)/implementation.o $(BUILD)/flags
	@$(compile) -O2 -Itests -o $@ $< $(call library,$<) -lm

# Peers that are not installed are left out; which there are is asked once, and again after make bench-deps.
$(BUILD)/bench/peers: tests/bench/peers.sh $(BUILD)/flags
	@mkdir -p $(BUILD)/bench
	@sh $< '$(CC)' '$(CXX)' > $@

$(BUILD)/bench/%.o: tests/bench/%.c $(BUILD)/bench/peers $(BUILD)/flags
	@$(compile) $$(sed -n 1p $(BUILD)/bench/peers) -c -o $@ $<

$(BUILD)/bench/%.o: tests/bench/%.cpp $(BUILD)/bench/peers $(BUILD)/flags
	@$(CXX) $(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(flags)) -MMD -MF $@.d -MT $@ $$(sed -n 1p $(BUILD)/bench/peers) -c -o $@ $<

$(BUILD)/bench/hdf5.o: tests/bench/hdf5.c sagemem.h $(BUILD)/flags
	@mkdir -p $(BUILD)/bench
	@$(compile) $(if $(HDF5_HL),$(HDF5_CFLAGS)) -c -o $@ $<

bench_objects = $(patsubst tests/bench/%,$(BUILD)/bench/%.o,$(basename $(BENCH)))
$(BUILD)/bench/compare: $(bench_objects) $(BUILD)/implementation$(if $(HDF5_HL),_hdf5).o
	@$(CXX) $(SANITIZE) -pthread -o $@ $^ $$(sed -n 2p $(BUILD)/bench/peers) $(if $(HDF5_HL),$(HDF5_LIBS) $(HDF5_HL)) -ldl -lm

bench_parts = $(BUILD)/bench/bench.o $(BUILD)/bench/peers.o
$(BUILD)/bench/growth: $(patsubst tests/bench/%.c,$(BUILD)/bench/%.o,$(GROWTH)) $(bench_parts) $(BUILD)/implementation.o
	@$(CC) $(SANITIZE) -pthread -o $@ $^ -ldl -lm

-include $(wildcard $(BUILD)/*.d $(BUILD)/*/*.d)

# -- Running: one target for each test, so that make -j runs them in parallel -------------------------------

run_programs = $(addprefix run-,$(PROGRAMS))
run_shells   = $(addprefix run-,$(SHELLS))
run_faults   = $(addprefix run-fault-,$(FAULTS))
run_examples = $(addprefix run-example-,$(EXAMPLES))
run_recipes  = $(addprefix run-recipe-,$(RECIPES))
.PHONY: $(run_programs) $(run_shells) $(run_faults) $(run_examples) $(run_recipes) run-forest

$(run_programs): run-%: $(BUILD)/tests/%
	@sh tests/run.sh $(RESULTS) $* $(RUNNER) $<

$(run_shells): run-%: tests/% $(addprefix $(BUILD)/caught/,$(CAUGHT)) $(BUILD)/implementation.o $(if $(FOREST),$(BUILD)/forest $(if $(HDF5),$(BUILD)/forest_hdf5)) $(if $(TREES),$(BUILD)/forest_trees) $(if $(REPLAY),$(BUILD)/sagemem-replay)
	@CC='$(CC)' CXX='$(CXX)' CFLAGS='$(CFLAGS) $(SANITIZE)' BUILD='$(BUILD)' \
	  sh tests/run.sh -s $(RESULTS) $* sh $< $(BUILD)/$(*:_test.sh=) $(DATA)

$(run_faults): run-fault-%: $(BUILD)/fault/%
	@sh tests/run.sh $(RESULTS) fault-$* $(RUNNER) $<

$(run_examples): run-example-%: examples/%.c $(BUILD)/examples/%
	@sh tests/run.sh $(RESULTS) example-$* sh tests/example.sh $^

$(run_recipes): run-recipe-%: examples/recipes/%.c $(BUILD)/recipes/%
	@sh tests/run.sh $(RESULTS) recipe-$* sh tests/example.sh $^

run-forest: $(BUILD)/forest
	@mkdir -p $(BUILD)/demo
	@sh tests/run.sh $(RESULTS) forest $< --scale-factors $(DATA)/millennium.a_list --output $(BUILD)/demo/millennium $(DATA)/trees_063.0

# -- Checking: independent stages, the longest first ------------------------------------------------------

STAGES = analyze valgrind $(addprefix asan-,$(COMPILERS)) tsan $(addprefix compile-,$(COMPILERS)) \
         $(addprefix bench-,$(firstword $(COMPILERS))) $(addprefix matrix-,$(COMPILERS)) fuzz i386 mingw tidy $(addprefix reject-,$(COMPILERS))

asan = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
slow = SAGEMEM_TEST_SLOW=1 TEST_TIMEOUT=600 $(MAKE) --no-print-directory test WERROR=-Werror CFLAGS='-O1 -g'

.PHONY: $(addprefix check-,$(STAGES)) $(addprefix in-,$(STAGES))

$(addprefix check-,$(STAGES)): check-%:
	+@sh tests/run.sh -s $(BUILD)/check $* $(MAKE) --no-print-directory in-$*

in-valgrind:
	+@if ! command -v valgrind >/dev/null; then echo 'skipped: valgrind is not installed'; \
	else $(slow) BUILD=$(BUILD)/valgrind TESTS='$(VALGRIND_TESTS)' \
	  RUNNER='valgrind --quiet --error-exitcode=1 --leak-check=full'; fi

# Everything with the first compiler; with another, which brings its own sanitizers, what is not a script.
$(addprefix in-asan-,$(COMPILERS)): in-asan-%:
	+@if ! sh tests/can.sh $* $(asan); then echo 'skipped: $* has no address sanitizer here'; \
	else $(slow) BUILD=$(BUILD)/asan-$* CC=$* CXX=$(call cxx_of,$*) SANITIZE='$(asan)' \
	  $(if $(filter $*,$(firstword $(COMPILERS))),,TESTS='$(PROGRAMS) $(addprefix fault-,$(FAULTS))'); fi

# Some systems place programs at addresses that the thread sanitizer cannot use; setarch -R turns that off.
in-tsan:
	+@if [ -z '$(strip $(TSAN_TESTS))' ]; then echo 'skipped: no test has thread or exact in its name'; exit 0; fi; \
	for cc in $(COMPILERS); do for runner in '' "setarch $$(uname -m) -R"; do \
	  if RUNNER="$$runner" sh tests/can.sh $$cc -fsanitize=thread; then \
	    TSAN_OPTIONS=halt_on_error=1 $(slow) BUILD=$(BUILD)/tsan TESTS='$(TSAN_TESTS)' CC=$$cc RUNNER="$$runner" SANITIZE=-fsanitize=thread; exit; \
	  fi; done; done; \
	echo 'skipped: no compiler here has the thread sanitizer'

$(addprefix in-compile-,$(COMPILERS)): in-compile-%:
	@sh tests/compile.sh $(BUILD) $*

$(addprefix in-matrix-,$(COMPILERS)): in-matrix-%:
	@sh tests/matrix.sh $(BUILD) $*

$(addprefix in-reject-,$(COMPILERS)): in-reject-%:
	@sh tests/reject.sh $(BUILD) $*

# The benchmarks compile and run to their end; no figure is looked at.
$(addprefix in-bench-,$(firstword $(COMPILERS))): in-bench-%:
	+@BENCH_QUICK=1 BENCH_ONLY= $(MAKE) --no-print-directory bench BUILD=$(BUILD)/bench-$* CC=$* CXX=$(call cxx_of,$*) WERROR=-Werror && \
	  sh tests/bench/well_formed.sh $(BUILD)/bench-$*/bench

# Without the option, the analyzer passes over functions that are in a header: here, all of them.
in-analyze:
	@if ! command -v clang >/dev/null; then echo 'skipped: clang is not installed'; \
	else clang --analyze --analyzer-output text -Xclang -analyzer-opt-analyze-headers -Xclang -analyzer-werror -I. tests/implementation.c; fi

in-tidy:
	@if ! command -v clang-tidy >/dev/null; then echo 'skipped: clang-tidy is not installed'; \
	else clang-tidy --quiet --warnings-as-errors='*' --header-filter='sagemem\.h' --checks='$(TIDY)' tests/implementation.c -- -I.; fi

comma := ,
empty :=
TIDY  = $(subst $(empty) $(empty),$(comma),$(strip -* bugprone-assert-side-effect bugprone-copy-constructor-init bugprone-infinite-loop \
        bugprone-integer-division bugprone-macro-repeated-side-effects \
        bugprone-misplaced-widening-cast bugprone-multiple-statement-macro \
        bugprone-string-literal-with-embedded-nul bugprone-suspicious-memory-comparison bugprone-suspicious-memset-usage \
        bugprone-suspicious-semicolon bugprone-suspicious-string-compare bugprone-terminating-continue \
        bugprone-too-small-loop-variable misc-redundant-expression misc-misplaced-const))

in-fuzz:
	@CC='$(firstword $(COMPILERS))' sh tests/fuzz.sh $(BUILD)/check-fuzz

in-i386:
	+@cc=$(firstword $(COMPILERS)); \
	if ! sh tests/can.sh $$cc -m32; then echo "skipped: $$cc has no 32-bit libraries here"; \
	elif sh tests/can.sh $$cc -m32 $(CMOCKA_LIBS); then $(slow) BUILD=$(BUILD)/i386 CC=$$cc SANITIZE=-m32; \
	else mkdir -p $(BUILD)/i386 && \
	  $$cc -m32 -O2 $(WARNINGS) -Werror -I. -pthread -o $(BUILD)/i386/user tests/compile/user_a.c tests/compile/user_b.c tests/implementation.c -lm && \
	  $(BUILD)/i386/user && echo 'without the cmocka tests: no 32-bit cmocka here'; fi

in-mingw:
	@cc=x86_64-w64-mingw32-gcc; if ! command -v $$cc >/dev/null; then echo 'skipped: MinGW-w64 is not installed'; \
	else mkdir -p $(BUILD)/mingw && $$cc -std=gnu11 -O2 $(WARNINGS) -Werror -I. -c -o $(BUILD)/mingw/implementation.o tests/implementation.c; fi
