#!/bin/sh
# Every layer alone, every layer left out, all, none: sh tests/matrix.sh BUILD [COMPILER...]
#
# The implementation must compile each time, with strict warnings as errors, and nm must find all symbols of the layers
# that are on and none of those that are off.
# Compiler commands and flags are lists of words.
# shellcheck disable=SC2048,SC2086
set -u
LC_ALL=C # messages and order
export LC_ALL
mkdir -p "$1" || exit 1
build=$(cd "$1" && pwd) || exit 1
shift
cd "$(dirname "$0")/.." || exit 1

# One line a layer: LAYER | the layers it needs, directly or not | a foreign header it needs | its public functions |
# what its private names begin with. A dash: none. A layer with a foreign header is off unless asked for.
table='
POOL | - | - | sagemem_pool_create sagemem_pool_get_desc sagemem_pool_alloc sagemem_pool_copy sagemem_pool_free sagemem_pool_each sagemem_pool_reset sagemem_pool_trim sagemem_pool_destroy sagemem_pool_get_stats sagemem_recycler_create sagemem_recycler_get_desc sagemem_recycler_acquire sagemem_recycler_release sagemem_recycler_trim sagemem_recycler_get_stats sagemem_recycler_destroy | smi_pool_ smi_recycler_
ARENA | - | - | sagemem_arena_create sagemem_arena_get_desc sagemem_arena_get_stats sagemem_arena_alloc sagemem_arena_alloc_aligned sagemem_arena_put sagemem_arena_get sagemem_arena_get_mark sagemem_arena_rewind sagemem_arena_reset sagemem_arena_trim sagemem_arena_destroy sagemem_arena_save sagemem_arena_load | smi_arena_
ARRAY | - | - | sagemem_array_grow sagemem_array_init sagemem_array_get_desc sagemem_array_push sagemem_array_add sagemem_array_resize sagemem_array_reserve sagemem_array_at sagemem_array_remove_swap sagemem_array_shrink sagemem_array_deinit sagemem_array_count sagemem_array_capacity sagemem_array_data sagemem_columns_create sagemem_columns_get_desc sagemem_columns_data sagemem_columns_find sagemem_columns_count sagemem_columns_capacity sagemem_columns_add sagemem_columns_resize sagemem_columns_reserve sagemem_columns_remove_swap sagemem_columns_shrink sagemem_columns_destroy | smi_array_ smi_columns_
SLICE | - | - | sagemem_slice_copy sagemem_slice_take sagemem_slice_wrap sagemem_slice_retain sagemem_slice_release sagemem_slice_sub sagemem_slice_at sagemem_slice_count | smi_slice_
MAP | - | - | sagemem_map_open sagemem_map_get_desc sagemem_map_close sagemem_map_data sagemem_map_size sagemem_map_is_mapped sagemem_map_view sagemem_map_data_writable sagemem_map_flush sagemem_map_read sagemem_map_prefetch sagemem_map_refresh | smi_filemap_
IO | MAP | - | sagemem_writer_open sagemem_writer_get_desc sagemem_write sagemem_write_begin sagemem_write_end sagemem_writer_patch sagemem_writer_flush sagemem_writer_close sagemem_writer_abandon sagemem_writer_accepted sagemem_writer_written sagemem_writers_set_budget sagemem_writers_get_stats sagemem_reader_open sagemem_reader_get_desc sagemem_read sagemem_read_view sagemem_read_at sagemem_reader_skip sagemem_reader_position sagemem_reader_size sagemem_reader_is_mapped sagemem_reader_close sagemem_stream_run sagemem_fasta_boundary sagemem_index_build sagemem_index_save sagemem_index_load sagemem_index_destroy sagemem_index_get_desc sagemem_index_count sagemem_index_kind sagemem_index_bytes sagemem_index_get sagemem_index_find sagemem_index_view | smi_writer_ smi_reader_ smi_stream_ smi_index_
REPORT | - | - | sagemem_report sagemem_report_file sagemem_report_at_exit sagemem_leaks sagemem_snapshot_take sagemem_snapshot_report sagemem_snapshot_diff sagemem_snapshot_free | smi_report_ smi_snap_ smi_diff_ smi_leaks_ smi_html_
HDF5 | IO MAP | hdf5.h | sagemem_hdf5_sink sagemem_hdf5_source sagemem_hdf5_get_info sagemem_hdf5_attribute sagemem_hdf5_attribute_text | smi_hdf5_
'

warnings='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-align -Wvla -Wstrict-prototypes
    -Wmissing-prototypes -Werror'
# Where foreign headers are, as system headers: their warnings are not ours.
foreign_flags=$(pkg-config --cflags hdf5 2>/dev/null || pkg-config --cflags hdf5-serial 2>/dev/null)
foreign_flags=$(echo "$foreign_flags" | sed 's/-I */-isystem /g')
failures=0

fail() {
    failures=$((failures + 1))
    echo "matrix: $name: $1"
}

