#!/bin/sh
# Every violation that the manual says is caught: sh tests/caught_test.sh PROGRAMS
#
# PROGRAMS holds what is built from tests/caught/*.c. Each variant must die of SIGABRT, and a line of its standard error must
# match; @ in the expression stands for the address of the block, which the program has printed. Ordinary builds only: a
# sanitizer has a message of its own.
set -u
LC_ALL=C
export LC_ALL
programs=$1
case " ${CFLAGS:-} " in
*-fsanitize=*)
    echo 'skipped: a sanitizer is built in'
    exit 0
    ;;
esac
# shellcheck disable=SC3045
ulimit -c 0 2>/dev/null # hundreds of programs abort
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
limit=
command -v timeout >/dev/null 2>&1 && limit='timeout 10'
passed=0
failed=0

# run STATUS EXPRESSION PROGRAM WORD...
run() {
    status=$1
    expression=$2
    program=$3
    shift 3
    # shellcheck disable=SC2086
    { $limit "$programs/$program" "$@"; } >"$scratch/out" 2>"$scratch/err"
    got=$?
    address='(no address)'
    while read -r line; do address=$line; done <"$scratch/out"
    done=
    while :; do
        case $expression in
        *@*)
            done=$done${expression%%@*}$address
            expression=${expression#*@}
            ;;
        *) break ;;
        esac
    done
    expression=$done$expression
    if [ $got -eq "$status" ] && grep -Eq "^sagemem: $expression" "$scratch/err"; then
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
    read -r line <"$scratch/err" || line='(no message)'
    echo "FAILED: $program $*: exit status $got for $status: $line; expected: $expression"
}
dies() { run 134 "$@"; } # 128 + SIGABRT
logs() { run 0 "$@"; }   # goes on, and its own checks passed

# Sets $block, $scope for a kind, $site for a mode.
expect() {
    scope=
    site=
    case $2 in scope_*) scope='scope forest 12 of ' ;; esac
    [ "$1" = ordinary ] || site=', allocated at [^ ]*caught\.h:[0-9]+'
    case $2 in *huge | *vast) site='(, allocated at [^ ]*caught\.h:[0-9]+)?' ;; esac
    block="block @ \\([0-9]+ bytes, tag 'Core/Halos', ${scope}heap 'catalogue'$site\\)"
}

# -- The same block twice. In another thread or after one, with other calls between.
double_free() {
    expect "$1" "$2"
    call=sagemem_free
    case $3 in
    realloc) call=sagemem_realloc ;;
    size) call=sagemem_size ;;
    esac
    by="$block was freed already"
    gone="@ was freed already: it lies in pages of tag 'Core/Halos' that ${scope}heap 'catalogue' gave back"
    dies "misuse: $call: ($by|$gone)" double_free "$@"
}
for kind in slab chunk behind before last large huge vast \
    scope_chunk scope_behind scope_before scope_last scope_large scope_huge scope_vast; do
    for when in at_once later elsewhere returned elsewhere_twice realloc size; do double_free ordinary $kind $when; done
done
for kind in chunk behind last large huge scope_chunk scope_large scope_huge; do
    for when in at_once later elsewhere returned elsewhere_twice realloc; do double_free checked $kind $when; done
done
for kind in chunk large scope_chunk; do
    for when in returned elsewhere_twice; do double_free sites $kind $when; done
done
double_free ordinary behind covered
# A second free by another thread that looks like a first one: found when the owner takes the page.
expect ordinary slab
dies "misuse: sagemem_free: $block was freed twice by other threads" double_free ordinary slab elsewhere_scribbled
for kind in chunk large; do double_free ordinary $kind elsewhere_scribbled; done
# Where the first free was made, in a checked heap.
expect checked chunk
dies "misuse: sagemem_free: $block was freed already, at [^ ]*double_free\.c:[0-9]+ \(this call: [^ ]*double_free\.c:[0-9]+\)" \
    double_free checked chunk at_once

# -- What is no block.
foreign="@ does not come from sagemem"
for call in free realloc size keep move; do
    for what in stack static malloc unmapped null8 code outside; do
        dies "misuse: sagemem_$call: $foreign" bad_pointer $call $what
    done
    dies "misuse: sagemem_$call: @ is no block but heap 'catalogue' itself" bad_pointer $call heap
    dies "misuse: sagemem_$call: @ is no block" bad_pointer $call tag_name
    for kind in slab chunk large huge vast scope_chunk scope_large scope_huge; do
        for mode in ordinary checked; do
            expect $mode $kind
            [ $mode-$kind = checked-slab ] && block=${block%\\)}'(, allocated at [^)]*)?\)'
            inside="@ lies inside $(echo "$block" | sed 's/@/0x[0-9a-f]+/')"
            dies "misuse: sagemem_$call: $inside" bad_pointer $call inside_$kind $mode
            dies "misuse: sagemem_$call: $inside" bad_pointer $call misaligned_$kind $mode
        done
    done
