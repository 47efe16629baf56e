#!/bin/sh
# Which peers are here? One file is compiled for each.
#
#     sh tests/bench/peers.sh CC CXX             prints the flags of the compiler in the first line, of the linker in the second
#     sh tests/bench/peers.sh CC CXX missing     prints the names of those that are not here, also of those loaded at run time
set -u
cc=$1
cxx=$2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cflags=
libs=
missing=

config() { pkg-config "$1" "$2" 2>/dev/null; }

# Headers of others are not held to our warnings.
as_system() { sed 's/-I\( *\)/-isystem /g'; }

# A peer $1 whose program $3 compiles and links with the flags $4 and the libraries $5: BENCH_NAME is defined.
try() {
    name=$1
    compiler=$2
    suffix=c
    [ "$compiler" = "$cxx" ] && suffix=cpp
    printf '%s\n' "$3" >"$dir/try.$suffix"
    # The flags are a list of words.
    # shellcheck disable=SC2086
    if $compiler $4 -o "$dir/try" "$dir/try.$suffix" $5 >/dev/null 2>&1; then
        cflags="$cflags -DBENCH_$(echo "$name" | tr '[:lower:]' '[:upper:]') $4"
        libs="$libs $5"
    else
        missing="$missing $name"
    fi
}

# A peer $1 that is loaded at run time by one of the other names.
try_load() {
    name=$1
    shift
    cat >"$dir/load.c" <<'END'
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (dlopen(argv[i], RTLD_LAZY | RTLD_LOCAL) != NULL || strstr(dlerror(), "static TLS") != NULL) return 0;
    }
    return 1;
}
END
    [ -x "$dir/load" ] || $cc -o "$dir/load" "$dir/load.c" -ldl || return
    "$dir/load" "$@" || missing="$missing $name"
}

try apr "$cc" '#include <apr_pools.h>
int main(void) { apr_pool_t *p; return apr_pool_create(&p, NULL); }' "$(config --cflags apr-1 | as_system)" "$(config --libs apr-1)"
try talloc "$cc" '#include <talloc.h>
int main(void) { return talloc_free(talloc_new(NULL)); }' "$(config --cflags talloc | as_system)" "$(config --libs talloc)"
try glib "$cc" '#include <glib.h>
int main(void) { g_slice_free1(8, g_slice_alloc(8)); return 0; }' \
    "$(config --cflags glib-2.0 | as_system)" "$(config --libs glib-2.0)"
try obstack "$cc" '#include <stdlib.h>
#include <obstack.h>
#define obstack_chunk_alloc malloc
#define obstack_chunk_free free
int main(void) { struct obstack o; obstack_init(&o); return obstack_alloc(&o, 8) == NULL; }' '' ''
try boost "$cxx" '#include <boost/pool/pool.hpp>
int main() { boost::pool<> pool(8); return pool.malloc() == NULL; }' '' ''
try stb_ds "$cc" '#include <stddef.h>
#define STB_DS_IMPLEMENTATION
#include <stb/stb_ds.h>
int main(void) { int *a = NULL; arrput(a, 1); return a[0] - 1; }' '' ''

if [ "${3:-}" = missing ]; then
    try_load mimalloc libmimalloc.so.3 libmimalloc.so.2 libmimalloc.so
    try_load jemalloc libjemalloc.so.2 libjemalloc.so
    try_load tcmalloc libtcmalloc_minimal.so.4 libtcmalloc.so.4
    # The names are a list of words.
    # shellcheck disable=SC2086
    [ -z "$missing" ] || printf '%s\n' $missing
else
    echo "$cflags"
    echo "$libs"
fi
