#!/bin/sh
# sagemem-replay from outside: replay_test.sh PROGRAM DATA. What is expected is computed here from the text of the traces.

data=${2:?usage: replay_test.sh PROGRAM DATA}
build=${BUILD:-build}
replay=$build/sagemem-replay
forest=$build/forest
sage=$data/sage_small.trace.gz

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

passed=0
failed=0
check() { # check WHAT: the last command's status says whether it is so
    if [ "$?" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
        sed 's/^/    /' "$tmp/out" "$tmp/err" 2>/dev/null | head -n 8
    fi
}
run() { # run ARGUMENT...: leaves $status, $tmp/out, $tmp/err
    "$replay" "$@" >"$tmp/out" 2>"$tmp/err"
    status=$?
}
says() { grep -q -- "$1" "$tmp/out"; }
complains() { [ "$status" = "$1" ] && grep -q -- "$2" "$tmp/err"; }

# -- The command line
run --help
[ "$status" = 0 ] && says 'usage: sagemem-replay' && says '--plot'
check 'help'
for wrong in '--colour red' '-x y' '--limit' '--limit 0' '--limit 5Q' '--allocator glibc' '--growth 0.5' '--plot picture.png'; do
    run $wrong "$sage" # shellcheck disable=SC2086
    complains 2 "$(echo "$wrong" | cut -d' ' -f1)"
    check "refused: $wrong"
done
run
complains 2 'no trace'
check 'no trace'
run "$sage" "$sage"
complains 2 'second'
check 'two traces'
run "$tmp/none"
complains 1 'none: No such file'
check 'a trace that is not there'

# -- Text: awk does the same sums
gzip -dc "$sage" >"$tmp/sage.txt"
awk '{ if ($1 == "f") used -= size[$2]; else { size[$2] = $3; used += $3; allocations++ }
       if (used > peak) { peak = used; line = NR } }
     END { print peak, line, allocations }' "$tmp/sage.txt" >"$tmp/sums"
read -r peak line allocations <"$tmp/sums"
for trace in "$sage" "$tmp/sage.txt"; do
    run "$trace"
    [ "$status" = 0 ] && says "recorded peak: $peak bytes .* at line $line;" && says " $allocations allocations" && says 'at the end 0 bytes'
    check "the peak of $trace"
