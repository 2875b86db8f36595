# SPDX-License-Identifier: Apache-2.0
#
# setup.sh - what ./quickstart and ./check share: Debian packages, building, timing.  Sourced by bash, not run.

packages_build="build-essential autoconf automake libtool pkg-config liburing-dev libisal-dev liblz4-dev libzstd-dev
    libjemalloc-dev libssl-dev check"
packages_bench="librocksdb-dev libwiredtiger-dev liblmdb-dev libsqlite3-dev libleveldb-dev fio"
packages_check="ccache clang-14 clang-format-14"

jobs=$(nproc 2>/dev/null || echo 2)

say() { printf '\n== %s\n' "$*"; }

# install_missing package... - does nothing, and needs no rights and no network, when all are there.
install_missing() {
    local missing=() p sudo=
    command -v dpkg-query >/dev/null || { echo "Not a Debian system: please install the likes of: $*"; return 0; }
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "installing ${missing[*]}"
    $sudo apt-get update -q >/dev/null &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# The compiler behind ccache where that is installed: repeated builds of the same sources cost seconds.
with_ccache() { if command -v ccache >/dev/null; then echo "ccache $1"; else echo "$1"; fi; }

# configure_in folder configure-argument... - keeps a configured tree whose arguments are the same.
configure_in() {
    local dir=$1 wanted
    shift
    wanted="$* $(cksum <configure)"
    [ -f "$dir/config.status" ] && [ "$(cat "$dir/.configured" 2>/dev/null)" = "$wanted" ] && return 0
    mkdir -p "$dir" && (cd "$dir" && ../configure -q "$@") && echo "$wanted" >"$dir/.configured"
}
