#!/bin/sh
# Runs one test: sh tests/run.sh [-s] RESULTS NAME COMMAND...
#
# The output goes to RESULTS/NAME.log and the verdict (passed, failed, skipped) to RESULTS/NAME.status; a failure
# shows the log. With -s a last line "skipped: ..." means skipped. Programs get no -s: cmocka's exit status
# is the number of failures, whatever that is. TEST_TIMEOUT: seconds until the test is killed [300].
set -u
may_skip=no
if [ "$1" = -s ]; then
    may_skip=yes
    shift
fi
results=$1
name=$2
shift 2
mkdir -p "$results" || exit 1
log=$results/$name.log
seconds=${TEST_TIMEOUT:-300}
start=$(date +%s)

if command -v timeout >/dev/null 2>&1; then
    timeout -k 5 "$seconds" "$@" >"$log" 2>&1 </dev/null
else
    "$@" >"$log" 2>&1 </dev/null
fi
status=$?
took=$(($(date +%s) - start))
last=$(tail -n 1 "$log")

verdict=passed
if [ $status -ne 0 ]; then
    verdict=failed
elif [ $may_skip = yes ]; then
    case $last in
    'skipped: '*) verdict=skipped ;;
    esac
fi
echo $verdict >"$results/$name.status" || exit 1

case $verdict in
passed) echo "  passed  $name (${took} s)" ;;
skipped) echo "  SKIPPED $name: ${last#skipped: }" ;;
failed)
    why="exit status $status"
    [ $status -eq 124 ] && why="killed after $seconds s; TEST_TIMEOUT=600 in the environment gives it more"
    [ $status -gt 128 ] && why="signal $((status - 128))"
    echo "  FAILED  $name ($why, ${took} s); the end of $log:"
    tail -n 60 "$log" | sed 's/^/    | /'
    exit 1
    ;;
esac
