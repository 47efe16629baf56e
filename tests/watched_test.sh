#!/bin/sh
# What AddressSanitizer and Valgrind see of blocks: sh tests/watched_test.sh DIRECTORY
#
# A program reads one byte past the end of a block, or of what an object handed out, or one that was given back; the tool must
# report it, and must be silent about the same program when it does nothing wrong. tests/watched/watched.c does it, for each
# of `places`; maps have a program of their own. CC and CFLAGS as in the Makefile.
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

fail() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

places='heap scope pool reset recycler arena array columns slice reader ahead writer'

# sizes WHERE WHAT: those to try. A stable array's pages are gone when it ends: there the system ends the program.
sizes() {
    case $1-$2 in
    heap-ended) ;;
    array-freed | array-ended | columns-*) echo 0 ;;
    array-*) echo 0 5000 ;; # stable_max
    heap-* | scope-*) echo 48 328 100000 300000 ;; # a block of each kind
    *) echo 48 100000 ;;
    esac
}

# AddressSanitizer ends the program with its first report. use-after-poison is what it calls memory that a library told it
# to watch.
check_asan() {
    for where in $places; do
        for what in good overflow freed ended; do
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
        for where in $places; do
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
    if $cc $flags -fsanitize=address -fno-omit-frame-pointer -o "$directory/asan" tests/watched/watched.c; then
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
elif $cc $flags -o "$directory/valgrind" tests/watched/watched.c; then
    check_valgrind
else
    fail 'valgrind: does not compile'
fi

# Maps, mapped (map) and read (copy), whole and with a window: one byte past the end of the file or of the view, in front of
# a part, a view that another has followed, a copy that was closed. Each must be reported once, a good program not at all.
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
    if $cc $flags -fsanitize=address -fno-omit-frame-pointer -o "$directory/asan_map" tests/watched/maps.c; then
        check_maps_asan
    else
        fail 'asan: maps do not compile'
    fi
fi
if [ -x "$directory/valgrind" ]; then
    if $cc $flags -o "$directory/valgrind_map" tests/watched/maps.c; then
        check_maps_valgrind
    else
        fail 'valgrind: maps do not compile'
    fi
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] || exit 1
[ $skipped -lt 2 ] || echo 'skipped: neither AddressSanitizer nor Valgrind is here'