# Field number $2 of the layer $1, without the dash.
field() {
    echo "$table" | awk -F'|' -v layer="$1" -v n="$2" '
        { gsub(/^ +| +$/, "", $1) }
        $1 == layer { gsub(/^ +| +$/, "", $n); if ($n != "-") print $n }'
}

has() {
    case " $1 " in
    *" $2 "*) true ;;
    *) false ;;
    esac
}

# Functions that stand on two layers, of which neither needs the other: LAYER LAYER FUNCTION.
pairs='IO SLICE sagemem_index_slice'

check_pairs() {
    echo "$pairs" | while read -r one two symbol; do
        found=no
        grep -q "^$symbol T" "$dir/symbols" && found=yes
        wanted=no
        has "$1" "$one" && has "$1" "$two" && wanted=yes
        [ $found = $wanted ] || echo "$symbol"
    done
}

# Compiles with exactly the layers $1, by the flags $2, and compares the symbols.
try() {
    count=$((count + 1))
    if ! $name $warnings -O0 -I. $foreign_flags $2 -c -o "$dir/o.o" tests/implementation.c >"$dir/out" 2>&1; then
        fail "does not compile: $2"
        sed -n '1,12s/^/    | /p' "$dir/out"
        return
    fi
    nm -P "$dir/o.o" | sed 's/^_//' >"$dir/symbols" || fail "nm failed: $2"
    grep -q '^sagemem_alloc T' "$dir/symbols" || fail "no sagemem_alloc: $2"
    wrong=$(check_pairs "$1")
    [ -z "$wrong" ] || fail "$wrong is there without both of its layers, or missing though they are on: $2"
    for layer in $layers; do
        if has "$1" "$layer"; then
            for symbol in $(field "$layer" 4); do
                grep -q "^$symbol T" "$dir/symbols" || fail "$symbol is missing though $layer is on: $2"
            done
        else
            for symbol in $(field "$layer" 4); do
                grep "^$symbol " "$dir/symbols"
            done >"$dir/left"
            for prefix in $(field "$layer" 5); do
                grep "^$prefix" "$dir/symbols"
            done >>"$dir/left"
            [ ! -s "$dir/left" ] || fail "$layer is off, but left $(cut -d' ' -f1 "$dir/left" | tr '\n' ' ')with: $2"
        fi
    done
}

# The flags that switch on $1 (a list) and all else off, starting from SAGEMEM_DEFAULTS 0.
only() {
    printf '%s' '-DSAGEMEM_DEFAULTS=0'
    for layer in $1; do printf ' -DSAGEMEM_WITH_%s=1' "$layer"; done
}

check_with() {
    layers=''
    normal='' # on unless something is said
    for layer in $(echo "$table" | sed -n 's/^ *\([A-Z0-9_]*\) *|.*/\1/p'); do
        foreign=$(field "$layer" 3)
        if [ -n "$foreign" ] && ! echo "#include <$foreign>" | $name $foreign_flags -fsyntax-only -x c - 2>/dev/null; then
            echo "matrix: $name: $layer skipped, no <$foreign>"
            continue
        fi
        layers="$layers $layer"
        [ -n "$foreign" ] || normal="$normal $layer"
    done

    # The table and the header have the same layers.
    grep -o '# *define SAGEMEM_WITH_[A-Z0-9_]*' sagemem.h | sed 's/.*SAGEMEM_WITH_//' | sort -u >"$dir/in_header"
    echo "$table" | sed -n 's/^ *\([A-Z0-9_]*\) *|.*/\1/p' | sort -u >"$dir/in_table"
    for layer in $(comm -23 "$dir/in_header" "$dir/in_table"); do fail "SAGEMEM_WITH_$layer is not in the table"; done
    for layer in $(comm -13 "$dir/in_header" "$dir/in_table"); do fail "SAGEMEM_WITH_$layer is not in the header"; done
    for layer in $layers; do
        [ -n "$(field "$layer" 4)$(field "$layer" 5)" ] || fail "$layer: the table names no symbol"
    done

    try "$normal" ''
    try '' "$(only '')"
    try "$layers" "$(only "$layers")"
    for one in $layers; do
        needed=$(field "$one" 2)
        try "$one $needed" "$(only "$one $needed")"
        rest=''
        flags="-DSAGEMEM_WITH_$one=0"
        for layer in $normal; do
            if [ "$layer" = "$one" ]; then
                :
            elif has "$(field "$layer" 2)" "$one"; then
                flags="$flags -DSAGEMEM_WITH_$layer=0"
            else
                rest="$rest $layer"
            fi
        done
        try "$rest" "$flags"
    done
}

for name in ${*:-gcc clang}; do
    if ! command -v "$name" >/dev/null; then
        echo "matrix: $name: skipped, not installed"
        continue
    fi
    dir=$build/matrix-$(basename "$name")
    rm -rf "$dir"
    mkdir -p "$dir" || exit 1
    before=$failures
    count=0
    check_with
    [ $failures -ne "$before" ] || echo "matrix: $name: $count combinations are right"
done
[ $failures -eq 0 ]
