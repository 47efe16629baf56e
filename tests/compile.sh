#!/bin/sh
# Compiles the header in every way that it promises: sh tests/compile.sh BUILD [COMPILER...]
#
# Language standards, includes twice, in two files, in awkward orders and between hostile macros; then the names that
# it leaves in the object file and in the preprocessor. All with strict warnings as errors.
# Compiler commands and flags are lists of words.
# shellcheck disable=SC2048,SC2086
set -u
LC_ALL=C # messages and order
export LC_ALL
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd) || exit 1
shift
cd "$(dirname "$0")/.." || exit 1

warnings='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-align -Wvla -Werror'
c_warnings="$warnings -Wstrict-prototypes -Wmissing-prototypes"
here=tests/compile
checks=0
failures=0

fail() {
    failures=$((failures + 1))
    echo "compile: $name: $1"
    sed -n '1,12s/^/    | /p' "$dir/out"
}

# The command must succeed and say nothing.
must() {
    checks=$((checks + 1))
    if ! "$@" >"$dir/out" 2>&1 || [ -s "$dir/out" ]; then
        fail "failed: $*"
        return 1
    fi
}

# The command must succeed, or else every error must be one of the header's own that names the remedy.
must_or_say() {
    checks=$((checks + 1))
    if "$@" >"$dir/out" 2>&1; then
        [ ! -s "$dir/out" ] || fail "warns: $*"
    elif ! grep -q 'error:.*"sagemem: ' "$dir/out"; then
        fail "failed without an #error that names the remedy: $*"
    fi
}

# The command's output must be empty.
none() {
    checks=$((checks + 1))
    if [ -s "$dir/out" ]; then
        fail "$1"
    fi
}

# The first of the spellings that the compiler knows: first_std COMPILER LANGUAGE SPELLING...
first_std() {
    std_compiler=$1
    std_language=$2
    shift 2
    for std in "$@"; do
        if "$std_compiler" -x "$std_language" -std="$std" -Werror -fsyntax-only /dev/null 2>/dev/null; then
            echo "$std"
            return
        fi
    done
}

# The preprocessor's macros (name and parameters) after the file: macros OUT COMMAND...
macros() {
    to=$1
    shift
    "$@" -dM -E >"$dir/dump" 2>"$dir/out" || return 1
    sed -n 's/^#define \([A-Za-z_0-9]*\).*/\1/p' "$dir/dump" | sort -u >"$to"
}

# Only SAGEMEM_* macros may be added to those of the system headers that the header includes.
check_macros() {
    what=$1
    shift
    checks=$((checks + 1))
    # -dI keeps the include lines that were reached; those in the header itself count.
    "$@" -I. -E -dI "$dir/include.c" 2>"$dir/out" | awk '
        /^# [0-9]+ "/ { here = ($3 ~ /sagemem\.h"$/) }
        here && /^#include </ { sub(/\/\*.*/, ""); print }' >"$dir/system.c"
    if ! grep -q '^#include <stddef.h>' "$dir/system.c"; then
        fail "$what: cannot tell which system headers are included"
        return
    fi
    if ! macros "$dir/before" "$@" "$dir/system.c" || ! macros "$dir/after" "$@" -I. "$dir/include.c"; then
        fail "$what: the preprocessor failed"
        return
    fi
    comm -13 "$dir/before" "$dir/after" | grep -v -e '^SAGEMEM_' >"$dir/out"
    none "$what: leaves macros without the prefix"
    grep -q '^SAGEMEM_VERSION$' "$dir/after" || fail "$what: SAGEMEM_VERSION is not defined: nothing was looked at"
}

# External symbols start with sagemem_; private ones with smi_, SMI_ or sagemem_, in C++ after _Z and a length. A dot: made
# by the compiler; VALGRIND_: static functions of Valgrind's own header.
check_symbols() {
    checks=$((checks + 1))
    nm -P "$2" >"$dir/symbols" 2>"$dir/out" || fail "$1: nm failed"
    [ "$(uname -s)" != Darwin ] || sed -i.bak 's/^_//' "$dir/symbols"
    grep -q '^sagemem_alloc [Tt]' "$dir/symbols" || fail "$1: no sagemem_alloc: nothing was looked at"
    awk '$2 ~ /^[A-TV-Z]$/ && $1 !~ /^sagemem_/ { print "external:", $1, $2 }
         $2 ~ /^[a-tx-z]$/ && $1 !~ /\./ && $1 !~ /^(_Z[A-Za-z]*[0-9]+)?(smi_|SMI_|sagemem_|VALGRIND_PRINTF)/ { print "private:", $1, $2 }' "$dir/symbols" >"$dir/out"
    none "$1: symbols without the prefix"
}

