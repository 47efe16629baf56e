#!/bin/sh
# The tree generator from outside: trees_test.sh BUILD/trees DATA, where BUILD has forest_trees and forest. The structure
# of the trees is checked by od and awk, which know only the format; then by the program that reads them.

build=$(dirname "${1:?usage: trees_test.sh BUILD/trees DATA}")
data=${2:?usage: trees_test.sh BUILD/trees DATA}
make_trees=$build/forest_trees
forest=$build/forest

# shellcheck source=tests/outside.sh
. "$(dirname "$0")/outside.sh"

run() { # run ARGUMENT...: leaves $status, $tmp/out, $tmp/err
    "$make_trees" "$@" >"$tmp/out" 2>"$tmp/err"
    status=$?
}

says() { grep -F -- "$1" "$tmp/err"; }
prints() { grep -F -- "$1" "$tmp/out"; }
differ() { ! cmp -s "$1" "$2"; }

# numbers FILE OFFSET COUNT TYPE: numbers of the file, one a line; TYPE as for od -t.
numbers() {
    size=$(printf %s "$4" | tr -d '[:alpha:]')
    od -A n -v -j "$2" -N "$(($3 * size))" -t "$4" "$1" | tr -s ' ' '\n' | sed '/^$/d'
}

# records FILE OFFSET COUNT TYPE WORDS: so many numbers on each line
records() { numbers "$1" "$2" "$(($3 * $5))" "$4" | awk -v words="$5" '{ ORS = NR % words ? " " : "\n"; print }'; }

# --- The command line ---

run --help
ok "--help: status" [ "$status" -eq 0 ]
for option in --help --output --trees --halos --huge --files --seed; do
    ok "--help: one line for $option" [ "$(grep -c "^  $option " "$tmp/out")" -eq 1 ]
done

wrong() { # wrong WHAT WORD ARGUMENT...: status 2, and the message has WORD
    what=$1 word=$2
    shift 2
    run "$@"
    ok "$what: status $status" [ "$status" -eq 2 ]
    ok "$what: message" says "$word"
    ok "$what: makes nothing" [ ! -e "$tmp/none" ]
}
wrong "no arguments" "--output"
wrong "unknown option" "'--frobnicate'" --frobnicate --output "$tmp/none"
wrong "an argument" "'trees'" --output "$tmp/none" trees
wrong "option without its value" "--seed needs" --output "$tmp/none" --seed
wrong "trees are no number" "'many'" --trees many --output "$tmp/none"
wrong "too few trees" "'-1'" --trees -1 --output "$tmp/none"
wrong "too small trees" "'10'" --halos 10 --output "$tmp/none"
wrong "no files" "'0'" --files 0 --output "$tmp/none"
wrong "number and more" "'7x'" --seed 7x --output "$tmp/none"
wrong "beyond 64 bits" "'99999999999999999999'" --seed 99999999999999999999 --output "$tmp/none"

run --output "$tmp/no/where"
ok "a directory that cannot be made: status" [ "$status" -eq 1 ]
ok "a directory that cannot be made: message" says "$tmp/no/where"

# --- The same bytes everywhere ---

small="--trees 60 --halos 90 --seed 7"
run $small --output "$tmp/small"
ok "small: status" [ "$status" -eq 0 ]
ok "small: silent on stderr" [ ! -s "$tmp/err" ]
ok "small: nothing but the trees and the scale factors" \
    [ "$(ls -A "$tmp/small" | tr '\n' ' ')" = "trees.a_list trees_063.0 " ]
trees=$tmp/small/trees_063.0
ok "small: the scale factors are those of the Millennium run" cmp "$tmp/small/trees.a_list" "$data/millennium.a_list"
ok "small: the bytes that every machine makes" [ "$(cksum <"$trees")" = "3487564059 529192" ]
cp "$tmp/out" "$tmp/summary"

run $small --output "$tmp/again"
ok "again: same bytes" cmp "$trees" "$tmp/again/trees_063.0"
run --trees 60 --halos 90 --seed 8 --output "$tmp/other"
ok "another seed: other bytes" differ "$trees" "$tmp/other/trees_063.0"

# Files differ from one file in their headers, and in the number of the file that each halo has.
run $small --files 3 --output "$tmp/three"
ok "three files: status" [ "$status" -eq 0 ]
ok "three files: there are three" [ "$(ls "$tmp/three" | grep -c trees_063)" -eq 3 ]
halos_of() { # halos_of FILE: one a line
    records "$1" $((8 + 4 * $(numbers "$1" 0 1 d4))) "$(numbers "$1" 4 1 d4)" d4 26
}
without_file() { awk '{ $24 = ""; print }'; }
halos_of "$trees" | without_file >"$tmp/one_file"
for i in 0 1 2; do halos_of "$tmp/three/trees_063.$i"; done | without_file >"$tmp/three_files"
ok "three files: the same trees" cmp "$tmp/one_file" "$tmp/three_files"
ok "three files: each halo tells its file" \
    [ "$(halos_of "$tmp/three/trees_063.2" | awk '{ print $24 }' | sort -u)" = 2 ]

