#!/bin/sh
# Installs what the tests need, where it is missing; asks nothing.
#
# gcc, clang (C and C++), make, pkg-config, cmocka, Valgrind (not on macOS), HDF5 with its tools, the compilers' sanitizer
# runtimes.
set -u
system=$(uname -s)
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

has() { command -v "$1" >/dev/null 2>&1; }

has_cmocka() {
    cat >"$dir/cmocka.c" <<'END'
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
static void nothing(void **state) { (void)state; }
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
END
    # The flags are a list of words.
    # shellcheck disable=SC2046
    cc -o "$dir/cmocka" "$dir/cmocka.c" $(pkg-config --cflags --libs cmocka 2>/dev/null || echo -lcmocka) >/dev/null 2>&1
}

# Can the compiler $1 link programs with its sanitizers?
has_sanitizers() {
    echo 'int main(void) { return 0; }' >"$dir/sanitizer.c"
    "$1" -fsanitize=address,undefined -o "$dir/sanitizer" "$dir/sanitizer.c" >/dev/null 2>&1 &&
        "$1" -fsanitize=thread -o "$dir/sanitizer" "$dir/sanitizer.c" >/dev/null 2>&1
}

has_hdf5() { pkg-config --exists hdf5 2>/dev/null || pkg-config --exists hdf5-serial 2>/dev/null; }

# The names of the things that are missing, as in the tables below.
look() {
    missing=''
    for tool in gcc g++ clang clang++ make; do
        has $tool || missing="$missing $tool"
    done
    has pkg-config || has pkgconf || missing="$missing pkg-config"
    [ "$system" = Darwin ] || has valgrind || missing="$missing valgrind"
    has_cmocka || missing="$missing cmocka"
    has_hdf5 || missing="$missing hdf5"
    has h5dump || missing="$missing hdf5-tools"
    has_sanitizers gcc || missing="$missing gcc-sanitizers"
    has_sanitizers clang || missing="$missing clang-sanitizers"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        echo "deps: not root and no sudo; to be run as root: $*" >&2
        return 1
    fi
}

by_hand() {
    echo "deps: missing:$missing" >&2
    echo "deps: install by hand: gcc and g++, clang, make, pkg-config, cmocka (with headers), valgrind, HDF5 (with headers and h5dump), the sanitizer runtimes of both compilers" >&2
    exit 1
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" </dev/null; }

# The runtime's package carries clang's version in its name, or used to be part of another one.
apt_sanitizers() {
    version=$(clang -dumpversion | cut -d. -f1) || return 1
    for package in "libclang-rt-$version-dev" "libclang-common-$version-dev" libclang-rt-dev; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            apt install --no-install-recommends "$package" >/dev/null && has_sanitizers clang && return 0
        fi
    done
    return 1
}

packages() {
    for thing in $missing; do
        case $1:$thing in
        *:clang++) echo clang ;;
        apt:gcc-sanitizers) echo gcc ;;
        apt:clang-sanitizers) ;; # the version is not known yet
        dnf:gcc-sanitizers) printf '%s\n' libasan libubsan libtsan ;;
        dnf:clang-sanitizers) echo compiler-rt ;;
        apt:cmocka) echo libcmocka-dev ;;
        apt:hdf5) echo libhdf5-dev ;;
        dnf:hdf5) echo hdf5-devel ;;
        dnf:hdf5-tools | brew:hdf5-tools) echo hdf5 ;;
        dnf:g++) echo gcc-c++ ;;
        dnf:cmocka) echo libcmocka-devel ;;
        dnf:pkg-config) echo pkgconf-pkg-config ;;
        brew:pkg-config | brew:cmocka | brew:hdf5) echo "$thing" ;;
        brew:*) ;;
        *) echo "$thing" ;;
        esac
    done | sort -u | tr '\n' ' '
}

look
if [ -z "$missing" ]; then
    echo "deps: everything is here"
    exit 0
fi
echo "deps: missing:$missing"

# The package names are a list of words.
# shellcheck disable=SC2046
if [ "$system" = Darwin ]; then
    case $missing in
    *gcc* | *g++* | *clang* | *make*)
        echo "deps: missing:$missing; get the compilers with: xcode-select --install" >&2
        exit 1
        ;;
    esac
    has brew || by_hand
    brew install $(packages brew) </dev/null || exit 1
elif has apt-get; then
    apt update >/dev/null || exit 1
    list=$(packages apt)
    # shellcheck disable=SC2086
    [ -z "$list" ] || apt install --no-install-recommends $list >/dev/null || exit 1
    ! has clang || has_sanitizers clang || apt_sanitizers
elif has dnf; then
    as_root dnf -q -y install $(packages dnf) </dev/null || exit 1
else
    by_hand
fi

look
[ -z "$missing" ] || by_hand
echo "deps: everything is here now"