done
run --allocator malloc "$sage"
says "replay (malloc)" && says "peak: $peak bytes asked for"
check 'malloc has the same peak'
for limit in 300000 5000000 $((peak - 1)) "$peak"; do
    expected=$(awk -v limit="$limit" '{ if ($1 == "f") used -= size[$2]; else { size[$2] = $3; used += $3 } }
                                      used > limit { print NR; exit }' "$tmp/sage.txt")
    run --allocator malloc --limit "$limit" "$sage"
    if [ -n "$expected" ]; then says "first fails at line $expected "; else says 'nothing fails'; fi
    check "a limit of $limit bytes for malloc fails at line ${expected:-none}"
done
run --limit 1M "$sage"
says 'first fails at line [0-9]* ([0-9]* bytes);'
check 'a limit for a heap'
held=$(sed -n 's/.* asked for, \([0-9]*\) held$/\1/p' "$tmp/out")
[ "$held" -le 1048576 ]
check "no more is held than the limit: $held"
run --limit 1G "$sage"
says 'nothing fails'
check 'a limit that is not met'

# -- Growth
awk 'BEGIN { print "m 1 16"; for (i = 1; i < 1000; i++) print "r 1", 16 * i, 16 * (i + 1); print "f 1" }' >"$tmp/grows.txt"
run "$tmp/grows.txt"
says '999 resized' && says 'peak: 16000 bytes asked for'
check 'just what it asks for'
run --growth 2 "$tmp/grows.txt"
says 'growth by 2).*peak: 16384 bytes asked for'
check 'doubled'
run --growth 2 "$sage"
says 'has no effect'
check 'growth where nothing grows'

# -- The form of massif: its own tool reads it
run --massif "$tmp/sage.massif" "$sage"
[ "$(sed -n 's/^mem_heap_B=//p' "$tmp/sage.massif" | sort -n | tail -n 1)" = "$peak" ]
check 'the peak in the form of massif'
if command -v ms_print >/dev/null; then
    ms_print "$tmp/sage.massif" >"$tmp/out" 2>"$tmp/err" &&
        tr -d , <"$tmp/out" | grep -q "^100.00% (${peak}B) (tags of all heaps)" && grep -q '(peak)' "$tmp/out"
    check 'ms_print'
fi

# -- Text that is wrong
while read -r what text; do
    printf 'm 1 10\n%b\n' "$text" >"$tmp/wrong.txt"
    run "$tmp/wrong.txt"
    complains 1 'line 2'
    check "refused: $what"
done <<'END'
kind x 1 2
short m 5
long f 1 2
words m one two
twice m 1 20
unknown f 7
unknown-resize r 7 1 2
END
: >"$tmp/empty.txt"
run "$tmp/empty.txt"
complains 1 'empty'
check 'refused: empty'
printf '\037\213garbage' >"$tmp/bad.gz"
run "$tmp/bad.gz"
complains 1 'gzip'
check 'refused: damaged gzip'

# -- Binary, of the forest example
if [ -x "$forest" ]; then
    memory() { "$forest" --quiet --scale-factors "$data/millennium.a_list" --output "$tmp/galaxies" "$@" "$data/trees_063.0"; }
    memory --trace "$tmp/forest.trace" --report csv:"$tmp/report.csv" >"$tmp/out" 2>"$tmp/err"
    check 'forest --trace'
    run --plot "$tmp/forest.svg" --massif "$tmp/forest.massif" "$tmp/forest.trace"
    [ "$status" = 0 ] && says ' 120 scopes' && says 'at the end 0 bytes' && says 'Physics/Star formation'
    check 'what is in it'
    # Each allocation that the report counts is one in the trace: new, or for a block that was copied when it grew.
    blocks=$(awk -F, 'NR > 1 { n += $6 } END { print n }' "$tmp/report.csv")
    new=$(sed -n 's/.*: \([0-9]*\) allocations.*/\1/p' "$tmp/out")
    resized=$(sed -n 's/.* \([0-9]*\) resized.*/\1/p' "$tmp/out")
    [ "$blocks" -ge "$new" ] && [ "$blocks" -le $((new + resized)) ]
    check "allocations: $blocks in the report, $new and $resized in the trace"
    grep -q '<polygon' "$tmp/forest.svg" && grep -q 'Core/Output' "$tmp/forest.svg" && tail -n 1 "$tmp/forest.svg" | grep -q '</svg>'
    check 'the picture'
    if command -v python3 >/dev/null; then
        python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$tmp/forest.svg" 2>"$tmp/err"
        check 'the picture is XML'
    fi
    [ "$(grep -c '^snapshot=' "$tmp/forest.massif")" -ge 100 ] && grep -q 'heap_tree=peak' "$tmp/forest.massif"
    check 'the form of massif'
    run --plot "$tmp/none/x.svg" "$tmp/forest.trace"
    complains 1 'none/x.svg'
    check 'a picture that cannot be written'
    run --allocator malloc --limit 100K "$tmp/forest.trace"
    says "first fails at event .*tag 'Core/Output'"
    check 'a limit is met, and it is said by what'

    size=$(wc -c <"$tmp/forest.trace")
    for bytes in 10 32 60 5000 $((size / 2)) $((size - 1)); do
        head -c "$bytes" "$tmp/forest.trace" >"$tmp/cut.trace"
        run "$tmp/cut.trace"
        complains 1 'cut'
        check "refused: cut at $bytes"
    done
    for byte in 9 20 33 37 50 100 $((size / 3)) $((size - 20)); do
        cp "$tmp/forest.trace" "$tmp/bad.trace"
        old=$(od -An -tu1 -j "$byte" -N 1 "$tmp/bad.trace" | tr -d ' ')
        printf "\\$(printf '%03o' $(((old + 1) % 256)))" | dd of="$tmp/bad.trace" bs=1 seek="$byte" conv=notrunc 2>/dev/null
        run "$tmp/bad.trace"
        complains 1 'byte'
        check "refused: damaged at $byte"
    done

    memory --trace "$tmp/forest.json" >"$tmp/out" 2>"$tmp/err"
    check 'forest --trace FILE.json'
    if command -v python3 >/dev/null; then
        python3 - "$tmp/forest.json" >"$tmp/out" 2>"$tmp/err" <<'END'
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
open_scopes, scopes, counters = {}, 0, set()
for e in events:
    assert {"ph", "pid", "tid", "ts"} <= set(e), e
    if e["ph"] == "B":
        open_scopes.setdefault(e["tid"], []).append(e["name"])
        scopes += 1
    elif e["ph"] == "E":
        open_scopes[e["tid"]].pop()
    elif e["ph"] == "C":
        counters.add(e["name"])
        assert e["args"]["bytes"] >= 0
assert scopes == 120, scopes
assert not any(open_scopes.values()), open_scopes
assert "held" in counters and "Core/Output" in counters, counters
END
        check 'its JSON: scopes nest, counters count'
    fi
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