# --- What a tree must be; a halo has 26 words: five links, Len, three masses, ... SnapNum the 23rd ---

tree_count=$(numbers "$trees" 0 1 d4)
halo_count=$(numbers "$trees" 4 1 d4)
first_halo=$((8 + 4 * tree_count))
ok "counts: 60 trees" [ "$tree_count" -eq 60 ]
ok "counts: the table adds up" \
    [ "$(numbers "$trees" 8 "$tree_count" d4 | awk '{ sum += $1 } END { print sum }')" -eq "$halo_count" ]
ok "counts: the file is as long as that" [ "$(wc -c <"$trees")" -eq $((first_halo + 104 * halo_count)) ]
ok "counts: so says the summary" grep -E "^Halos +$halo_count," "$tmp/summary"

numbers "$trees" 8 "$tree_count" d4 | sed 's/^/tree /' >"$tmp/halos"
halos_of "$trees" | awk '{ print $1, $2, $3, $4, $5, $6, $23 }' >"$tmp/integers"
records "$trees" "$first_halo" "$halo_count" f4 26 | awk '{ print $7, $8, $9, $10, $11, $12, $17 }' >"$tmp/floats"
paste -d ' ' "$tmp/integers" "$tmp/floats" >>"$tmp/halos"

side=$(awk '/^Box/ { print $2 }' "$tmp/summary")
cat >"$tmp/structure.awk" <<'EOF'
BEGIN { n = 0 }
function wrong(what) { print "tree " tree ", halo " i ": " what; bad = 1; exit 1 }
function near(a, b) { return a - b < 1e-5 * b && b - a < 1e-5 * b }
$1 == "tree" { size[++trees] = $2; next }
{
    if (n == 0) tree++
    descendant[n] = $1; progenitor[n] = $2; sibling[n] = $3; first[n] = $4; next_one[n] = $5; len[n] = $6; snapshot[n] = $7
    mean[n] = $8; mass[n] = $9; top_hat[n] = $10; v_max[n] = $14
    for (k = 11; k <= 13; k++) if (!($k >= 0 && $k < side)) wrong("outside the box")
    if (++n == size[tree]) { check(); n = 0; all += size[tree] }
}
function check() {
    for (i = 0; i < n; i++) seen[i] = listed[i] = mains[i] = 0
    for (i = 0; i < n; i++) {
        if (len[i] < 20) wrong("too few particles")
        if (!(v_max[i] > 10 && v_max[i] < 5000)) wrong("Vmax " v_max[i])
        if ((snapshot[i] == 63) != (descendant[i] < 0)) wrong("without descendant")
        if (descendant[i] >= 0 && snapshot[descendant[i]] != snapshot[i] + 1) wrong("a descendant at another snapshot")
        for (j = progenitor[i]; j >= 0; j = sibling[j]) { if (descendant[j] != i || seen[j]++) wrong("progenitor " j) }
        if (first[i] != i) { if (mass[i] != 0 || mean[i] != 0 || top_hat[i] != 0) wrong("a satellite with a virial mass"); satellites++; continue }
        sum = 0
        for (j = i; j >= 0; j = next_one[j]) {
            if (first[j] != i || listed[j]++ || snapshot[j] != snapshot[i]) wrong("group member " j)
            sum += len[j]
        }
        if (!near(sum * 0.0860657, mass[i])) wrong(sum " particles, mass " mass[i])
        if (mean[i] < top_hat[i] || top_hat[i] < mass[i]) wrong("masses in the wrong order")
        j = progenitor[i]
        if (j >= 0 && mass[j] > mass[i]) wrong("its mass has fallen")
        if (j >= 0 && sibling[j] >= 0) mergers++
        groups += snapshot[i] == 63
    }
    for (i = 0; i < n; i++) if (!listed[i] || (descendant[i] >= 0 && !seen[i])) wrong("in no list")
    for (i = 0; i < n; i++) roots += snapshot[i] == 63 && first[i] == i
}
END { if (bad) exit 1; print all + 0, trees, tree, roots, satellites, mergers; if (roots != trees || tree != trees) exit 1 }
EOF
ok "structure: links, groups, masses, places" awk -v side="$side" -f "$tmp/structure.awk" "$tmp/halos"
awk -v side="$side" -f "$tmp/structure.awk" "$tmp/halos" >"$tmp/counts"
ok "structure: all halos were looked at" [ "$(cut -d ' ' -f 1 "$tmp/counts")" -eq "$halo_count" ]
ok "structure: there are satellites and mergers" awk '{ exit !($5 > 100 && $6 > 100) }' "$tmp/counts"

