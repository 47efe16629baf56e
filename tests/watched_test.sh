#!/bin/sh
# What AddressSanitizer and Valgrind see of blocks: sh tests/watched_test.sh DIRECTORY
#
# A program reads one byte past sagemem_size, or a freed block, in an ordinary heap and in a scope, with a block of each kind;
# the tool must report it, and must be silent about the same program when it does nothing wrong. CC and CFLAGS as in the Makefile.
# Compiler commands and flags are lists of words.
# shellcheck disable=SC2046,SC2086
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

/* [heap|scope SIZE good|overflow|freed|ended]... */
int main(int argc, char **argv) {
    for (int i = 1; i + 2 < argc; i += 3) {
        int status = watch(argv[i], (size_t)atoi(argv[i + 1]), argv[i + 2]);
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
    for where in heap scope; do
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
        for where in heap scope; do
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

# Maps, mapped (map) and read (copy), whole and with a window: one byte past the end of the file or of the view, in front of
# a part, a view that another has followed, a copy that was closed. Each must be reported once, a good program not at all.
cat >"$directory/watched_map.c" <<'END'
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

/* How, whole or window, what. */
static int watch(const char *path, const char *how, const char *part, const char *what) {
    sagemem_map_desc desc = {0};
    desc.path = path;
    desc.offset = 24;
    desc.no_mapping = strcmp(how, "copy") == 0;
    desc.window = strcmp(part, "window") == 0 ? 1000 : 0;
    desc.mode = desc.window != 0 ? SAGEMEM_MAP_READ : SAGEMEM_MAP_WRITE;
    sagemem_map *map = sagemem_map_open(&desc);
    size_t size = desc.window != 0 ? 104 : 5000 - 24;
    volatile char *view = map != NULL ? (volatile char *)(uintptr_t)sagemem_map_view(map, 0, size) : NULL;
    if (view == NULL) return 2;
    if (view[0] != 'x' || view[size - 1] != 'x') return 3;
    if (desc.window == 0) *(char *)sagemem_map_data_writable(map) = 'x';
    if (sagemem_map_flush(map) != SAGEMEM_OK) return 4;
    if (strcmp(what, "next") == 0 && sagemem_map_view(map, 200, 8) == NULL) return 2;
    if (strcmp(what, "refresh") == 0 && sagemem_map_refresh(map) != SAGEMEM_OK) return 2;
    if (strcmp(what, "closed") == 0 || strcmp(what, "refresh") == 0) sagemem_map_close(map);
    if (strcmp(what, "refresh") == 0) return 0;
    if (strcmp(what, "before") == 0 && view[-1] == 'y') return 5;
    if (strcmp(what, "before") != 0 && strcmp(what, "good") != 0 && view[strcmp(what, "past") == 0 ? size : 0] == 'y') return 5;
    return strcmp(what, "closed") == 0 || sagemem_map_close(map) == SAGEMEM_OK ? 0 : 6;
}

/* FILE [map|copy whole|window good|refresh|past|before|next|closed]... */
int main(int argc, char **argv) {
    for (int i = 2; i + 2 < argc; i += 3) {
        int status = watch(argv[1], argv[i], argv[i + 1], argv[i + 2]);
        if (status != 0) return status;
    }
    return 0;
}
END
printf '%5000s' '' | tr ' ' x >"$directory/watched_map.bin"

good_maps='map whole good map whole refresh map window good copy whole good copy whole refresh copy window good'
bad_maps='map-whole-past map-whole-before map-window-past map-window-next copy-whole-past copy-whole-before copy-whole-closed
    copy-window-past copy-window-next copy-window-closed'
check_map() { # what it is called, the status of what must hold
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
    else
        fail "$1: $(tail -n 1 "$directory/map.log")"
    fi
}
check_maps_asan() {
    "$directory/asan_map" "$directory/watched_map.bin" $good_maps >"$directory/map.log" 2>&1
    check_map 'asan: good maps' $?
    for case in $bad_maps; do
        $limit "$directory/asan_map" "$directory/watched_map.bin" $(echo $case | tr - ' ') >"$directory/map.log" 2>&1
        grep -q 'ERROR: AddressSanitizer: use-after-poison' "$directory/map.log"
        check_map "asan: $case" $?
    done
}
check_maps_valgrind() {
    $limit valgrind --error-exitcode=9 --leak-check=full "$directory/valgrind_map" "$directory/watched_map.bin" $good_maps \
        >"$directory/map.log" 2>&1
    check_map 'valgrind: good maps' $?
    $limit valgrind "$directory/valgrind_map" "$directory/watched_map.bin" $(echo $bad_maps | tr - ' ') >"$directory/map.log" 2>&1
    grep -q "ERROR SUMMARY: $(($(echo $bad_maps | wc -w))) errors" "$directory/map.log"
    check_map 'valgrind: bad maps' $?
}
if [ -x "$directory/asan" ]; then
    if $cc $flags -fsanitize=address -fno-omit-frame-pointer -o "$directory/asan_map" "$directory/watched_map.c"; then
        check_maps_asan
    else
        fail 'asan: maps do not compile'
    fi
fi
if [ -x "$directory/valgrind" ]; then
    if $cc $flags -o "$directory/valgrind_map" "$directory/watched_map.c"; then
        check_maps_valgrind
    else
        fail 'valgrind: maps do not compile'
    fi
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] || exit 1
[ $skipped -lt 2 ] || echo 'skipped: neither AddressSanitizer nor Valgrind is here'