check_with() {
    cc=$1
    cxx=$(echo "$cc" | sed -e 's/gcc/g++/' -e 's/clang/clang++/' -e 's/^cc$/c++/')
    C="$cc $c_warnings -I."
    X="$cxx -x c++ $warnings -I."

    # Declarations alone: C99 and C++11, and all later ones.
    for std in c99 gnu99 c11 c17 "$(first_std "$cc" c c23 c2x)"; do
        [ -z "$std" ] || must $C -std="$std" -O2 -c -o "$dir/o.o" $here/declarations.c
    done
    for std in c++11 c++14 c++17 c++20 "$(first_std "$cxx" c++ c++23 c++2b)"; do
        [ -z "$std" ] || must $X -std="$std" -O2 -c -o "$dir/o.o" $here/declarations.c
    done

    # The implementation: C11 and C++11, and later. What optimizers find does not depend on the standard: the oldest is enough.
    must $C -std=c11 -O2 -c -o "$dir/o.o" tests/implementation.c
    for std in c17 gnu11 gnu17 "$(first_std "$cc" c c23 c2x)"; do
        [ -z "$std" ] || must $C -std="$std" -fsyntax-only tests/implementation.c
    done
    must $X -std=c++11 -O2 -c -o "$dir/o.o" tests/implementation.c
    for std in c++17 c++20 "$(first_std "$cxx" c++ c++23 c++2b)"; do
        [ -z "$std" ] || must $X -std="$std" -fsyntax-only tests/implementation.c
    done
    must $C -O0 -c -o "$dir/implementation.o" tests/implementation.c || return
    must $C -O3 -DNDEBUG -c -o "$dir/o.o" tests/implementation.c
    must $X -O0 -c -o "$dir/implementation_cxx.o" tests/implementation.c

    # Several times in one file.
    for source in twice late; do
        must $C -pthread -o "$dir/$source" $here/$source.c -lm && must "$dir/$source"
        must $X -pthread -o "$dir/$source.cxx" $here/$source.c -x none -lm && must "$dir/$source.cxx"
    done

    # Several files in one program.
    must $C -pthread -o "$dir/two" $here/user_a.c $here/user_b.c "$dir/implementation.o" -lm && must "$dir/two"
    must $C -c -o "$dir/user_b.o" $here/user_b.c
    must $X -pthread -o "$dir/cxx_user" $here/user_a.c -x none "$dir/user_b.o" "$dir/implementation.o" -lm && must "$dir/cxx_user"
    must $X -pthread -o "$dir/cxx_both" $here/user_a.c -x none "$dir/user_b.o" "$dir/implementation_cxx.o" -lm && must "$dir/cxx_both"
    must $C -pthread -o "$dir/static" $here/static_a.c $here/static_b.c -lm && must "$dir/static"
    must $X -pthread -o "$dir/static.cxx" $here/static_a.c $here/static_b.c -x none -lm && must "$dir/static.cxx"

    # Awkward orders. What the system shows may be narrowed by the program: then an #error may say so.
    for order in 1 2 3 4 5 6; do
        for role in '' -DSAGEMEM_IMPLEMENTATION; do
            must $C -DORDER=$order $role -fsyntax-only $here/order.c
            must $X -DORDER=$order $role -fsyntax-only $here/order.c
            for narrow in -std=c11 '-std=c11 -D_POSIX_C_SOURCE=200809L' -D_POSIX_C_SOURCE=200809L -D_XOPEN_SOURCE=700; do
                case $role$order in *[56]) [ "$narrow" = -std=c11 ] || continue ;; esac # nothing new for the system's headers
                must_or_say $C $narrow -DORDER=$order $role -fsyntax-only $here/order.c
            done
            must $C -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DORDER=$order $role -fsyntax-only $here/order.c
        done
    done

    # Macros of the program.
    for hostile in 1 2; do
        must $C -DHOSTILE=$hostile -fsyntax-only $here/hostile.c
        must $X -DHOSTILE=$hostile -fsyntax-only $here/hostile.c
    done

    # Sites.
    must $C -pthread -o "$dir/sites" $here/sites.c "$dir/implementation.o" -lm && must "$dir/sites"
    must $X -pthread -o "$dir/sites.cxx" $here/sites.c -x none "$dir/implementation.o" -lm && must "$dir/sites.cxx"
    must $C -DSAGEMEM_IMPLEMENTATION -pthread -o "$dir/sites_own" $here/sites.c -lm && must "$dir/sites_own"
    must $X -DSAGEMEM_IMPLEMENTATION -pthread -o "$dir/sites_own.cxx" $here/sites.c -x none -lm && must "$dir/sites_own.cxx"

    # Two versions of the header in one program: the linker names the one that is missing.
    version=$(grep -o 'sagemem_version_[0-9]*_[0-9]*' sagemem.h | sort -u)
    other=${version%_*}_9999
    mkdir -p "$dir/other"
    sed "s/$version/$other/g" sagemem.h >"$dir/other/sagemem.h"
    grep -q "$other" "$dir/other/sagemem.h" || fail 'the header has no single sagemem_version_MAJOR_MINOR'
    for optimize in -O0 -O2; do
        must $cc $c_warnings $optimize -I"$dir/other" -c -o "$dir/mixed.o" $here/user_b.c || continue
        checks=$((checks + 1))
        if $C $optimize -pthread -o "$dir/mixed" $here/user_a.c "$dir/mixed.o" "$dir/implementation.o" -lm >"$dir/out" 2>&1; then
            fail "files with $version and $other link with each other ($optimize)"
        elif ! grep -q "$other" "$dir/out"; then
            fail "the linker does not name $other ($optimize)"
        fi
    done

    # Names.
    check_symbols 'implementation in C' "$dir/implementation.o"
    check_symbols 'implementation in C++' "$dir/implementation_cxx.o"
    echo '#include "sagemem.h"' >"$dir/include.c"
    check_macros 'declarations in C' $cc
    check_macros 'declarations in C++' $cxx -x c++
    cp tests/implementation.c "$dir/include.c"
    check_macros 'implementation in C' $cc
    check_macros 'implementation in C++' $cxx -x c++
}

for name in ${*:-gcc clang}; do
    if ! command -v "$name" >/dev/null; then
        echo "compile: $name: skipped, not installed"
        continue
    fi
    dir=$build/compile-$(basename "$name")
    rm -rf "$dir"
    mkdir -p "$dir" || exit 1
    before=$failures
    checks=0
    check_with "$name"
    [ $failures -ne "$before" ] || echo "compile: $name: $checks ways are right"
done
[ $failures -eq 0 ]
