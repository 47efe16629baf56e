# What tests of programs from outside begin with: a directory $tmp that goes with the test, and counted checks.
# shellcheck shell=sh
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

passed=0
failed=0

ok() { # ok WHAT COMMAND...: the command must succeed
    what=$1
    shift
    if "$@" >"$tmp/ok.log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $what"
        sed 's/^/    /' "$tmp/ok.log" "$tmp/err" 2>/dev/null | head -n 8
    fi
}
