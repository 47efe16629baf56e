#!/bin/sh
# The forest example with each of its tools on and off: combinations_test.sh BUILD/combinations DATA, where BUILD has
# forest and forest_trees. Whatever is switched off and however many threads there are, all files are the same to the
# byte; and when something fails, no file is there at all.

build=$(dirname "${1:?usage: combinations_test.sh BUILD/combinations DATA}")
data=${2:?usage: combinations_test.sh BUILD/combinations DATA}
forest=$build/forest

# shellcheck source=tests/outside.sh
. "$(dirname "$0")/outside.sh"

run() { # run ARGUMENT...: leaves $status, $tmp/out, $tmp/err; the galaxies are in $tmp/dir
    rm -rf "$tmp/dir"
    "$forest" --output "$tmp/dir" "$@" >"$tmp/out" 2>"$tmp/err"
    status=$?
}

says() { grep -F -- "$1" "$tmp/err"; }
empty() { [ -z "$(ls -A "$1" 2>/dev/null)" ]; }

# --- Two sets of trees: those of the tests; and made ones, in two files, with galaxies enough ---

"$build/forest_trees" --trees 24 --halos 60 --files 2 --seed 3 --output "$tmp/trees" >/dev/null || exit 1
set -- --plot "$tmp/plot.svg" "$data/trees_063.0" "$tmp/trees/trees_063.0" "$tmp/trees/trees_063.1"
run "$@"
ok "all tools: status" [ "$status" -eq 0 ]
# shellcheck disable=SC2012
ok "all tools: 64 files" [ "$(ls -A "$tmp/dir" | wc -l)" -eq 64 ]
mv "$tmp/dir" "$tmp/expected"
cp "$tmp/plot.svg" "$tmp/expected.svg"
ok "all tools: there are galaxies" [ "$(wc -c <"$tmp/expected/galaxies_063_z0.000.bin")" -gt 40000 ]

same() { # same WHAT ARGUMENT...
    what=$1
    shift
    run --quiet "$@"
    ok "$what: status $status" [ "$status" -eq 0 ]
    ok "$what: same bytes" diff -r "$tmp/expected" "$tmp/dir"
    ok "$what: same picture" cmp "$tmp/expected.svg" "$tmp/plot.svg"
}

# Every combination, with 1, 2 and 4 threads. Where everything is slow, a part of them.
step=1
[ -n "${SAGEMEM_TEST_SLOW:-}" ] && step=7
combination=0
while [ "$combination" -lt 64 ]; do
    off=
    bit=1
    for option in --no-mapping --no-pool --no-scope --no-array --no-column --no-buffers; do
        [ $((combination / bit % 2)) -eq 1 ] && off="$off $option"
        bit=$((bit * 2))
    done
    for threads in 1 2 4; do
        # shellcheck disable=SC2086
        same "threads $threads${off:-, all on}" --threads "$threads" $off "$@"
    done
    combination=$((combination + step))
done
same "from run to run" "$@"
same "16 threads" --threads 16 "$@"
same "checked, 4 threads" --checked --threads 4 "$@"
same "small buffers" --buffer-mb 1 "$@"
same "a limit that is enough" --limit 64M --threads 4 "$@"
same "no scopes, checked" --checked --no-scope --no-pool "$@"

# --- Reports ---

run --report json "$@"
ok "JSON: one object" [ "$(head -c 1 "$tmp/out")$(tail -n 1 "$tmp/out")" = '{}' -o "$(tail -c 2 "$tmp/out" | head -c 1)" = '}' ]
if command -v python3 >/dev/null 2>&1; then
    ok "JSON: can be read" python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d["trees"] == 144 and len(d["worst_forests"]) == 5 and d["memory"]' "$tmp/out"
fi
run --threads 3 "$@"
for word in Core Physics Galaxies Cooling "Star formation" Mergers "at peak" "The worst forests"; do
    ok "report: $word" grep -F "$word" "$tmp/out"
done
ok "report: nothing is left in use" grep -E '^ +total +0 B ' "$tmp/out"
ok "no progress where nobody watches" [ ! -s "$tmp/err" ]

# --- Failures: no file is left, or the old ones stay ---

