#!/bin/sh
# What AddressSanitizer and Valgrind see of blocks: sh tests/watched_test.sh DIRECTORY
#
# A program reads one byte past sagemem_size, or a freed block, in an ordinary heap and in a scope, with a block of each kind;
# the tool must report it, and must be silent about the same program when it does nothing wrong. CC and CFLAGS as in the Makefile.
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

/* A buffer that was released lies idle in the recycler; after the scope it has gone with it. */
static int watch_recycler(size_t size, const char *what) {
    sagemem_recycler *recycler = sagemem_scope_begin(NULL, "forest", 12) == SAGEMEM_OK ? sagemem_recycler_create(NULL) : NULL;
    if (recycler == NULL) return 2;
    sagemem_recycler_release(recycler, sagemem_recycler_acquire(recycler, size));
    char *volatile buffer = (char *)sagemem_recycler_acquire(recycler, size);
    if (buffer == NULL) return 2;
    memset(buffer, 'x', sagemem_size(buffer));
    size_t at = strcmp(what, "overflow") == 0 ? sagemem_size(buffer) : 0;
    if (strcmp(what, "freed") == 0) sagemem_recycler_release(recycler, buffer);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((volatile char *)buffer)[at] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

/* The bytes of a slice that was the last of them. */
static int watch_slice(size_t size, const char *what) {
    char *text = (char *)calloc(1, size);
    if (sagemem_scope_begin(NULL, "forest", 12) != SAGEMEM_OK || text == NULL) return 2;
    sagemem_slice slice = sagemem_slice_copy(NULL, text, size, 1);
    const char *volatile data = (const char *)slice.data;
    free(text);
    if (data == NULL) return 2;
    size_t at = strcmp(what, "overflow") == 0 ? sagemem_size(slice.data) : 0;
    if (strcmp(what, "freed") == 0) sagemem_slice_release(slice);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((const volatile char *)data)[at] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

/* A view of a reader lasts until the next call ("freed"). */
static int watch_reader(const char *where, size_t size, const char *what) {
    if (sagemem_scope_begin(NULL, "forest", 12) != SAGEMEM_OK) return 2;
    sagemem_reader_desc desc = {0};
    desc.path = "/dev/zero";
    desc.buffer_bytes = 150000;
    desc.read_ahead = strcmp(where, "ahead") == 0;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    const char *volatile view = (const char *)sagemem_read_view(reader, size);
    char byte;
    if (view == NULL || view[size - 1] != 0) return 2;
    size_t at = strcmp(what, "overflow") == 0 ? size : 0;
    if (strcmp(what, "freed") == 0 && sagemem_read(reader, &byte, 1, NULL) != SAGEMEM_OK) return 2;
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((const volatile char *)view)[at] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

static int watch_one(const char *where, size_t size, const char *what) {
    bool reads = strcmp(where, "reader") == 0 || strcmp(where, "ahead") == 0;
    if (strcmp(where, "recycler") == 0) return watch_recycler(size, what);
    if (strcmp(where, "slice") == 0) return watch_slice(size, what);
    return (reads ? watch_reader : watch)(where, size, what);
}

/* [heap|scope|recycler|slice|reader|ahead SIZE good|overflow|freed|ended]... */
int main(int argc, char **argv) {
    for (int i = 1; i + 2 < argc; i += 3) {
        int status = watch_one(argv[i], (size_t)atoi(argv[i + 1]), argv[i + 2]);
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
check_asan() {
    for where in heap scope recycler slice reader ahead; do
        for size in 48 328 100000 300000; do
            for what in good overflow freed ended; do
                [ $where-$what = heap-ended ] && continue
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
        for where in heap scope recycler slice reader ahead; do
            [ $where-$what = heap-ended ] && continue
            for size in 48 328 100000 300000; do
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
