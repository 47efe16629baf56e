#!/bin/sh
# The forest example from outside: forest_test.sh FOREST DATA, the built program (or the directory it is in) and the
# directory tests/data. What is expected comes from od and awk reading the files themselves, not from the program.

forest=${1:?usage: forest_test.sh FOREST DATA}
data=${2:?usage: forest_test.sh FOREST DATA}
[ -d "$forest" ] && forest=$forest/forest
trees=$data/trees_063.0
name=galaxies_063_z0.000.bin

# shellcheck source=tests/outside.sh
. "$(dirname "$0")/outside.sh"

run() { # run ARGUMENT...: leaves $status, $tmp/out, $tmp/err
    "$forest" "$@" >"$tmp/out" 2>"$tmp/err"
    status=$?
}

fresh() { # fresh DIR: makes it, empty
    rm -rf "${tmp:?}/$1"
    mkdir "$tmp/$1"
}

says() { grep -F -- "$1" "$tmp/err"; }
prints() { grep -F -- "$1" "$tmp/out"; }
empty() { [ -z "$(ls -A "$1")" ]; }

# numbers FILE OFFSET COUNT TYPE: numbers of the file, one a line; TYPE as for od -t.
numbers() {
    size=$(printf %s "$4" | tr -d '[:alpha:]')
    od -A n -v -j "$2" -N "$(($3 * size))" -t "$4" "$1" | tr -s ' ' '\n' | sed '/^$/d'
}

# --- What is in the tree file: header 8 bytes, table, halos of 104 bytes with SnapNum at 88 ---

tree_count=$(numbers "$trees" 0 1 d4)
halo_count=$(numbers "$trees" 4 1 d4)
first_halo=$((8 + 4 * tree_count))
halos_at_63=$(numbers "$trees" "$first_halo" "$((26 * halo_count))" d4 |
    awk 'NR % 26 == 23 && $1 == 63 { n++ } END { print n + 0 }')

# Only the first halo of a group has an Mvir, the 8th of the 26 words of a halo.
mass_at_63=$(
    numbers "$trees" "$first_halo" "$((26 * halo_count))" d4 | awk 'NR % 26 == 23' >"$tmp/snapshots"
    numbers "$trees" "$first_halo" "$((26 * halo_count))" f4 | awk 'NR % 26 == 8' |
        paste -d ' ' "$tmp/snapshots" - | awk '$1 == 63 { sum += $2 } END { printf "%.6e", sum }'
)

# place GLOBAL: "TREE HALO" of the halo that is that far into the file
place() {
    numbers "$trees" 8 "$tree_count" d4 |
        awk -v left="$1" '{ if (left < $1) { print NR - 1, left; exit } left -= $1 }'
}

# --- The command line ---

run --help
ok "--help: status" [ "$status" -eq 0 ]
for option in --help --output --snapshots --plot --scale-factors --threads --limit --buffer-mb --no-mapping --no-pool --no-scope \
    --no-array --no-column --no-buffers --report --checked --quiet; do
    ok "--help: one line for $option" [ "$(grep -c "^  $option " "$tmp/out")" -eq 1 ]
done

wrong() { # wrong WHAT WORD ARGUMENT...: status 2, and the message has WORD
    what=$1 word=$2
    shift 2
    run "$@"
    ok "$what: status $status" [ "$status" -eq 2 ]
    ok "$what: message" says "$word"
}
fresh dir
wrong "unknown option" "'--frobnicate'" --frobnicate --output "$tmp/dir" "$trees"
wrong "no arguments" "--output"
wrong "no output" "--output" "$trees"
wrong "no tree file" "tree file" --output "$tmp/dir"
wrong "option without its value" "--limit" --output "$tmp/dir" "$trees" --limit
wrong "limit is no size" "'12parsecs'" --limit 12parsecs --output "$tmp/dir" "$trees"
wrong "limit of nothing" "'0'" --limit 0 --output "$tmp/dir" "$trees"
wrong "limit beyond 64 bits" "--limit" --limit 99999999T --output "$tmp/dir" "$trees"
wrong "limit of more digits than that" "--limit" --limit 99999999999999999999 --output "$tmp/dir" "$trees"
wrong "no thread" "'0'" --threads 0 --output "$tmp/dir" "$trees"
wrong "threads are no number" "'2x'" --threads 2x --output "$tmp/dir" "$trees"
wrong "no buffer" "'0'" --buffer-mb 0 --output "$tmp/dir" "$trees"
cp "$trees" "$tmp/first_tree"
wrong "a plot in place of a tree file" "'$tmp/first_tree'" --output "$tmp/dir" --plot "$tmp/first_tree" "$trees"
ok "a plot in place of a tree file: that is as it was" cmp "$trees" "$tmp/first_tree"
wrong "unknown format" "'xml'" --report xml --output "$tmp/dir" "$trees"
wrong "a report without its path" "behind the colon" --report html: --output "$tmp/dir" "$trees"
wrong "snapshots are no list" "'63,'" --snapshots 63, --output "$tmp/dir" "$trees"
ok "a wrong command line writes nothing" empty "$tmp/dir"

