#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test_man.sh - the manual says what the source says: each public function has a page with everything a page must have, the
# examples compile as C and as C++, each command and each option is described.
set -u
cd "${srcdir:?}" || exit 99
: "${CC:=cc}"
bad=0
complain() { echo "$*"; bad=1; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT

# --- Functions and pages ---
functions=$(grep -E '^ASH_API ' include/ashlar.h | grep -oE '\bash_[a-z_]+\(' | tr -d '(' | sort -u)
[ -n "$functions" ] || complain "no function found in include/ashlar.h"
for f in $functions; do
    pages=$(grep -lE "^\.Nm $f( ,)?$" man/*.3 | wc -l)
    [ "$pages" = 1 ] || complain "$f is described by $pages pages in man/, not by one"
    grep -qE "^\.F[no] \"?$f\b" man/*.3 || complain "$f: no page has it in its SYNOPSIS"
    grep -q "^    $f;" libashlar.map || complain "$f is not in libashlar.map"
done
for name in $(sed -n 's/^\.Nm \(ash_[a-z_]*\).*/\1/p' man/*.3 | sort -u); do
    grep -qx "$name" <<<"$functions" || complain "man/: $name is not in include/ashlar.h"
done
for page in man/*.3; do
    for section in NAME SYNOPSIS DESCRIPTION "RETURN VALUES" EXAMPLES ERRORS "SEE ALSO"; do
        grep -q "^\.Sh $section$" "$page" || complain "$page: there is no section $section"
    done
    for code in $(grep -v "^\.Dt" "$page" | grep -oE "ASH_[A-Z_]+" | sort -u); do
        grep -q "\b$code\b" include/ashlar.h || complain "$page: $code is not in include/ashlar.h"
    done
done
for page in man/*.[137]; do
    grep -q "%D%/${page#man/}\b" man/module.am || complain "$page is not in man/module.am"
done
for xref in $(sed -n 's/^\.Xr \(ash[a-z_-]*\) \([0-9]\).*/\1.\2/p' man/*.[137] | sort -u); do
    [ -e "man/$xref" ] || grep -qx "${xref%.3}" <<<"$functions" || complain "man/: there is no $xref"
done

# --- Commands and options ---
for command in $(sed -n 's/^    { "\([a-z]*\)", .*/\1/p' tools/ashlar.c); do
    grep -q "^\.It Cm $command$" man/ashlar.1 || complain "man/ashlar.1: the command $command is missing"
done
for option in $(grep -oE -- '--[a-z][a-z-]+' tools/ashlar.c | sort -u); do
    case $option in --version) continue ;; esac
    grep -q "Fl -${option#--}\b" man/ashlar.1 || complain "man/ashlar.1: the option $option is missing"
done
for option in $(sed -n 's/^ *{ "\([a-z-]*\)", ARG_.*/\1/p' bench/ycsb.c); do
    grep -q "Fl -$option\b" man/ashlar-bench.1 || complain "man/ashlar-bench.1: the option --$option is missing"
done

# --- Examples ---
cxx=$(command -v g++ || command -v clang++ || true)
for page in man/*.3; do
    source=$work/$(basename "$page" .3).c
    sed -n '/^\.Sh EXAMPLES/,/^\.Sh ERRORS/p' "$page" | sed -n '/^\.Bd/,/^\.Ed/{/^\.[BE]d/d;s/\\e/\\/g;p}' >"$source"
    grep -q '#include <ashlar.h>' "$source" || complain "$page: its example does not include <ashlar.h>"
    $CC -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Iinclude -c -o "$work/x.o" "$source" || complain "$page: the example does not compile as C11"
    [ -z "$cxx" ] || "$cxx" -std=c++11 -Wall -Wextra -Werror -Iinclude -x c++ -c -o "$work/x.o" "$source" ||
        complain "$page: the example does not compile as C++11"
done

# --- Form ---
if command -v mandoc >/dev/null; then
    lint=$(mandoc -Tlint man/*.[137] 2>/dev/null | grep -v 'referenced manual not found')
    [ -z "$lint" ] || complain "$lint"
else
    echo "mandoc is not installed: the form of the pages was not checked"
fi
exit $bad
