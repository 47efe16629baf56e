#!/bin/sh
# Can this compiler do that here? sh tests/can.sh COMPILER FLAG...: builds and runs an empty program with the flags.
# RUNNER: a command to run it with.
set -u
cc=$1
shift
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
echo '#include <stdio.h>
int main(void) { return puts("ok") < 0; }' >"$dir/can.c"
# RUNNER is a list of words.
# shellcheck disable=SC2086
"$cc" -o "$dir/can" "$dir/can.c" "$@" >/dev/null 2>&1 && ${RUNNER:-} "$dir/can" >/dev/null 2>&1