# --- A run ---

run --snapshots 63 --output "$tmp/first" "$trees"
ok "run: status" [ "$status" -eq 0 ]
ok "run: silent on stderr" [ ! -s "$tmp/err" ]
ok "run: only the galaxy file" [ "$(ls -A "$tmp/first")" = "$name" ]
ok "run: trees" grep -E "^Trees +$tree_count\$" "$tmp/out"
ok "run: halos" grep -E "^Halos +$halo_count\$" "$tmp/out"
ok "run: the worst forest is the largest tree" \
    [ "$(awk '/<- the worst/ { print $4 }' "$tmp/out")" -eq "$(numbers "$trees" 8 "$tree_count" d4 | sort -n | tail -n 1)" ]
ok "run: report names a physics tag" prints "Mergers"
cp "$tmp/out" "$tmp/summary"

# --- Reports: each form, alone or in a file, and during the run ---

for format in csv prometheus folded html; do
    run --report $format --snapshots 63 --output "$tmp/reported" "$trees"
    ok "report $format: status" [ "$status" -eq 0 ]
    ok "report $format: that alone" [ "$(grep -c '^Trees  ' "$tmp/out")" = 0 ]
    run --report "$format:$tmp/report.$format" --snapshots 63 --output "$tmp/reported" "$trees"
    ok "report $format in a file: status" [ "$status" -eq 0 ]
    ok "report $format in a file: and the summary" grep '^Trees  ' "$tmp/out"
done
ok "report csv: has its head" [ "$(head -n 1 "$tmp/report.csv")" = heap,tag,used,peak,blocks,total_blocks ]
ok "report csv: nothing is left in use" [ "$(awk -F, 'NR > 1 { s += $3 } END { print s + 0 }' "$tmp/report.csv")" = 0 ]
ok "report prometheus" grep -q '^sagemem_used_bytes{heap="heap",tag="Core/Trees"} 0$' "$tmp/report.prometheus"
ok "report html" grep -q '<svg id="treemap"' "$tmp/report.html"
run --report "text:$tmp/no/such/dir/report" --snapshots 63 --output "$tmp/reported" "$trees"
ok "report that cannot be written: status" [ "$status" -eq 1 ]

# SIGUSR1 while the scale factors are awaited: the report comes after the first forest, and the run goes on.
mkfifo "$tmp/awaited"
"$forest" --quiet --snapshots 63 --scale-factors "$tmp/awaited" --output "$tmp/reported" "$trees" >"$tmp/out" 2>"$tmp/err" &
exec 3>"$tmp/awaited" # comes back when the other end is open
kill -USR1 $!
cat "$data/millennium.a_list" >&3
exec 3>&-
wait $!
ok "report during the run: status" [ $? -eq 0 ]
ok "report during the run: once" [ "$(grep -c '^sagemem: process' "$tmp/err")" = 1 ]
ok "report during the run: the scopes so far" grep '^  forest 0 ' "$tmp/err"

# --- The galaxy file: header 80 bytes, see examples/forest/output.h ---

galaxies=$tmp/first/$name
header_size=$(numbers "$galaxies" 16 1 u4)
record_size=$(numbers "$galaxies" 20 1 u4)
galaxy_count=$(numbers "$galaxies" 40 1 u8)
ok "header: magic" [ "$(dd if="$galaxies" bs=1 count=8 2>/dev/null)" = GALAXIES ]
ok "header: byte order" [ "$(numbers "$galaxies" 8 1 u4)" -eq 16909060 ]
ok "header: version" [ "$(numbers "$galaxies" 12 1 u4)" -eq 2 ]
ok "header: sizes" [ "$header_size/$record_size" = 80/160 ]
ok "header: snapshot" [ "$(numbers "$galaxies" 24 1 d4)" -eq 63 ]
ok "header: tree files" [ "$(numbers "$galaxies" 28 1 d4)" -eq 1 ]
ok "header: trees" [ "$(numbers "$galaxies" 32 1 u8)" -eq "$tree_count" ]
ok "header: galaxies as in the summary" grep -F "$name: $galaxy_count galaxies" "$tmp/summary"
ok "length of the file" [ "$(wc -c <"$galaxies")" -eq $((header_size + galaxy_count * record_size)) ]

