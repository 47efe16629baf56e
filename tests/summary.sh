#!/bin/sh
# Counts verdicts: sh tests/summary.sh RESULTS NAME...
#
# A test without a verdict was not built or not run; it counts as failed. No test at all is a failure too.
# The last line is "N passed, N failed".
set -u
results=$1
shift
passed=0
failed=0
skipped=''
for name in "$@"; do
    verdict=$(cat "$results/$name.status" 2>/dev/null)
    case $verdict in
    passed) passed=$((passed + 1)) ;;
    skipped) skipped="$skipped $name" ;;
    failed)
        echo "failed: $name"
        failed=$((failed + 1))
        ;;
    *)
        echo "failed: $name (not built or not run)"
        failed=$((failed + 1))
        ;;
    esac
done
[ -z "$skipped" ] || echo "skipped:$skipped"
[ $# -gt 0 ] || echo "no tests found"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $# -gt 0 ]