bad=$tmp/bad
cp "$data/trees_063.0" "$bad" && chmod u+w "$bad"
tree_count=$(od -A n -t d4 -N 4 "$bad" | tr -d ' ')
# The last halo's mass is not a number: forests before it are under way or done.
# shellcheck disable=SC2046
printf '\000\000\300\177' | dd of="$bad" bs=1 seek=$(($(wc -c <"$bad") - 104 + 28)) conv=notrunc 2>/dev/null
for threads in 1 2 4; do
    for off in "" --no-scope --no-pool; do
        # shellcheck disable=SC2086
        run --threads "$threads" $off "$data/trees_063.0" "$bad" "$tmp/trees/trees_063.0"
        ok "damaged, threads $threads $off: status" [ "$status" -eq 1 ]
        ok "damaged, threads $threads $off: names file, tree, halo" says "$bad: tree $((tree_count - 1)), halo "
        ok "damaged, threads $threads $off: no file" empty "$tmp/dir"
    done
done
run --threads 4 "$data/trees_063.0" "$tmp/missing" "$bad"
ok "missing file, threads 4: the first of two complaints" says "$tmp/missing: cannot open"
ok "missing file, threads 4: no file" empty "$tmp/dir"

run --threads 4 --limit 600K "$@"
ok "too low a limit, threads 4: status" [ "$status" -eq 1 ]
ok "too low a limit, threads 4: names what met it" says "limit"
ok "too low a limit, threads 4: no file" empty "$tmp/dir"

# A disk that is full, as the system says it of a file that may not grow. Output of the test goes to files, too.
for threads in 1 4; do
    for blocks in 0 1 20; do
        (
            ulimit -f "$blocks"
            rm -rf "$tmp/dir"
            exec "$forest" --quiet --threads "$threads" --output "$tmp/dir" "$@"
        ) 2>&1 | cat >"$tmp/err"
        ok "full disk, $blocks blocks, threads $threads: says so" says "$tmp/dir/galaxies_"
        ok "full disk, $blocks blocks, threads $threads: no file" empty "$tmp/dir"
    done
done

# An interrupt. With the trees many times over there is time for one. Old files stay.
long="$data/trees_063.0"
for _ in 1 2 3 4 5 6 7; do long="$long $long"; done
for threads in 1 4; do
    for signal in INT TERM; do
        rm -rf "$tmp/dir" && mkdir "$tmp/dir" && echo old >"$tmp/dir/galaxies_063_z0.000.bin"
        # shellcheck disable=SC2086
        "$forest" --quiet --threads "$threads" --output "$tmp/dir" $long >"$tmp/out" 2>"$tmp/err" &
        sleep 0.2
        kill "-$signal" $!
        wait $!
        status=$?
        expected=130
        [ "$signal" = TERM ] && expected=143
        ok "SIG$signal, threads $threads: status $status" [ "$status" -eq "$expected" ]
        ok "SIG$signal, threads $threads: says so" says "interrupted after"
        ok "SIG$signal, threads $threads: the old file alone" [ "$(ls -A "$tmp/dir") $(cat "$tmp/dir"/*)" = "galaxies_063_z0.000.bin old" ]
    done
done

# An interrupt before the first tree, while the scale factors are awaited: files that are opened after it do not stay.
mkfifo "$tmp/a_list"
for threads in 1 4; do
    rm -rf "$tmp/dir"
    "$forest" --quiet --threads "$threads" --scale-factors "$tmp/a_list" --output "$tmp/dir" "$data/trees_063.0" >"$tmp/out" 2>"$tmp/err" &
    exec 3>"$tmp/a_list" # comes back when the other end is open
    kill -TERM $!
    cat "$data/millennium.a_list" >&3
    exec 3>&-
    wait $!
    status=$?
    ok "SIGTERM at the start, threads $threads: status $status" [ "$status" -eq 143 ]
    ok "SIGTERM at the start, threads $threads: says so" says "interrupted after 0 forests"
    ok "SIGTERM at the start, threads $threads: no file" empty "$tmp/dir"
done

# A thread that cannot be started: there are addresses for some, not for all. Tools that watch memory need too many.
# shellcheck disable=SC3045
if [ -z "${SAGEMEM_TEST_SLOW:-}" ] && (ulimit -v 500000) 2>/dev/null; then
    (
        ulimit -v 500000
        rm -rf "$tmp/dir"
        exec "$forest" --quiet --threads 200 --output "$tmp/dir" "$data/trees_063.0"
    ) >"$tmp/out" 2>"$tmp/err"
    ok "no thread: status" [ $? -eq 1 ]
    ok "no thread: says so" says "cannot be started"
    ok "no thread: no file" empty "$tmp/dir"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
