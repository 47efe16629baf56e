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
    printf 'm 1 0000000000000000000000000010\n%b\n' "$text" >"$tmp/wrong.txt" # a NUL further in front makes it no text
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
negative m 2 -5
negative-id m -2 5
sign m 2 +5
2^48-bytes m 2 281474976710656
2^64-id m 18446744073709551616 5
old-size r 1 11 20
nul \0000m 2 5
nul-behind m 2 5\0000
blank
END
printf 'm 1 10\nr 1 10 281474976710655\r\n\tm  18446744073709551615\t0\nf 1' >"$tmp/right.txt"
run --allocator malloc --limit 1K "$tmp/right.txt"
[ "$status" = 0 ] && says '4 events: 2 allocations, 1 frees, 1 resized' && says 'recorded peak: 281474976710655 bytes .* line 2;'
check 'the most bytes, the largest number, and room between'
awk 'BEGIN { printf "m 1 0000000000000000000000000010\nx \033]0;title\007"; for (i = 0; i < 100000; i++) printf "x"; print "" }' >"$tmp/wrong.txt"
run "$tmp/wrong.txt"
complains 1 "line 2 is 'x ?\]0;title?x*'\.\.\.:" && [ "$(wc -c <"$tmp/err")" -lt 300 ]
check 'of a line that is wrong a terminal gets the beginning'
echo 'm 1 281474976710655' >"$tmp/large.txt"
run --allocator heap "$tmp/large.txt"
[ "$status" = 0 ] && says '^without a limit: first fails at line 1 '
check 'what fails without a limit'
printf '{"traceEvents": [\n' >"$tmp/wrong.txt"
run "$tmp/wrong.txt"
complains 1 'perfetto.*SAGEMEM_TRACE_BINARY'
check 'refused: a trace for a browser'

# -- Names of files
run - <"$tmp/grows.txt"
[ "$status" = 0 ] && says '999 resized'
check 'a trace that comes in'
run - <"$sage"
complains 1 'gzip -dc'
check 'refused: gzip that comes in'
cp "$tmp/grows.txt" "$tmp/own.svg"
ln -s own.svg "$tmp/link"
for wrong in "--massif $tmp/own.svg $tmp/own.svg" "--plot $tmp/own.svg $tmp/own.svg" "--massif $tmp/link $tmp/own.svg" \
    "--massif $tmp/own.svg -"; do
    run $wrong <"$tmp/own.svg" # shellcheck disable=SC2086
    complains 2 'would overwrite the trace' && cmp -s "$tmp/own.svg" "$tmp/grows.txt"
    check "refused: $wrong"
done
run --plot "$tmp/new.svg" --massif "$tmp/new.svg" "$tmp/own.svg"
complains 2 'would overwrite the picture' && [ ! -e "$tmp/new.svg" ]
check 'refused: the picture and massif in one file'
run --plot "$tmp/new.svg" --massif "$tmp/./new.svg" "$tmp/own.svg"
complains 1 'would overwrite the picture' && tail -n 1 "$tmp/new.svg" | grep -q '</svg>'
check 'refused: the same by another name'
if [ -c /dev/full ]; then
    "$replay" "$tmp/grows.txt" >/dev/full 2>"$tmp/err"
    status=$?
    complains 1 'standard output: '
    check 'a disk that is full'
fi
: >"$tmp/empty.txt"
run "$tmp/empty.txt"
complains 1 'empty'
check 'refused: empty'
printf '\037\213garbage' >"$tmp/bad.gz"
run "$tmp/bad.gz"
complains 1 'gzip'
check 'refused: damaged gzip'