# Record: int32 file, tree, number, central, type, ... and from byte 64 doubles m_vir, r_vir, cold, stars, bulge, hot,
# ejected, black_hole, star_formation, mean_age, infall_stars, infall_mean_age. Here as lines of: tree, central, type
# and the doubles.
numbers "$galaxies" 80 "$((galaxy_count * 40))" d4 |
    awk '{ field = NR % 40; value[field] = $1 } field == 0 { print value[2], value[4], value[5] }' >"$tmp/integers"
numbers "$galaxies" 80 "$((galaxy_count * 20))" f8 |
    awk 'NR % 20 > 8 || NR % 20 == 0 { printf "%s%s", $1, NR % 20 ? " " : "\n" }' >"$tmp/doubles"
paste -d ' ' "$tmp/integers" "$tmp/doubles" >"$tmp/records"

ok "every halo at snapshot 63 has a galaxy of its own, and one only" \
    [ "$(awk '$3 < 2' "$tmp/records" | wc -l)" -eq "$halos_at_63" ]
ok "all other galaxies are orphans" \
    [ "$(awk '$3 == 2' "$tmp/records" | wc -l)" -eq $((galaxy_count - halos_at_63)) ]
ok "centrals have the masses of their groups" \
    [ "$(awk '$3 == 0 { sum += $4 } END { printf "%.6e", sum }' "$tmp/records")" = "$mass_at_63" ]
ok "no mass is negative, no bulge above its stars" awk '
    { for (i = 4; i <= 12; i++) if (!($i >= 0 && $i < 1e5)) exit 1; if ($8 > $7 * (1 + 1e-12)) exit 1 }' "$tmp/records"
ok "stars are as old as the universe at most, and have an age if they are there" awk '
    { if (!($13 >= 0 && $13 < 13.7 && ($7 > 0) == ($13 > 0))) exit 1; if (!($14 >= 0 && $15 >= 0 && $15 < 13.7)) exit 1 }
    $3 == 0 { if ($14 != $7 || $15 != $13) exit 1 }' "$tmp/records"
ok "what fell in forms few stars, and they grow older" awk '
    $3 == 2 && $7 > 0 { n++; now += $7; then += $14; old += $13; young += $15 }
    END { exit !(n > 10 && then > 0 && now < 2 * then && old > young) }' "$tmp/records"
ok "every group has its share of baryons" awk '
    { baryons[$1, $2] += $6 + $7 + $9 + $10 + $11 }
    $3 == 0 { mass[$1, $2] = $4 }
    END { for (group in mass) if (baryons[group] < 0.17 * mass[group] * (1 - 1e-9)) exit 1 }' "$tmp/records"