done

# -- Blocks of what has ended. The names are those of scope and heap: tag and size went with them.
for call in free realloc size; do
    for mode in ordinary checked; do
        of="misuse: sagemem_$call: @ is stale: it lies in memory of "
        for kind in scope_chunk scope_last scope_large scope_huge; do
            dies "${of}scope forest 12 of heap 'catalogue', which has ended" ended $call $mode $kind scope
            dies "${of}scope forest 12 of heap 'catalogue', which has ended" ended $call $mode $kind heap
        done
        for kind in slab chunk large huge vast; do
            dies "${of}heap 'catalogue', which has ended" ended $call $mode $kind heap
        done
        # The next scope has the chunk: what is behind its blocks still shows what it was.
        for kind in scope_chunk scope_last; do
            dies "misuse: sagemem_$call: block @ \\([0-9]+ bytes, tag 'Core/Halos', heap 'catalogue'\\) went with a scope that has ended" \
                ended $call $mode $kind scope_reused
            dies "misuse: sagemem_$call: @ lies inside block 0x[0-9a-f]+ \\([0-9]+ bytes, tag 'Core/Halos', scope forest 13 of heap" \
                ended $call $mode $kind scope_filled
        done
    done
    for kind in slab huge; do
        dies "misuse: sagemem_$call: @ was freed already: it lies in pages of tag 'Core/Halos' that heap 'catalogue' gave back" \
            ended $call ordinary $kind reset
    done
    dies "misuse: sagemem_$call: @ is stale: it lies in memory of heap 'catalogue'" ended $call ordinary chunk reset
    dies "misuse: sagemem_$call: @ lies inside block 0x[0-9a-f]+ \\([0-9]+ bytes, tag 'Core/Halos', heap 'catalogue'" \
        ended $call ordinary chunk reset_filled
done

# -- Bytes written in front of a block or behind it, in a checked heap.
for kind in chunk last large huge scope_chunk scope_last scope_large scope_huge; do
    expect checked $kind
    for where in -8 -1 +1 +8; do
        case $where in
        -*) how="$block was written to in front of its first byte \(underflow\)" ;;
        *) how="$block was written to .* its end \(overflow\)" ;;
        esac
        for found in free realloc; do dies "corruption: sagemem_$found: $how" damage checked $kind $where $found; done
        logs "[a-z_]+: $how" damage checked $kind $where check
        case $kind in
        scope_*)
            dies "corruption: [a-z_]+: $how" damage checked $kind $where scope_end
            dies "corruption: [a-z_]+: $how" damage checked $kind $where destroy
            ;;
        *)
            dies "corruption: [a-z_]+: $how" damage checked $kind $where destroy
            dies "corruption: [a-z_]+: $how" damage checked $kind $where reset
            ;;
        esac
    done
done
# One byte further in front, where the word and what is told of the block are whole.
for kind in chunk scope_chunk; do
    expect checked $kind
    how="$block was written to in front of its first byte \(underflow\)"
    dies "corruption: sagemem_free: $how" damage checked $kind @-56 free
    logs "[a-z_]+: $how" damage checked $kind @-56 check
done
# In an ordinary one, where the word between two blocks of a chunk is hit.
for kind in chunk before scope_chunk scope_large; do
    expect ordinary $kind
    for where in +1 +8; do
        how="the word in front of block 0x[0-9a-f]+ is damaged: $block overflowed"
        [ $kind = before ] || dies "corruption: sagemem_free: $how" damage ordinary $kind $where neighbour
        logs "[a-z_]+: $how" damage ordinary $kind $where check
    done
    before="block 0x[0-9a-f]+ \\([0-9]+ bytes, tag 'Core/Halos', ${scope}heap 'catalogue'\\)"
    for where in -1 -8; do
        how="the word in front of block @ is damaged: $before overflowed, or it underflowed"
        # A large block is aligned to 64: the piece in front of it is free.
        [ $kind = scope_large ] && how="the word in front of block @ \\(heap 'catalogue'\\) is damaged: it underflowed"
        for found in free realloc; do dies "corruption: sagemem_$found: $how" damage ordinary $kind $where $found; done
        logs "[a-z_]+: $how" damage ordinary $kind $where check
    done
done
for kind in chunk before scope_before scope_large; do # blocks that may merge: at once
    dies "corruption: sagemem_free: block @ \\([0-9]+ bytes, tag 'Core/Halos', heap 'catalogue'\\) was written to behind its end" \
        damage ordinary $kind +1 free
