#!/bin/sh
# The forest example with galaxy files in HDF5: forest_hdf5_test.sh FOREST DATA. Its numbers, as h5dump prints them, are those
# of the binary form, as od reads it. Skipped where there is no HDF5.

forest=${1:?usage: forest_hdf5_test.sh FOREST DATA}
data=${2:?usage: forest_hdf5_test.sh FOREST DATA}
trees=$data/trees_063.0
name=galaxies_063_z0.000

if [ ! -x "$forest" ] || ! command -v h5dump >/dev/null; then
    echo 'skipped: HDF5 is not installed'
    exit 0
fi
# shellcheck source=tests/outside.sh
. "$(dirname "$0")/outside.sh"
fails() { ! "$@"; }

# All words of the records, read as numbers of this type, one a line.
words() { tail -c +81 "$tmp/binary/$name.bin" | od -A n -v -t "$1" | tr -s ' ' '\n' | sed '/^$/d'; }

# A record is 160 bytes: 7 integers, 7 floats, an integer of 8 bytes, 12 doubles.
binary_numbers() {
    words d4 | awk '{ i = (NR - 1) % 40; r = int((NR - 1) / 40) } i < 7 { print r, i, $1 }'
    words f4 | awk '{ i = (NR - 1) % 40; r = int((NR - 1) / 40) } i >= 7 && i < 14 { print r, i, $1 }'
    words d8 | awk '{ i = (NR - 1) % 20; r = int((NR - 1) / 20) } i == 7 { print r, 14, $1 }'
    words f8 | awk '{ i = (NR - 1) % 20; r = int((NR - 1) / 20) } i >= 8 { print r, i + 7, $1 }'
}
# h5dump prints the members of all records in order, between the braces after DATA.
hdf5_numbers() {
    h5dump -y -w 0 -m %.17g -d /galaxies "$1/$name.h5" | sed -n '/^   DATA {/,/^   }/p' | tr -c '0-9eE.+\n-' '\n' |
        grep '[0-9]' | awk '{ print int((NR - 1) / 27), (NR - 1) % 27, $1 }'
}
# Integers are the same, floats and doubles as far as their digits say.
same_numbers() {
    paste -d ' ' "$1" "$2" | awk '
        function close_to(a, b, part) { return a - b <= part * (b < 0 ? -b : b) && b - a <= part * (b < 0 ? -b : b) }
        { same = $1 == $4 && $2 == $5 && NF == 6
          if ($2 < 7 || $2 == 14) same = same && $3 "" == $6 ""
          else same = same && close_to($3, $6, $2 < 14 ? 1e-6 : 1e-15)
          if (!same) { print; bad = 1 } }
        END { exit bad }'
}
attribute() { h5dump -a "$1" "$tmp/hdf5/$name.h5" | sed -n 's/^ *(0): //p'; }

ok 'binary' "$forest" --quiet --output "$tmp/binary" "$trees"
ok 'hdf5' "$forest" --quiet --format hdf5 --output "$tmp/hdf5" "$trees"
ok 'hdf5, without buffers and with two threads' "$forest" --quiet --no-buffers --threads 2 --format hdf5 --output "$tmp/plain" "$trees"
ok 'as many files' test "$(find "$tmp/hdf5" -name '*.h5' | wc -l)" -eq "$(find "$tmp/binary" -name '*.bin' | wc -l)"
ok 'and nothing else' test -z "$(find "$tmp/hdf5" -type f ! -name '*.h5')"

binary_numbers | sort -k 1,1n -k 2,2n >"$tmp/numbers"
hdf5_numbers "$tmp/hdf5" | sort -k 1,1n -k 2,2n >"$tmp/numbers.hdf5"
hdf5_numbers "$tmp/plain" | sort -k 1,1n -k 2,2n >"$tmp/numbers.plain"
count=$(od -A n -j 40 -N 8 -t d8 "$tmp/binary/$name.bin" | tr -d ' ')
ok 'there are galaxies' test "$count" -gt 100
ok 'each has its 27 numbers' test "$(wc -l <"$tmp/numbers")" -eq $((27 * count))
ok 'the same numbers' same_numbers "$tmp/numbers" "$tmp/numbers.hdf5"
ok 'the same without buffers and with threads' same_numbers "$tmp/numbers" "$tmp/numbers.plain"

ok 'their count' test "$(attribute /galaxy_count)" = "$count"
ok 'the snapshot' test "$(attribute /snapshot)" -eq 63
ok 'h' test "$(attribute /hubble_parameter)" = "$(od -A n -j 56 -N 8 -t f8 "$tmp/binary/$name.bin" | tr -d ' ')"
ok 'units' sh -c "h5dump -a /galaxies/units '$tmp/hdf5/$name.h5' | grep -q '1e10 Msun/h'"

# A failure leaves what was there.
before=$(cksum "$tmp/hdf5/$name.h5")
head -c 3000 "$trees" >"$tmp/short.0"
ok 'a damaged tree fails' fails "$forest" --quiet --format hdf5 --output "$tmp/hdf5" "$tmp/short.0"
ok 'the old file is there' test "$before" = "$(cksum "$tmp/hdf5/$name.h5")"
ok 'and no new one' test -z "$(find "$tmp/hdf5" -type f ! -name '*.h5')"
ok 'another form is refused' fails "$forest" --quiet --format fits --output "$tmp/fits" "$trees"
ok 'the program without HDF5 says so' sh -c "'${forest%_hdf5}' --quiet --format hdf5 --output '$tmp/none' '$trees' 2>&1 | grep -q 'built without HDF5'"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
