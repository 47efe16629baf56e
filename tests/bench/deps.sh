#!/bin/sh
# Installs what the benchmarks compare with, where it is missing; asks nothing. What cannot be had is skipped by name in the
# benchmarks, so nothing here is a failure but a package manager that fails.
#
#     sh tests/bench/deps.sh CC CXX
set -u
here=$(dirname "$0")

has() { command -v "$1" >/dev/null 2>&1; }

missing() { sh "$here/peers.sh" "$1" "$2" missing; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        echo "bench-deps: not root and no sudo; to be run as root: $*" >&2
        return 1
    fi
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" </dev/null; }

# The package of a peer; libraries of tcmalloc and mimalloc carry versions in their names, their -dev packages bring them.
package() {
    case $1:$2 in
    apt:mimalloc) echo libmimalloc-dev ;;
    apt:jemalloc) echo libjemalloc-dev ;;
    apt:tcmalloc) echo libgoogle-perftools-dev ;;
    apt:glib) echo libglib2.0-dev ;;
    apt:boost) echo libboost-dev ;;
    apt:apr) echo libapr1-dev ;;
    apt:talloc) echo libtalloc-dev ;;
    apt:stb_ds) echo libstb-dev ;;
    dnf:tcmalloc) echo gperftools-libs ;;
    dnf:glib) echo glib2-devel ;;
    dnf:stb_ds) echo stb_ds-devel ;;
    dnf:*) echo "$2-devel" ;;
    brew:tcmalloc) echo gperftools ;;
    brew:stb_ds) ;;
    brew:*) echo "$2" ;;
    esac
}

# One after another: a package that a system has not must not keep the others away.
install_all() {
    manager=$1
    shift
    for peer in $(missing "$cc" "$cxx"); do
        name=$(package "$manager" "$peer")
        [ -z "$name" ] || "$@" "$name" >/dev/null || echo "bench-deps: $name could not be installed" >&2
    done
}

cc=${1:-cc}
cxx=${2:-c++}
list=$(missing "$cc" "$cxx" | tr '\n' ' ')
if [ -z "$list" ]; then
    echo 'bench-deps: everything is here'
    exit 0
fi
echo "bench-deps: missing: $list"
if [ "$(uname -s)" = Darwin ] && has brew; then
    install_all brew brew install
elif has apt-get; then
    apt update >/dev/null || exit 1
    install_all apt apt install --no-install-recommends
elif has dnf; then
    install_all dnf as_root dnf -q -y install
fi
list=$(missing "$cc" "$cxx" | tr '\n' ' ')
if [ -z "$list" ]; then
    echo 'bench-deps: everything is here now'
else
    echo "bench-deps: not to be had here, skipped by the benchmarks: $list"
fi