# --- Many trees: their sizes, and galaxies in them ---

run --trees 2000 --halos 100 --files 2 --output "$tmp/many"
ok "many: status" [ "$status" -eq 0 ]
for i in 0 1; do numbers "$tmp/many/trees_063.$i" 8 1000 d4; done | sort -n >"$tmp/sizes"
ok "many: about as many halos as asked for" awk '{ sum += $1 } END { exit !(sum > 2000 * 70 && sum < 2000 * 140) }' "$tmp/sizes"
ok "many: sizes from a few to many halos" [ "$(head -n 1 "$tmp/sizes")" -lt 60 -a "$(tail -n 1 "$tmp/sizes")" -gt 1000 ]

"$forest" --quiet --snapshots 63 --output "$tmp/small" "$trees" >"$tmp/out" 2>"$tmp/err"
ok "small: forest takes them" [ $? -eq 0 ]
"$forest" --snapshots 63 --output "$tmp/many" --plot "$tmp/many/mass.svg" --scale-factors "$tmp/many/trees.a_list" \
    "$tmp/many/trees_063.0" "$tmp/many/trees_063.1" >"$tmp/out" 2>"$tmp/err"
ok "many: forest takes them" [ $? -eq 0 ]
ok "many: no baryon is lost or made" awk '/^Baryon balance/ { good = $3 + 0 < 1e-12 } END { exit !good }' "$tmp/out"
ok "many: galaxies merge, most of them with larger ones" \
    awk '/^Mergers/ { good = $2 > 1000 && $3 > 10 && $3 < $2 / 4 } END { exit !good }' "$tmp/out"

# The mass function from the galaxies themselves: stars are the fourth of the twelve doubles at the end of a record of 20.
galaxies=$tmp/many/galaxies_063_z0.000.bin
records "$galaxies" 80 "$(numbers "$galaxies" 40 1 d8)" f8 20 | awk '
    $12 * 1e10 >= 1e6 { bin = int((log($12 * 1e10) / log(10) - 6) * 4); count[bin > 27 ? 27 : bin]++ }
    END { for (bin = 0; bin < 28; bin++) if (count[bin]) printf "%.3f %d\n", 6.125 + bin / 4, count[bin] }' >"$tmp/expected"
sed -n 's/.*data-log-mass="\([0-9.]*\)" data-count="\([0-9]*\)".*/\1 \2/p' "$tmp/many/mass.svg" >"$tmp/drawn"
ok "plot: has the galaxies of the file, bin by bin" cmp "$tmp/expected" "$tmp/drawn"
ok "plot: all of a galaxy's mass" [ "$(wc -l <"$tmp/drawn")" -gt 10 ]

# Between 10^9.5 and 10^12 Msun/h there are fewer galaxies the heavier they are, each half dex, and far fewer in the end.
ok "plot: falls towards large masses" awk '
    $1 > 9.5 && $1 < 11.5 { count[int(($1 - 9.5) * 2)] += $2 }
    END { for (i = 1; i < 4; i++) if (!(count[i] < count[i - 1])) exit 1; exit !(count[3] > 0 && count[3] * 5 < count[0]) }' "$tmp/drawn"

# --- One huge tree ---

halos=200000
[ -n "${SAGEMEM_TEST_SLOW:-}" ] && halos=30000
run --trees 3 --halos 50 --huge "$halos" --output "$tmp/huge"
ok "huge: status" [ "$status" -eq 0 ]
ok "huge: it is the last of four" [ "$(numbers "$tmp/huge/trees_063.0" 0 1 d4)" -eq 4 ]
last=$(numbers "$tmp/huge/trees_063.0" $((8 + 4 * 3)) 1 d4)
ok "huge: about as large as asked for" [ "$last" -gt $((halos * 8 / 10)) -a "$last" -lt $((halos * 12 / 10)) ]
"$forest" --snapshots 63 --output "$tmp/huge" "$tmp/huge/trees_063.0" >"$tmp/out" 2>"$tmp/err"
ok "huge: forest takes it" [ $? -eq 0 ]
ok "huge: it is the worst forest" [ "$(awk '/<- the worst/ { print $1, $4 }' "$tmp/out")" = "3 $last" ]
ok "huge: no baryon is lost or made" awk '/^Baryon balance/ { good = $3 + 0 < 1e-11 } END { exit !good }' "$tmp/out"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
