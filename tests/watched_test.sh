#!/bin/sh
# What AddressSanitizer and Valgrind see of blocks: sh tests/watched_test.sh DIRECTORY
#
# A program reads one byte past sagemem_size, or a freed block, in an ordinary heap and in a scope, with a block of each kind, or
# past the last element of an array or column; the tool must report it, and must be silent about the same program when it does
# nothing wrong. CC and CFLAGS as in the Makefile.
# Compiler commands and flags are lists of words.
# shellcheck disable=SC2086
set -u
LC_ALL=C
export LC_ALL
directory=$1
mkdir -p "$directory" || exit 1
cc=${CC:-cc}
case " ${CFLAGS:-} " in
*-fsanitize=*)
    echo 'skipped: a sanitizer is built in'
    exit 0
    ;;
esac
case " ${CFLAGS:-} " in
*' -m32 '*) m32=-m32 ;;
*) m32= ;;
esac
limit=
command -v timeout >/dev/null 2>&1 && limit='timeout 60'
passed=0
failed=0
skipped=0

cat >"$directory/watched.c" <<'END'
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

static int watch(const char *where, size_t size, const char *what) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (strcmp(where, "scope") == 0 && sagemem_scope_begin(heap, "forest", 12) != SAGEMEM_OK) return 2;
    for (int i = 0; i < 1000 && size < 100; i++) /* so that the class has a slab page */
        if (sagemem_alloc(heap, size, 1) == NULL) return 2;
    char *volatile block = (char *)sagemem_alloc(heap, size, 1);
    if (block == NULL) return 2;
    memset(block, 'x', sagemem_size(block));
    size_t at = strcmp(what, "overflow") == 0 ? sagemem_size(block) : 0;
    if (strcmp(what, "freed") == 0) sagemem_free(block);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(heap);
    if (((volatile char *)block)[at] == 'y') return 3;
    sagemem_heap_destroy(heap);
    return 0;
}

/* An array (SIZE 0) or one that never moves (SIZE: stable_max), or columns: rows that are there, were dropped, have gone. */
static int watch_rows(const char *where, size_t size, const char *what) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    sagemem_array array;
    sagemem_array_desc desc = {heap, 1, 8, 0, 0, size};
    static const sagemem_column both[] = {{"a", 1}, {"b", 8}};
    sagemem_columns_desc table = {heap, 1, NULL, both, 2, 0, 0};
    sagemem_columns *columns = sagemem_columns_create(&table);
    if (columns == NULL || sagemem_scope_begin(heap, "forest", 12) != SAGEMEM_OK) return 2;
    if (sagemem_array_init(&array, &desc) != SAGEMEM_OK) return 2;
    for (int i = 0; i < 1000; i++) {
        double one = i;
        if (sagemem_array_push(&array, &one) != SAGEMEM_OK || sagemem_columns_add(columns, 1) != SAGEMEM_OK) return 2;
        ((char *)sagemem_columns_data(columns, 0))[i] = 'x';
    }
    if (sagemem_array_resize(&array, 701) != SAGEMEM_OK || sagemem_columns_resize(columns, 701) != SAGEMEM_OK) return 2;
    bool rows = strcmp(where, "columns") == 0;
    char *volatile data = (char *)(rows ? sagemem_columns_data(columns, 0) : sagemem_array_data(&array));
    size_t at = (strcmp(what, "overflow") == 0 ? 701 : 700) * (rows ? 1 : 8);
    if (strcmp(what, "freed") == 0) {
        sagemem_array_deinit(&array);
        sagemem_columns_destroy(columns);
    }
    if (strcmp(what, "ended") == 0) sagemem_heap_reset(heap);
    if (((volatile char *)data)[at] == 'y') return 3;
    sagemem_heap_destroy(heap);
    return 0;
}

/* [heap|scope|array|columns SIZE good|overflow|freed|ended]... */
int main(int argc, char **argv) {
    for (int i = 1; i + 2 < argc; i += 3) {
        bool rows = strcmp(argv[i], "array") == 0 || strcmp(argv[i], "columns") == 0;
        int status = (rows ? watch_rows : watch)(argv[i], (size_t)atoi(argv[i + 1]), argv[i + 2]);
        if (status != 0) return status;
    }
    puts("ran to the end");
    return 0;
}
END

fail() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

# AddressSanitizer ends the program with its first report. use-after-poison is what it calls memory that a library told it
# to watch.
# sizes WHERE WHAT: those to try. A stable array's pages are gone when it ends: there the system ends the program.
sizes() {
    case $1-$2 in
    array-freed | array-ended | columns-*) echo 0 ;;
    array-*) echo 0 5000 ;;
    *) echo 48 328 100000 300000 ;;
    esac
}

check_asan() {
    for where in heap scope array columns; do
        for what in good overflow freed ended; do
            [ $where-$what = heap-ended ] && continue
            for size in $(sizes $where $what); do
                $limit "$directory/asan" $where $size $what >"$directory/asan.log" 2>&1
                got=$?
                if [ $what = good ] && [ $got -eq 0 ]; then
                    passed=$((passed + 1))
                elif [ $what != good ] && grep -q 'ERROR: AddressSanitizer: use-after-poison' "$directory/asan.log"; then
                    passed=$((passed + 1))
                else
                    fail "asan: $what, block of $size bytes in a $where: $(tail -n 1 "$directory/asan.log")"
                fi
            done
        done
    done
}

# Valgrind goes on and counts; it takes a second to start, so one run has all blocks.
check_valgrind() {
    for what in good overflow freed ended; do
        cases=
        errors=0
        for where in heap scope array columns; do
            [ $where-$what = heap-ended ] && continue
            for size in $(sizes $where $what); do
                cases="$cases $where $size $what"
                [ $what = good ] || errors=$((errors + 1))
            done
        done
        $limit valgrind "$directory/valgrind" $cases >"$directory/valgrind.log" 2>&1
        if grep -q "ERROR SUMMARY: $errors errors" "$directory/valgrind.log"; then
            passed=$((passed + 1))
        else
            fail "valgrind: $what: $errors errors expected, of$cases: $(grep 'ERROR SUMMARY' "$directory/valgrind.log")"
        fi
    done
}

flags="-g $m32 -I. -pthread" # no -O: compiling is most of the time
if sh tests/can.sh "$cc" $m32 -fsanitize=address; then
    if $cc $flags -fsanitize=address -fno-omit-frame-pointer -o "$directory/asan" "$directory/watched.c"; then
        check_asan
    else
        fail 'asan: does not compile'
    fi
else
    skipped=$((skipped + 1))
    echo "without AddressSanitizer: $cc does not have it here"
fi

has_memcheck='#include <valgrind/memcheck.h>'
if ! command -v valgrind >/dev/null 2>&1; then
    skipped=$((skipped + 1))
    echo 'without Valgrind: it is not installed'
elif ! RUNNER='valgrind --quiet' sh tests/can.sh "$cc" $m32; then
    skipped=$((skipped + 1))
    echo 'without Valgrind: it cannot run a program of this kind here'
elif ! echo "$has_memcheck" | $cc $m32 -fsyntax-only -x c - 2>/dev/null; then
    skipped=$((skipped + 1))
    echo 'without Valgrind: its header valgrind/memcheck.h is not installed'
elif $cc $flags -o "$directory/valgrind" "$directory/watched.c"; then
    check_valgrind
else
    fail 'valgrind: does not compile'
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] || exit 1
[ $skipped -lt 2 ] || echo 'skipped: neither AddressSanitizer nor Valgrind is here'
