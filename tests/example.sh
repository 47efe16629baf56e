#!/bin/sh
# Runs an example: sh tests/example.sh SOURCE PROGRAM
#
# It must end with status 0. If its first comment has a line " * Output:", the lines after it, up to the end of
# the comment, are what it must print (" *     " in front does not count).
set -u
source=$1
program=$2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

"$program" >"$dir/printed" 2>"$dir/errors"
status=$?
cat "$dir/printed" "$dir/errors"
if [ $status -ne 0 ]; then
    echo "$source: exit status $status" >&2
    exit 1
fi
awk '/\*\// { exit } copy { print } /^ \* Output:$/ { copy = 1 }' "$source" |
    sed -e 's/^ \*//' -e 's/^     //' >"$dir/expected"
if [ -s "$dir/expected" ] && ! diff -u "$dir/expected" "$dir/printed"; then
    echo "$source: prints something else than its first comment says" >&2
    exit 1
fi