sums=$(awk '{ stars += $7; baryons += $6 + $7 + $9 + $10 + $11 }
    END { printf "%.6e %.6e", stars * 1e10, baryons * 1e10 }' "$tmp/records")
ok "stars add up to the summary's" grep -F "$name: $galaxy_count galaxies, ${sums% *} Msun/h" "$tmp/summary"
ok "baryons add up to the summary's" grep -F ", ${sums#* } are there" "$tmp/summary"
ok "baryons are conserved" awk '/^Baryon balance/ { good = $3 + 0 < 1e-12 } END { exit !good }' "$tmp/summary"

# FNV-1a of what follows the header, in the shell's 64-bit arithmetic.
checksum=$(
    od -A n -v -j "$header_size" -t u1 "$galaxies" | tr -s ' ' '\n' | sed '/^$/d' | {
        hash=-3750763034362895579
        while read -r byte; do
            hash=$(((hash ^ byte) * 1099511628211))
        done
        echo "$hash"
    }
)
ok "checksum of the records" [ "$(numbers "$galaxies" 64 1 d8)" = "$checksum" ]

# --- The same bytes, however it is run ---

same() { # same WHAT ARGUMENT...: a run that gives the same galaxies
    what=$1
    shift
    fresh again
    run --snapshots 63 --output "$tmp/again" "$@" "$trees"
    ok "$what: status" [ "$status" -eq 0 ]
    ok "$what: same galaxies" cmp "$galaxies" "$tmp/again/$name"
}
same "again"
same "checked" --checked
same "with a limit that is enough" --limit 1GiB
same "two snapshots" --snapshots 40,63
ok "two snapshots: both are there" [ -s "$tmp/again/galaxies_040_z1.078.bin" ]
same "scale factors from a file" --scale-factors "$data/millennium.a_list"
same "all snapshots" --snapshots all
ok "all snapshots: there are 64" [ "$(ls -A "$tmp/again" | wc -l)" -eq 64 ]
same "with a plot" --plot "$tmp/plot.svg"
cp "$tmp/plot.svg" "$tmp/first.svg"
same "with a plot again" --plot "$tmp/plot.svg"
ok "with a plot again: same picture" cmp "$tmp/first.svg" "$tmp/plot.svg"
ok "plot: nothing is left beside it" [ ! -e "$tmp/plot.svg.part" ]
ok "plot: every galaxy is in it that has stars enough" [ "$(awk '$7 >= 1e-4' "$tmp/records" | wc -l)" -eq \
    "$(sed -n 's/.* data-count="\([0-9]*\)".*/\1/p' "$tmp/plot.svg" | awk '{ sum += $1 } END { print sum + 0 }')" ]
ok "plot: bins as in the summary" [ "$(sed -n 's/.* data-count="\([0-9]*\)".*/\1/p' "$tmp/plot.svg")" = \
    "$(awk 'NF == 0 { on = 0 } on && $2 > 0 { print $2 } /^Stellar mass function/ { on = 1 }' "$tmp/summary")" ]
same "brief report" --report brief
same "quiet" --quiet
ok "quiet: prints nothing" [ ! -s "$tmp/out" ]
same "quiet, but a report" --quiet --report json
ok "quiet, but a report: JSON alone" [ "$(dd if="$tmp/out" bs=1 count=1 2>/dev/null)" = "{" ]

run --quiet --snapshots 63 --output "$tmp/again" "$trees"
ok "an old galaxy file is replaced" cmp "$galaxies" "$tmp/again/$name"

fresh twice
run --quiet --snapshots 63 --output "$tmp/twice" "$trees" "$trees"
ok "two tree files: status" [ "$status" -eq 0 ]
ok "two tree files: twice the galaxies" [ "$(numbers "$tmp/twice/$name" 40 1 u8)" -eq $((2 * galaxy_count)) ]

# --- What cannot work is refused, by name, and leaves nothing ---

refused() { # refused WHAT MESSAGE ARGUMENT...
    what=$1 message=$2
    shift 2
    fresh dir
    run --snapshots 63 --output "$tmp/dir" "$@"
    ok "$what: status $status" [ "$status" -eq 1 ]
    ok "$what: says '$message'" says "$message"
    ok "$what: leaves no file" empty "$tmp/dir"
}
refused "missing file" "$tmp/missing: cannot open" "$tmp/missing"
refused "a directory" "$tmp/dir:" "$tmp/dir"
refused "missing file after a good one" "$tmp/missing: cannot open" "$trees" "$tmp/missing"
refused "a limit that is not enough for anything" "limit" --limit 4K "$trees"
# The least limit with which a tree is begun is not enough for the larger ones.
limit=200
until run --snapshots 63 --limit "${limit}K" --output "$tmp/dir" "$trees" && says "$trees: tree " >/dev/null || [ "$limit" -ge 2000 ]; do
    limit=$((limit + 10))
done
refused "a limit that is not enough for a tree" "$trees: tree " --limit "${limit}K" "$trees"
refused "a plot that cannot be made" "$tmp/no/plot.svg: cannot create" --plot "$tmp/no/plot.svg" "$trees"
refused "a plot of a run that fails" "limit" --limit "${limit}K" --plot "$tmp/dir/plot.svg" "$trees"
refused "a snapshot that is none" "no snapshot 64" --snapshots 63,64 "$trees"
printf '0.5\n0.4\n' >"$tmp/a_list"
refused "decreasing scale factors" "$tmp/a_list: line 2" --scale-factors "$tmp/a_list" "$trees"
printf '0.5\nhalf\n' >"$tmp/a_list"
refused "a scale factor that is none" "$tmp/a_list: line 2" --scale-factors "$tmp/a_list" "$trees"
run --output "$tmp/no/where" "$trees"
ok "a directory that cannot be made: status" [ "$status" -eq 1 ]
ok "a directory that cannot be made: message" says "$tmp/no/where"

bad=$tmp/bad
damage() { # damage OFFSET BYTES: a copy of the trees with these bytes, as printf writes them, at the offset
    cp "$trees" "$bad" && chmod u+w "$bad"
    # shellcheck disable=SC2059
    printf "$2" | dd of="$bad" bs=1 seek="$1" conv=notrunc 2>/dev/null
}

cut=400000
dd if="$trees" of="$bad" bs="$cut" count=1 2>/dev/null
# shellcheck disable=SC2046
set -- $(place $(((cut - first_halo) / 104)))
refused "short file" "$bad: tree $1, halo $2: the file ends here" "$bad"

dd if="$trees" of="$bad" bs=100 count=1 2>/dev/null
refused "short table" "$bad: its header says $tree_count trees" "$bad"

dd if="$trees" of="$bad" bs=6 count=1 2>/dev/null
refused "short header" "$bad: cannot read the header" "$bad"

damage 0 '\377\377\377\377'
refused "negative number of trees" "$bad: its header says -1 trees" "$bad"

damage 0 '\377\377\377\177'
refused "absurd number of trees" "$bad: its header says 2147483647 trees" "$bad"

damage 4 '\001\000\000\000'
refused "wrong number of halos" "$bad: its trees have $halo_count halos, but its header says 1" "$bad"

damage $((8 + 4 * 5)) '\376\377\377\377'
refused "negative number of halos" "$bad: tree 5: it cannot have -2 halos" "$bad"

cp "$trees" "$bad" && chmod u+w "$bad" && printf x >>"$bad"
refused "bytes at the end" "$bad: 1 bytes follow" "$bad"

halo() { # halo GLOBAL OFFSET BYTES: damages that halo; $where names it
    damage $((first_halo + 104 * $1 + $2)) "$3"
    # shellcheck disable=SC2046
    set -- $(place "$1")
    where="$bad: tree $1, halo $2:"
}
halo 200 0 '\100\102\017\000'
refused "link out of the tree" "$where Descendant is 1000000" "$bad"
halo 200 4 '\376\377\377\377'
refused "negative link" "$where FirstProgenitor is -2" "$bad"
halo 200 12 '\377\377\377\377'
refused "no group" "$where FirstHaloInFOFgroup is -1" "$bad"
halo 300 20 '\000\000\000\000'
refused "no particles" "$where Len is 0" "$bad"
halo 300 24 '\000\000\200\377'
refused "infinite mass" "$where M_Mean200 is -inf" "$bad"
halo 300 28 '\000\000\300\177'
refused "mass that is not a number" "$where Mvir is nan" "$bad"
halo 300 32 '\000\000\200\277'
refused "negative mass" "$where M_TopHat is -1" "$bad"
halo 300 40 '\000\000\300\177'
refused "position that is not a number" "$where Pos is" "$bad"
halo 400 88 '\100\000\000\000'
refused "snapshot beyond the last" "$where SnapNum is 64" "$bad"
halo 400 88 '\377\377\377\377'
refused "negative snapshot" "$where SnapNum is -1" "$bad"

# Halo 1 of tree 0 is the first progenitor of halo 0, and both are first in their groups.
halo 1 8 '\001\000\000\000'
refused "progenitors in a circle" "$where it is met twice" "$bad"
halo 0 16 '\000\000\000\000'
refused "group in a circle" "$where NextHaloInFOFgroup is 0, which leads in a circle" "$bad"
halo 0 16 '\001\000\000\000'
refused "halo of another group" "$where NextHaloInFOFgroup is 1, a halo of another group" "$bad"
halo 1 12 '\000\000\000\000'
refused "group whose list misses it" "$where FirstHaloInFOFgroup is 0, whose list" "$bad"
halo 1 0 '\377\377\377\377'
refused "progenitor that does not know" "$where Descendant is -1, but" "$bad"
halo 0 4 '\377\377\377\377'
where="$bad: tree 0, halo 1:"
refused "descendant that does not know" "$where Descendant is 0, which does not list it" "$bad"
halo 1 88 '\077\000\000\000'
refused "progenitor as late as its descendant" "$where SnapNum is 63, not before" "$bad"

run --quiet --snapshots 63 --output "$tmp/dir" "$trees"
ok "after all that, a good run" cmp "$galaxies" "$tmp/dir/$name"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