# -- Binary, as the library would not write it, or only when it lost events
parts_add_up() { # parts_add_up [MASSIF]: those of the recorded peak
    awk '/recorded peak:/ { peak = $3 } / at the peak,/ { for (i = 2; i <= NF; i++) if ($i == "at") { sum += $(i - 1); break } }
         END { exit !(peak > 0 && peak == sum) }' "$tmp/out" || return 1
    [ $# = 0 ] || [ "$(sed -n 's/^mem_heap_B=//p' "$1" | sort -n | tail -n 1)" = "$(sed -n 's/.*recorded peak: \([0-9]*\) .*/\1/p' "$tmp/out")" ]
}
plays() { # plays NAME EVENTS: that trace, in all ways
    for how in '--allocator heap' '--allocator malloc' '--limit 1K' '--growth 2'; do
        run $how --plot "$tmp/made.svg" --massif "$tmp/made.massif" "$tmp/$1.trace" # shellcheck disable=SC2086
        [ "$status" = 0 ] && says ": $2 events" && ! grep -v ' note: ' "$tmp/err" && parts_add_up "$tmp/made.massif"
        check "$1, with $how"
    done
}
if command -v python3 >/dev/null; then
    python3 - "$tmp" <<'END'
import struct, sys
WORD = (1 << 64) - 1
ALLOC, FREE, MOVED, LEAVE, BECOME, HEAP, SCOPE, END, CLEAR = range(1, 10)
STAMP, NAME, FINISH = 13, 14, 15
NO_SLOT = 65535

def mix(total, word):
    mixed = ((total ^ word) * 0x9E3779B97F4A7C15) & WORD
    return mixed ^ mixed >> 32

def total(records, clock, ns, trail):  # smi_trace_sum
    what, where = [clock, len(records)], [ns, trail]
    for i, (a, b) in enumerate(records):
        what[i % 2], where[i % 2] = mix(what[i % 2], a), mix(where[i % 2], b)
    return mix(mix(*what), mix(*where))

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF

def block(records, trail):
    head = struct.pack("<QQQ", 1000, 1000, trail)
    return struct.pack("<IIQ", 0x4B4C4254, len(records), total(records, 1000, 1000, trail)) + head + \
        b"".join(struct.pack("<QQ", *r) for r in records)

def write(name, *trails, number=1, zero=0):
    header = b"sagetrac" + struct.pack("<III", 1, 0x01020304, 4096)
    header += struct.pack("<IQ", crc32c(header), zero)
    trails = [list(t) for t in trails]
    trails[-1].append((FINISH, 0))
    with open(f"{sys.argv[1]}/{name}.trace", "wb") as file:
        file.write(header + b"".join(block(t, number + i) for i, t in enumerate(trails)))

def event(kind, slot, at=0, size=0, tag=1): return [(kind | tag << 4 | slot << 16 | (size & 0xFFFFFFFF) << 32, at | size >> 32 << 44)]
def heap(slot, outer=0): return event(HEAP, slot, 7, outer, 0) + [(0, 0)]
def scope(slot, outer): return event(SCOPE, slot, 7, outer, 0) + [(slot, 0)]
def stamp(when): return [(STAMP, when)]
def name(at, text, tag=None):
    text = text.ljust(64, b"\0")
    return event(NAME, 0, at, tag is not None, tag or 0) + [struct.unpack_from("<QQ", text, 16 * i) for i in range(4)]

begin = name(7, b"h") + stamp(1)
a = event(ALLOC, 3, 16, 100)
nested = begin + heap(1) + scope(2, 1) + scope(3, 2) + a
write("outer-scope-first", nested + event(END, 2) + event(FREE, 3, 16, 100))
write("both-outer-first", nested + event(END, 2) + event(END, 3) + event(END, 1))
write("heap-before-scopes", nested + event(END, 1) + event(FREE, 3, 16, 100))
write("heap-before-heap", begin + heap(1) + heap(2, 1) + event(ALLOC, 2, 5, 100) + event(END, 1) + event(ALLOC, 2, 16, 100))
write("slot-taken-twice", nested + heap(1) + event(ALLOC, 1, 16, 300) + scope(3, 1) + a + event(END, 3) + event(END, 1))
write("no-slot", begin + heap(NO_SLOT) + scope(NO_SLOT, NO_SLOT) + event(ALLOC, NO_SLOT, 16, 100) + event(ALLOC, 0, 17, 50) +
      event(CLEAR, NO_SLOT) + event(END, NO_SLOT) + event(FREE, NO_SLOT, 16, 100) + event(FREE, 0, 17, 50))
write("lost-heap", begin + event(ALLOC, 0, 16, 100) + event(END, 5) + event(CLEAR, 5) + event(FREE, 0, 16, 100))
write("lost-free", begin + heap(1) + event(ALLOC, 1, 16, 100) + event(ALLOC, 1, 16, 200) + event(ALLOC, 1, 17, 50))
write("other-owner", begin + heap(1) + heap(2) + event(ALLOC, 1, 16, 100) + event(LEAVE, 1, 16, 100) + event(BECOME, 2, 16, 150) +
      event(LEAVE, 2, 16, 150) + event(ALLOC, 2, 18, 1000))
write("peak-during-move", begin + heap(1) + event(ALLOC, 1, 16, 1000) + stamp(3) + event(ALLOC, 1, 17, 2000, 2) + stamp(9) +
      event(MOVED, 1, 16, 1000), stamp(5) + event(ALLOC, 0, 99, 300, 3) + stamp(7) + event(FREE, 0, 99, 300, 3))
write("moved-before-it-was", begin + heap(1) + event(ALLOC, 1, 16, 10) + stamp(9) + event(MOVED, 1, 17, 1000),
      stamp(5) + event(ALLOC, 1, 17, 1000))
write("stamp-huge", begin + heap(1) + stamp(WORD) + event(ALLOC, 1, 16, 100))
write("names", name(7, b"\x1b]0;x\x07<\xc2\x9b\xff\xc0\xaf\xe0\x9f\xbf") + name(0, "caf\u00e9\nn0: 5 x\u20ac".encode() + b"\xe2\x82", 3) + stamp(1) +
      heap(1) + event(ALLOC, 1, 16, 4000, 3))
write("far-trail", begin + heap(1) + event(ALLOC, 1, 16, 100), number=1 << 24)
write("zero", begin, zero=1)
END
    check 'traces are made'
    plays outer-scope-first 6
    plays both-outer-first 7
    plays heap-before-scopes 7
    plays heap-before-heap 6
    plays slot-taken-twice 13
    plays no-slot 4
    plays lost-heap 2
    plays lost-free 5
    plays other-owner 6
    plays peak-during-move 6
    says 'recorded peak: 3300 bytes .* in 3 blocks at event 4;' && says ' 1 resized'
    check 'the peak is while there are both blocks'
    plays moved-before-it-was 4
    says ' 0 resized'
    check 'a block that came later is not what another one was before'
    plays stamp-huge 2
    [ "$(grep -m 1 '^mem_heap_B=' "$tmp/made.massif")" = mem_heap_B=0 ]
    check 'what is stamped beyond the end is at the end'
    plays names 2
    run --limit 1 --plot "$tmp/made.svg" --massif "$tmp/made.massif" "$tmp/names.trace"
    says "tag 'café?n0: 5 x€??'" && says "heap '?\]0;x?<????????'" && grep -q ' 4000 café?n0: 5 x€??$' "$tmp/made.massif"
    check 'what is in a name that a terminal must not get'
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$tmp/made.svg" 2>"$tmp/err"
    check 'nor a picture'
    (ulimit -v 1000000 && run "$tmp/far-trail.trace") >"$tmp/shell" 2>&1 # sanitizers need more
    says 'recorded peak: 100 bytes' || grep -q -i 'sanitizer\|shadow' "$tmp/err"
    check 'a thread of a large number'
    run "$tmp/zero.trace"
    complains 1 'byte 0: the header is damaged'
    check 'refused: something where zero should be'
fi

# -- Binary, of the forest example
if [ -x "$forest" ]; then
    memory() { "$forest" --quiet --scale-factors "$data/millennium.a_list" --output "$tmp/galaxies" "$@" "$data/trees_063.0"; }
    memory --trace "$tmp/forest.trace" --report csv:"$tmp/report.csv" >"$tmp/out" 2>"$tmp/err"
    check 'forest --trace'
    run --plot "$tmp/forest.svg" --massif "$tmp/forest.massif" "$tmp/forest.trace"
    [ "$status" = 0 ] && says ' 120 scopes' && says 'at the end 0 bytes' && says 'Physics/Star formation'
    check 'what is in it'
    parts_add_up "$tmp/forest.massif"
    check 'what the peak is made of adds up to it'
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
    for bytes in 1 7 8 10 32 60 5000 $((size / 2)) $((size - 1)); do
        head -c "$bytes" "$tmp/forest.trace" >"$tmp/cut.trace"
        run "$tmp/cut.trace"
        complains 1 'cut'
        check "refused: cut at $bytes"
    done
    for byte in 0 3 7 9 20 33 37 50 100 $((size / 3)) $((size - 20)); do
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