done
# In a slab page, where the block behind is free.
free_cell="free block 0x[0-9a-f]+ \\(48 bytes, tag 'Core/Halos', heap 'catalogue'\\) was written to after it was freed, or"
for where in +1 +8; do
    dies "corruption: sagemem_alloc: $free_cell" damage ordinary slab_before $where later
    logs "[a-z_]+: $free_cell" damage ordinary slab_before $where check
done

# -- Freed blocks written to. A checked heap: any byte.
for kind in chunk behind last large scope_chunk scope_last scope_large; do
    expect checked $kind
    for byte in 0 3 15 300; do
        how="$block was written to at byte $byte after it was freed"
        logs "[a-z_]+: $how" late_write checked $kind check $byte
        dies "corruption: [a-z_]+: $how" late_write checked $kind release $byte
        case $kind in
        scope_*) dies "corruption: [a-z_]+: $how" late_write checked $kind scope_end $byte ;;
        *) dies "corruption: [a-z_]+: $how" late_write checked $kind destroy $byte ;;
        esac
    done
done
# An ordinary one: the two links. In a slab page both are proved by all their bits; in a chunk, the upper 16 bits of each
# prove the others: a write to the others alone is missed once in 65536 times, so these variants hit the proof.
for byte in 0 3 7; do
    expect ordinary slab
    dies "corruption: sagemem_alloc: free $block was written to after it was freed" late_write ordinary slab alloc $byte
    logs "[a-z_]+: free $block was written to after it was freed" late_write ordinary slab check $byte
done
for kind in chunk scope_chunk scope_large; do
    expect ordinary $kind
    how="freed block @ \\(tag 'Core/Halos', heap 'catalogue'\\) was written to after it was freed"
    dies "corruption: [a-z_]+: $how" late_write ordinary $kind alloc 7
    for byte in 6 7 14 15; do
        logs "[a-z_]+: free $block was written to after it was freed" late_write ordinary $kind check $byte
    done
done
# A large one that does not fit is only passed by, along its first link.
dies "corruption: [a-z_]+: freed block @ \\(tag 'Core/Halos', heap 'catalogue'\\) was written to after it was freed" \
    late_write ordinary chunk alloc 15
for kind in chunk large huge scope_chunk; do
    dies "corruption: [a-z_]+: block @ \\(tag 'Core/Halos', heap 'catalogue'\\), freed by another thread, was written to after that" \
        late_write ordinary $kind collect 7
done

# -- The wrong thread; ended heaps; what comes in pairs.
for call in alloc calloc aligned_alloc realloc scope_begin scope_end scope_defer scope_limit keep move heap_check heap_visit \
    heap_reset heap_destroy; do
    for kind in slab chunk huge; do
        dies "misuse: sagemem_$call: heap 'catalogue' belongs to another thread" wrong_thread $call $kind
    done
done
for call in alloc realloc strdup scope_begin scope_end heap_destroy heap_reset heap_adopt heap_check heap_visit heap_get_stats \
    tag_get_stats heap_get_desc limit_set reserve allocator_for; do
    dies "misuse: sagemem_$call: heap 'catalogue' has ended" ended_heap $call
    dies "misuse: sagemem_$call: 0x[0-9a-f]+ is not a heap" ended_heap $call block
    dies "misuse: sagemem_$call: 0x[0-9a-f]+ is not a heap" ended_heap $call stack
done
dies "misuse: sagemem_alloc: heap 'catalogue' has ended" ended_heap alloc_large
dies "misuse: sagemem_(report|report_file|heap_get_stats): heap 'catalogue' has ended" ended_heap report
dies "misuse: sagemem_scope_end: no scope is open in heap 'catalogue'; the last one, forest 12, has ended" pairing scope_end_twice
dies "misuse: sagemem_scope_end: no scope was begun in heap 'catalogue'" pairing scope_end_none
dies "misuse: sagemem_heap_destroy: heap 'catalogue' has child heaps \('snapshot'\)" pairing destroy_parent
for what in source_buffer source_file; do
    dies "misuse: sagemem_source_destroy: heap 'catalogue' still takes its pages from this source" pairing $what "$scratch/pages"
done
dies 'misuse: sagemem_source_destroy: this source was not made by' pairing source_by_value
dies 'misuse: sagemem_heap_destroy: the heap is NULL' pairing destroy_null
dies 'misuse: sagemem_heap_reset: the heap is NULL' pairing reset_null
dies 'misuse: sagemem_heap_adopt: the heap is NULL' pairing adopt_null

# -- A fault handler that returns: nothing is changed or lost. The program tells what is.
for mode in ordinary checked sites; do
    { $limit "$programs/returns" $mode; } >"$scratch/out" 2>"$scratch/err"
    got=$?
    if [ $got -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        read -r line <"$scratch/err" || line='(no message)'
        echo "FAILED: returns $mode: exit status $got for 0: $line"
    fi
done

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
