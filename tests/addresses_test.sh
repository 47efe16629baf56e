#!/bin/sh
# Little address space: sh tests/addresses_test.sh IGNORED DATA, with BUILD and CFLAGS as in the Makefile.
#
# The library reserves addresses generously and takes less where `ulimit -v` refuses. The forest example must write the same
# files under any limit that leaves room for its data, and say what is wrong under one that does not.
# POSIX does not name ulimit -v; where there is none, that is noticed.
# shellcheck disable=SC3045
set -u
LC_ALL=C
export LC_ALL
data=${2:?usage: addresses_test.sh IGNORED DATA}
build=${BUILD:-build}
case " ${CFLAGS:-} " in
*-fsanitize=*)
    echo 'skipped: a sanitizer needs terabytes of addresses'
    exit 0
    ;;
esac
if ! (ulimit -v 1000000) 2>/dev/null; then
    echo 'skipped: this system does not limit addresses (ulimit -v)'
    exit 0
fi
[ -x "$build/forest" ] || exit 1

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# forest KIB: 0 for no limit; leaves $status, $tmp/KIB and $tmp/KIB.log
forest() {
    mkdir "$tmp/$1" || exit 1
    (
        [ "$1" -eq 0 ] || ulimit -v "$1"
        "$build/forest" --scale-factors "$data/millennium.a_list" --output "$tmp/$1" "$data/trees_063.0"
    ) >"$tmp/$1.log" 2>&1
    status=$?
}

failed=0
forest 0
[ $status -eq 0 ] || {
    cat "$tmp/0.log"
    exit 1
}
for kib in 24000 48000 100000 300000 1000000; do
    forest $kib
    if [ $status -ne 0 ] || ! diff -r "$tmp/0" "$tmp/$kib" >/dev/null; then
        failed=$((failed + 1))
        echo "FAILED: $kib KiB of addresses: exit status $status, or other results"
        head -n 5 "$tmp/$kib.log"
    fi
done

# Less than the data: an ordinary failure with a message, whether the program's or the loader's; never a signal.
for kib in 9000 10000 12000 14000; do
    forest $kib
    [ $status -eq 0 ] && continue # where the C library is a small one
    if [ $status -gt 127 ] || [ ! -s "$tmp/$kib.log" ]; then
        failed=$((failed + 1))
        echo "FAILED: $kib KiB of addresses: exit status $status, and it said: $(head -n 3 "$tmp/$kib.log")"
    fi
done
[ $failed -eq 0 ] && echo 'all limits passed'
exit $failed
