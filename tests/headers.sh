#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# headers.sh - every header compiles alone, and the public one is usable from C++.  Part of `make check`.
set -u
: "${srcdir:?}" "${builddir:?}" "${CC:?}"
cd "$builddir" || exit 99
bad=0
flags="-include config.h -I. -I$srcdir/include -I$srcdir/src -I$srcdir -Wall -Wextra -Werror"

compile() { # compile language flags header
    printf '#include "%s"\n#include "%s"\n' "$3" "$3" | $CC $2 -x "$1" -fsyntax-only - ||
        { echo "$3 does not compile alone as $1"; bad=1; }
}
while read -r header; do
    # Tables that are included with a macro defined have no guard on purpose.
    grep -q 'no include guard on purpose' "$header" && continue
    compile c "-std=gnu11 $flags" "$header"
done < <(find "$srcdir/include" "$srcdir/src" -name '*.h' | sort)
compile c "-std=c99 -pedantic -I$srcdir/include -Wall -Wextra -Werror" ashlar.h

cxx=$(command -v g++ || command -v clang++) || { echo "no C++ compiler: the C++ part was left out"; exit $bad; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
cat >"$work/user.cc" <<'CC'
#include <ashlar.h>
#include <cstring>
int main()
{
    struct ash_slice s = ash_slice("key", 3);
    unsigned iter = 0;
    struct ash_option_info info;
    bool any = ash_option_next(&iter, &info);
    return any && s.size == 3 && std::strcmp(ash_rc_name(ASH_OK), "ASH_OK") == 0 && ash_error_last()->code == ASH_OK ? 0 : 1;
}
CC
"$cxx" -std=c++11 -Wall -Wextra -Werror -I"$srcdir/include" -c -o "$work/user.o" "$work/user.cc" || { echo "ashlar.h does not compile as C++"; bad=1; }
# A sanitized library needs the same sanitizers in the program; that is not what this test is about.
if [ $bad = 0 ] && [ "${sanitizing:-no}" = no ]; then
    ./libtool --quiet --tag=CC --mode=link "$cxx" -o "$work/user" "$work/user.o" libashlar.la &&
        ./libtool --quiet --mode=execute "$work/user" || { echo "a C++ program cannot use the library"; bad=1; }
fi
exit $bad
