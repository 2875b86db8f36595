#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run-plants.sh - tests the tests: builds with one bug planted at a time (tests/plants.tsv) and requires that the test
# program named there fails.  Ends with 1 when a bug escapes.
#
#   run-plants.sh             all
#   run-plants.sh --quick     a bounded part: at most 2 minutes, spread evenly over the table
#   run-plants.sh 12 31 ...   these numbers
#
# One build tree is kept (build-plants/).  A bug is compiled only into the files that contain its PLANTED(n), and
# ccache, where it is installed, makes switching back free.
set -u
cd "$(dirname "$0")/.." || exit 99
. tools/setup.sh

build=build-plants
quick_seconds=120
run_seconds=120 # a test that takes longer hangs, which counts as caught
quick=no
wanted=" "
for a in "$@"; do
    case $a in
    --quick) quick=yes ;;
    *[!0-9]*) echo "usage: $0 [--quick] [number...]"; exit 2 ;;
    *) wanted="$wanted$a " ;;
    esac
done

[ -x configure ] || ./autogen.sh >/dev/null 2>&1 || exit 99
configure_in $build CC="$(with_ccache "${CC:-gcc}")" CFLAGS="-O1 -g" --enable-debug || exit 99

# Makes make forget the objects that the bug is compiled into.
forget() {
    local f
    for f in "$@"; do
        case $f in
        *.h) touch "$f" ;;
        *) rm -f "$build/${f%.c}.lo" "$build/${f%.c}.o" "$build/$(dirname "$f")/.libs/$(basename "${f%.c}").o" ;;
        esac
    done
}
compile() { make -C $build -s -j"$jobs" "$@" >$build/plant.log 2>&1; }
run() { (cd $build && srcdir=$PWD/.. builddir=$PWD CK_DEFAULT_TIMEOUT=$run_seconds timeout -k 5 $run_seconds "./$1" >plant.log 2>&1); }

mapfile -t rows < <(grep -vE '^#|^[[:space:]]*$' tests/plants.tsv | sort -n)
if [ $quick = yes ]; then # every k-th row first, so that a cut leaves an even sample
    mapfile -t rows < <(printf '%s\n' "${rows[@]}" | awk 'NF { print NR % 7 "\t" NR "\t" $0 }' | sort -n -k1,1 -k2,2 | cut -f3-)
fi
escaped=0 caught=0 left=0
declare -A sound # test programs that pass without a bug: only their failures prove anything
table=
for row in "${rows[@]}"; do
    IFS=$'\t' read -r number what program <<<"$row"
    [ "$wanted" = " " ] || [[ $wanted == *" $number "* ]] || continue
    if [ $quick = yes ] && [ $SECONDS -gt $quick_seconds ]; then
        left=$((left + 1))
        continue
    fi
    mapfile -t files < <(grep -lE "PLANTED\($number\)" -r src include tools bench --include='*.[ch]')
    if [ -z "${sound[$program]:-}" ]; then
        sound[$program]=no
        if compile "$program" && run "$program"; then sound[$program]=yes; fi
    fi
    start=$(date +%s.%N)
    verdict=ESCAPED
    if [ "${sound[$program]}" = no ]; then
        verdict="ESCAPED (the test fails without the bug)"
    elif [ ${#files[@]} = 0 ]; then
        verdict="ESCAPED (no PLANTED($number) in the sources)"
    else
        forget "${files[@]}"
        if ! compile CPPFLAGS="-DPLANT=$number" "$program"; then
            verdict="ESCAPED (does not build)"
        else
            start=$(date +%s.%N)
            run "$program"
            rc=$?
            [ $rc = 0 ] || [ $rc = 77 ] || verdict=caught
            [ $rc != 124 ] && [ $rc != 137 ] || verdict="caught (hang)"
        fi
        forget "${files[@]}"
    fi
    seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    case $verdict in caught*) caught=$((caught + 1)) ;; *) escaped=$((escaped + 1)) ;; esac
    line=$(printf '%5s  %-58.58s  %-30s  %6s s  %s' "$number" "$what" "$program" "$seconds" "$verdict")
    echo "$line"
    table="$table$line"$'\n'
done
printf '\n%5s  %-58s  %-30s  %8s\n%s' bug what suite "to catch" "$table"
echo "$caught caught, $escaped escaped, $left left out (time)"
[ $escaped = 0 ]
