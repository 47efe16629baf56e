#!/bin/sh
# Builds and runs the fuzz targets, FUZZ_SECONDS [5] each: sh tests/fuzz.sh BUILD
#
# With libFuzzer where clang has it, which keeps what it found in BUILD/fuzz/TARGET for the next time; else with the
# targets' own main and random bytes. With the address and undefined behaviour sanitizers where there are some.
set -u
build=$1/fuzz
seconds=${FUZZ_SECONDS:-5}
mkdir -p "$build" || exit 1
export FUZZ_SECONDS="$seconds"

sanitize='-fsanitize=address,undefined -fno-sanitize-recover=all'
echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n); int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return p == 0 && n > 0; }' >"$build/can.c"
# The flags are lists of words.
# shellcheck disable=SC2086
if clang -fsanitize=fuzzer $sanitize -o "$build/can" "$build/can.c" >/dev/null 2>&1; then
    compile="clang -fsanitize=fuzzer $sanitize"
    with=libFuzzer
else
    compile="${CC:-cc} -DFUZZ_PLAIN"
    with='random bytes'
    # shellcheck disable=SC2086
    if sh tests/can.sh "${CC:-cc}" $sanitize; then compile="$compile $sanitize"; fi
fi

failed=0
for source in tests/fuzz/*.c; do
    name=$(basename "$source" .c)
    # shellcheck disable=SC2086
    $compile -g -O1 -I. -pthread -o "$build/$name-fuzz" "$source" || exit 1
    if [ "$with" = libFuzzer ]; then
        mkdir -p "$build/$name"
        "$build/$name-fuzz" -seed="${SAGEMEM_SEED:-1}" -max_total_time="$seconds" -max_len=4096 -artifact_prefix="$build/$name-" \
            -print_final_stats=1 "$build/$name" >"$build/$name.log" 2>&1
    else
        "$build/$name-fuzz" >"$build/$name.log" 2>&1
    fi
    if [ $? -ne 0 ]; then
        failed=1
        tail -n 40 "$build/$name.log"
        echo "fuzz: $name failed"
    else
        echo "fuzz: $name survived $seconds s ($with)"
    fi
done
[ $failed -eq 0 ]
