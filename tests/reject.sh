#!/bin/sh
# Every #error of the header, provoked: sh tests/reject.sh BUILD [COMPILER...]
#
# Each tests/reject/*.c begins with "// expect: SENTENCE" and must be refused with this sentence and no other error.
# "// flags: ..." adds compiler options; "// follow-up errors: allowed" where the compiler cannot stop at the first one.
# An #error without a file must be listed, with the reason, in tests/reject/unprovoked.
# Compiler commands and flags are lists of words.
# shellcheck disable=SC2048,SC2086
set -u
LC_ALL=C # messages and order
export LC_ALL
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd) || exit 1
shift
cd "$(dirname "$0")/.." || exit 1
failures=0

fail() {
    failures=$((failures + 1))
    echo "reject: $1"
}

check_file() {
    expected=$(sed -n '1s|^// expect: ||p' "$file")
    flags=$(sed -n 's|^// flags: ||p' "$file")
    if [ -z "$expected" ]; then
        fail "$file: the first line does not say what to expect"
        return
    fi
    echo "$expected" >>"$dir/provoked"
    if $name $flags -I. -fsyntax-only "$file" >"$dir/out" 2>&1; then
        fail "$name: $file: is accepted"
        return
    fi
    grep 'error: ' "$dir/out" >"$dir/errors"
    sed -n 's/.*error: .*"\(sagemem: .*\)".*/\1/p' "$dir/errors" | sort -u >"$dir/said"
    if [ "$(cat "$dir/said")" != "$expected" ]; then
        fail "$name: $file: expected \"$expected\", but:"
        sed -n '1,8s/^/    | /p' "$dir/out"
    elif [ "$(wc -l <"$dir/errors")" -ne 1 ] && ! grep -q '^// follow-up errors: allowed' "$file"; then
        fail "$name: $file: the right #error, but not alone:"
        sed -n '1,8s/^/    | /p' "$dir/errors"
    fi
}

for name in ${*:-gcc clang}; do
    if ! command -v "$name" >/dev/null; then
        echo "reject: $name: skipped, not installed"
        continue
    fi
    dir=$build/reject-$(basename "$name")
    rm -rf "$dir"
    mkdir -p "$dir" || exit 1
    before=$failures
    count=0
    : >"$dir/provoked"
    for file in tests/reject/*.c; do
        count=$((count + 1))
        check_file
    done

    # Lines that are continued are joined first.
    awk '/\\$/ { sub(/ *\\$/, " "); printf "%s", $0; next } { print }' sagemem.h | grep '^ *# *error' >"$dir/error_lines"
    sed -n 's/^ *# *error *"\(sagemem: .*\)" *$/\1/p' "$dir/error_lines" | sort -u >"$dir/errors_all"
    ! grep -v '^ *# *error *"sagemem: ..*" *$' "$dir/error_lines" || fail 'sagemem.h: this #error is not of the form #error "sagemem: SENTENCE"'
    grep -v -e '^#' -e '^$' tests/reject/unprovoked | sed 's/  *\[.*//' | sort -u >"$dir/unprovoked"
    sort -u "$dir/provoked" "$dir/unprovoked" >"$dir/known"
    comm -23 "$dir/errors_all" "$dir/known" >"$dir/missing"
    comm -13 "$dir/errors_all" "$dir/unprovoked" >"$dir/stale"
    while read -r sentence; do fail "no file in tests/reject provokes: $sentence"; done <"$dir/missing"
    while read -r sentence; do fail "tests/reject/unprovoked has what the header does not: $sentence"; done <"$dir/stale"
    [ $failures -ne "$before" ] || echo "reject: $name: $count files are refused for the right reason"
done
[ $failures -eq 0 ]
