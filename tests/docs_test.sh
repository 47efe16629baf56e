#!/bin/sh
# What the documentation promises about itself: its programs compile and run where there is nothing but the header, in C
# and in C++, without a warning; the manual's contents name the anchors that exist; the option table has the defaults;
# the README's commands exist.
set -u
passed=0 failed=0
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
CC=${CC:-cc} CXX=${CXX:-c++}
flags="-O0 -Wall -Wextra -Werror -pthread"

check() { # what, command...
    what=$1
    shift
    if "$@" >"$dir/out" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "failed: $what"
        head -5 "$dir/out"
    fi
}

cp sagemem.h "$dir"
sed -n '/^```c$/,/^```$/p' README.md | grep -v '^```' >"$dir/readme.c"
sed -n '/^ \* QUICK START/,/^ \* TERMS/s/^ \*     //p' sagemem.h >"$dir/manual.c"
for program in readme manual; do
    [ -s "$dir/$program.c" ] || { echo "failed: no program in the $program"; failed=$((failed + 1)); }
    check "$program: $CC" $CC $flags "$dir/$program.c" -o "$dir/$program"
    check "$program: it runs" "$dir/$program"
    check "$program: reports both groups" sh -c "\"$dir/$program\" | grep -q '^Core' && \"$dir/$program\" | grep -q '^Physics'"
    check "$program: $CXX" $CXX -x c++ $flags "$dir/$program.c" -o "$dir/$program.cxx"
    check "$program: it runs as C++" "$dir/$program.cxx"
done
check "the README's program is about twenty lines" test "$(wc -l <"$dir/readme.c")" -le 22

# Anchors: those of the sections, in their order, are those of the contents.
sed -n '/^ \* CONTENTS/,/^ \* QUICK START/p' sagemem.h | grep -o '>>[a-z]*' | grep -v '>>name' >"$dir/contents"
grep -o '^ \* >>[a-z]*\|^/\* >>[a-z]*' sagemem.h | grep -o '>>[a-z]*' >"$dir/sections"
sort -u "$dir/contents" | grep -v '^>>budget$' >"$dir/contents.sorted"
sort -u "$dir/sections" | grep -v '^>>budget$' >"$dir/sections.sorted"
check "contents and sections name the same anchors" cmp "$dir/contents.sorted" "$dir/sections.sorted"

# Options: each SAGEMEM_WITH_* that the header defines has its line, with its default.
for option in $(grep -o '^#define SAGEMEM_WITH_[A-Z]* SAGEMEM_DEFAULTS' sagemem.h | awk '{print $2}'); do
    check "$option is in the option table, default 1" grep -q "^ \*     $option  *1 " sagemem.h
done
for option in $(grep -o '^#define SAGEMEM_WITH_[A-Z0-9]* 0' sagemem.h | awk '{print $2}'); do
    check "$option is in the option table, default 0" grep -q "^ \*     $option  *0 " sagemem.h
done

for target in $(grep -o 'make [a-z][a-z ]*' README.md | sed 's/make //' | tr ' ' '\n' | grep -x 'demo\|deps\|test\|check\|help\|vital' | sort -u); do
    check "make $target is there" grep -q "^$target:.*##" Makefile
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
