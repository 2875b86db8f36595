#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test_ashlar.sh - the `ashlar` command as users and scripts meet it: good and bad input, exit codes, JSON, escapes, kills, damage.
set -u
: "${builddir:?}"
ashlar=$builddir/tools/ashlar
[ -x "$ashlar" ] || { echo "$ashlar is not built"; exit 77; }
work=$(mktemp -d "$builddir/test_ashlar.XXXXXX") || exit 99
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 99
bad=0
fail() { echo "line ${BASH_LINENO[1]}: $*"; bad=1; }

opts=--options=wal_segment=1MiB,cache=16MiB
raw() { # raw EXIT argument...: runs ashlar; its output is $out, its messages are $err
    local want=$1 got
    shift
    out=$("$ashlar" "$@" 2>err)
    got=$?
    err=$(<err)
    [ $got = "$want" ] || fail "'ashlar $*' ended with $got instead of $want: $out $err"
}
t() { raw "$1" "$2" "$opts" "${@:3}"; } # the same with a small log
is() { [ "$1" = "$2" ] || fail "this is '$1' instead of '$2'"; }
has() { [[ $1 == *"$2"* ]] || fail "'$2' is missing in '$1'"; }
hasnt() { [[ $1 != *"$2"* ]] || fail "'$2' is in '$1'"; }
if command -v python3 >/dev/null; then
    json() { python3 -m json.tool >/dev/null <<<"$1" || fail "this is no JSON: $1"; }
    json_lines() { python3 -c 'import json, sys; [json.loads(l) for l in sys.stdin]' <<<"$1" || fail "these are no lines of JSON: $1"; }
else
    echo "python3 is not installed: JSON is not checked"
    json() { :; }
    json_lines() { :; }
fi
lf=$'\n' tab=$'\t' cr=$'\r'

# --- Help and wrong usage ---
raw 0 --help
for c in create load get put delete scan dump tables stat calibrate options verify inspect; do
    has "$out" "$lf  $c "
    raw 0 $c --help
    has "$out" "Usage: ashlar $c"
    raw 0 help $c
    raw 0 --help
done
raw 0 --version
has "$out" "ashlar "
raw 2
raw 2 nonsense
has "$err" "no command \"nonsense\""
raw 2 get one two
has "$err" "Usage: ashlar get"
raw 2 get a b c d
raw 2 scan x y --nonsense
has "$err" "no option --nonsense"
raw 2 scan x y --from
has "$err" "--from=VALUE"
raw 2 scan x y --json=yes
raw 2 scan x y --limit=many
raw 2 load x y --format=xml
raw 2 load x y --batch=0
raw 2 load x y --key=name --format=csv
has "$err" "--header"
raw 2 load x y --key=0
raw 2 inspect x everything
raw 2 inspect x page
raw 2 inspect x page one
raw 2 scan x y "--from=$(printf '%1000s' '')"
raw 3 load x y no-such-file
has "$err" no-such-file
mkdir a-directory
raw 3 load x y a-directory
has "$err" "is a directory"
[ ! -e x ] || fail "wrong usage has made a database"
raw 0 options
has "$out" "cache"
raw 0 options --json
json "$out"

# --- No database ---
raw 3 get nowhere t k
has "$err" ASH_NOT_A_DATABASE
mkdir empty
raw 3 tables empty
has "$err" ASH_NOT_A_DATABASE
is "$(ls empty)" ""
raw 3 verify empty
mkdir other && echo "something else" >other/data-0000.ash
raw 3 tables other
raw 2 create db --options=cache=1
raw 2 create db --options=nonsense=1
has "$err" nonsense

# --- Create, put, get, delete ---
t 0 create db
t 3 create db
has "$err" ASH_EXISTS
t 0 create db towns rivers
t 3 create db lakes towns
t 0 tables db
is "$out" "rivers${lf}towns"
t 0 tables db --json
json "$out"
has "$out" '"name":"rivers","page_size":4096'
t 0 create db big --page-size=64KiB
t 0 tables db --json
has "$out" '"name":"big","page_size":65536'
t 2 create db odd --page-size=5000
t 1 put db lakes como 1
has "$err" "no table"
has "$err" "ashlar create db lakes"
t 0 put db towns oslo 709000
t 0 get db towns oslo
is "$out" 709000
t 0 put db towns oslo 717710
t 0 get db towns oslo --json
is "$out" '{"key":"oslo","value":"717710"}'
t 1 get db towns bergen
has "$err" bergen
is "$out" ""
t 1 delete db towns bergen
t 0 delete db towns oslo
t 1 get db towns oslo
out=$(printf 'a\nb' | "$ashlar" put "$opts" db towns multi - && "$ashlar" get db towns multi)
is "$out" "a${lf}b"
head -c 1048576 /dev/zero | tr '\0' z >largest
"$ashlar" put "$opts" db towns largest - <largest || fail "the largest value was refused"
"$ashlar" get db towns largest | cmp -s - <(cat largest; echo) || fail "the largest value came back changed"
"$ashlar" put "$opts" db towns unread - <. 2>err && fail "an input that cannot be read was taken for an empty value"
has "$(<err)" "could not be read"
echo >>largest
"$ashlar" put "$opts" db towns larger - <largest 2>err && fail "a value that is too large was taken"
has "$(<err)" ASH_TOO_LARGE
t 0 delete db towns largest
t 0 put db towns "" "of the empty key"
t 0 get db towns ""
is "$out" "of the empty key"
raw 0 put "$opts" db towns -- --key --value
raw 0 get db towns -- --key
is "$out" "--value"

# --- Scan: bounds, direction, limits ---
printf 'k%02d\tv%02d\n' 1 1 2 2 3 3 4 4 5 5 >five.tsv
t 0 load db five five.tsv
has "$err" "5 rows loaded"
keys() { t 0 scan db five --keys "$@"; out=${out//$lf/ }; }
keys; is "$out" "k01 k02 k03 k04 k05"
keys --reverse; is "$out" "k05 k04 k03 k02 k01"
keys --from=k02 --to=k04; is "$out" "k02 k03"
keys --from=k02 --to=k04 --reverse; is "$out" "k03 k02"
keys --from=k025; is "$out" "k03 k04 k05"
keys --to=k025 --reverse; is "$out" "k02 k01"
keys --from=k04 --to=k02; is "$out" ""
keys --from=z; is "$out" ""
keys --to=a --reverse; is "$out" ""
keys --limit=2; is "$out" "k01 k02"
keys --limit=2 --reverse; is "$out" "k05 k04"
keys --limit=0; is "$out" ""
keys --from='\x6b03'; is "$out" "k03 k04 k05"
t 0 scan db five --limit=1
is "$out" "k01${tab}v01"
t 0 scan db five --keys --json --limit=1
is "$out" '{"key":"k01"}'
t 1 scan db lakes
has "$err" lakes

# --- Bytes: escapes in and out, dump and load round trip ---
all='\x00\x01\x09\x0a\x0d\x1f !"#\x5c\x7f\x80\xc3\xa9\xff~'
t 0 create db bytes
t 0 put db bytes "$all" "$all"
t 0 put db bytes '\xC3\xA9' 'é"\\'
t 0 put db bytes '# title' ''
t 0 put db bytes '\x5cx41' 'a literal \x5cx41'
t 0 put db bytes '' ''
t 0 put db bytes '\xed\xa0\x80' 'a surrogate: not UTF-8'
"$ashlar" get db bytes "$all" | od -An -tx1 | tr -d ' \n' >got
is "$(<got)" "0001090a0d1f202122235c7f80c3a9ff7e0a"
t 0 scan db bytes --json
json_lines "$out"
has "$out" '"key":"é","value":"é\"\\\\"'
has "$out" '"key_hex":"eda080"'
out=$("$ashlar" get db towns multi --json)
is "$out" '{"key":"multi","value":"a\nb"}'
t 0 dump db bytes
dump=$out
printf '%s\n' "$dump" | "$ashlar" load "$opts" copy bytes 2>err || fail "the dump cannot be loaded: $(<err)"
t 0 dump copy bytes
is "$out" "$dump"
t 0 dump db
has "$out" "# bytes"
has "$out" "# five${lf}k01${tab}v01"
t 0 dump db --json
json_lines "$out"
has "$out" '{"table":"five","key":"k01","value":"v01"}'
t 1 dump db lakes
for i in $(seq 70); do names+=("t$i"); done
t 0 create many "${names[@]:0:15}"
t 0 create many "${names[@]:15:15}"
t 0 create many "${names[@]:30:15}"
t 0 create many "${names[@]:45:15}"
t 0 create many "${names[@]:60}"
t 0 dump many
is "$(grep -c '^# t' <<<"$out")" 70

# --- TSV ---
load() { # load EXIT table text argument...: loads the text
    local want=$1 table=$2 got
    printf '%b' "$3" >input
    "$ashlar" load "$opts" db "$table" input "${@:4}" 2>err
    got=$?
    err=$(<err)
    [ $got = "$want" ] || fail "load of '$3' ended with $got instead of $want: $err"
    local messages=$err
    t 0 scan db "$table"
    err=$messages
}
load 0 tsv1 'a\t1\n\n# a title\nb\t2\t3\r\nc\n#d\t4\n\t5\ne\t6'
is "$out" "${tab}5$lf#d${tab}4${lf}a${tab}1${lf}b${tab}2\\x093${lf}c$tab${lf}e${tab}6"
load 0 tsv2 'a\tk1\t1\nb\tk2' --key=2
is "$out" "k1${tab}a\\x091${lf}k2${tab}b"
load 3 tsv3 'a\tk1\nb\n' --key=2
has "$err" "line 2"
is "$out" "k1${tab}a"
load 0 tsv4 'n\tname\n1\tx\n' --header --key=name
is "$out" "x${tab}1"
load 0 tsv5 'a\\x00b\t\\x09\\xzz\nc\0d\te\0f\n'
is "$out" "a\\x00b${tab}\\x09\\x5cxzz${lf}c\\x00d${tab}e\\x00f"
load 0 tsv6 ''
is "$out" ""
load 0 tsv7 'same\t1\nsame\t2\n' --batch=1
is "$out" "same${tab}2"
{ printf 'first\t1\n'; head -c 993 /dev/zero | tr '\0' k; printf '\t2\nlast\t3\n'; } >input
t 3 load db tsv8 input
has "$err" "line 2"
t 0 scan db tsv8
is "$out" "first${tab}1"
{ printf 'first\t1\nsecond\t'; head -c 1048577 /dev/zero | tr '\0' v; printf '\n'; } >input
t 3 load db tsv9 input
has "$err" "line 2"
{ printf 'first\t1\nsecond\t'; head -c 9000000 /dev/zero | tr '\0' v; } >input
t 3 load db tsv10 input
has "$err" "8 MiB"

# --- CSV ---
load 0 csv1 'a,1\r\n"b ""quoted"", with comma",2\n\n"two\nlines",3\n5" disk,4\n,5\n"",6\n' --format=csv
is "$out" "${tab}\"\",6${lf}5\" disk${tab}5\" disk,4${lf}a${tab}a,1${lf}b \"quoted\", with comma${tab}\"b \"\"quoted\"\", with comma\",2${lf}two\\x0alines${tab}\"two\\x0alines\",3"
load 0 csv2 '\xef\xbb\xbfid,"the name"\n1,x\n2,"y,z"\n' --format=csv --header '--key=the name'
is "$out" "x${tab}1,x${lf}y,z${tab}2,\"y,z\""
load 3 csv3 'id,name\n1,x\n' --format=csv --header --key=title
has "$err" "no column"
load 3 csv4 'a,1\nb\nc,3\n' --format=csv --key=2
has "$err" "line 2"
is "$out" "1${tab}a,1"
load 3 csv5 'a,1\nb,"open\nc,3\n' --format=csv
has "$err" "line 2"
has "$err" "never closed"
load 0 csv6 'a,b,c' --format=csv --key=3
is "$out" "c${tab}a,b,c"
load 3 csv7 '' --format=csv --header
has "$err" "no header"

# --- deb822 ---
load 0 deb1 '\n\nPackage: a\nVersion: 1\nDescription: x\n more\n .\n text\n\n\n\npackage:b\r\nVersion: 2\r\n\r\nVersion: 3\nPackage: c  \nX: y' --format=deb822
is "$out" "a${tab}Package: a\\x0aVersion: 1\\x0aDescription: x\\x0a more\\x0a .\\x0a text${lf}b${tab}package:b\\x0d\\x0aVersion: 2${lf}c${tab}Version: 3\\x0aPackage: c  \\x0aX: y"
load 0 deb2 'Source: s\nPackage: p\n' --format=deb822 --key=Source
is "$out" "s${tab}Source: s\\x0aPackage: p"
load 3 deb3 'Package: a\n\nVersion: 1\n\nPackage: b\n' --format=deb822
has "$err" "line 4"
has "$err" "no field for the key"
is "$out" "a${tab}Package: a"
load 3 deb4 'Package:\nVersion: 1\n' --format=deb822
t 2 load db deb5 input --format=deb822 --header

# --- Many rows: statistics, closed pipes, full devices ---
seq -f 'key%07g' 1 20000 | sed "s/\(.*\)/\1${tab}value of \1, which is long enough to fill some pages of the table/" >rows.tsv
t 0 load db rows rows.tsv --batch=500
has "$err" "20,000 rows"
t 0 stat db rows --json
json "$out"
t 0 stat db --json
json "$out"
has "$out" '"buffer.frames"'
t 0 stat db
t 1 stat db lakes
t 0 scan db rows --reverse --limit=1 --keys
is "$out" key0020000
"$ashlar" scan db rows 2>err | head -1 >got
is "${PIPESTATUS[0]}" 141
is "$(<err)" ""
if [ -w /dev/full ]; then
    "$ashlar" scan db rows >/dev/full 2>err
    is $? 3
    has "$(<err)" "could not be written"
fi

# --- Reading changes no byte ---
before=$(cksum db/*)
t 0 verify db
has "$out" "no problem"
t 0 verify db --json
is "$out" "[]"
for read in "get db five k01" "scan db five" "dump db" "tables db" "stat db" "inspect db zones" "inspect db zone 0" "inspect db log" "inspect db page 1"; do
    t 0 $read
    is "$err" ""
done
is "$(cksum db/*)" "$before"

# --- Inspect ---
t 0 inspect db page 1
has "$out" "(catalog)"
t 1 inspect db page 999999
t 1 inspect db zone 999999
t 0 inspect db zone 0
has "$out" "superblocks"
has "$out" " leaf "
t 0 inspect db zones
has "$out" "zone 0 "
t 0 inspect db log
has "$out" CHECKPOINT

# --- The example program ---
if [ -x "$builddir/examples/embed" ]; then
    out=$("$builddir/examples/embed" db rows 2>&1) || fail "examples/embed: $out"
    has "$out" "20000 rows"
    t 0 scan db embed-runs --json
    has "$out" "20000 rows"
    "$builddir/examples/embed" db nothing >got 2>err && fail "examples/embed took a table that is not there"
    has "$(<err)" "nothing"
fi

# --- Two processes ---
mkfifo pipe
feed() { # starts a load that has taken all of rows.tsv but the last moments and waits for more
    rm -f fed
    { cat rows.tsv; touch fed; exec sleep 300; } >pipe &
    feeder=$!
    "$ashlar" load "$opts" "$1" rows --batch=100 <pipe 2>load-err &
    loader=$!
    for ((i = 0; i < 600; i++)); do
        [ ! -e fed ] || return 0
        sleep 0.1
    done
    fail "the load did not take its input: $(<load-err)"
}
unfeed() { kill "$feeder" 2>/dev/null; wait "$feeder" 2>/dev/null; }
feed killed
t 3 get killed rows key0000001
has "$err" ASH_BUSY
t 3 put killed rows x y
has "$err" ASH_BUSY

# --- Kill: whole batches, in order, and nothing else; then on with the load ---
kill -9 "$loader"
{ wait "$loader"; } 2>/dev/null
unfeed
cp -r killed damaged
t 0 verify killed
has "$err" "not closed cleanly"
t 0 scan killed rows --keys
n=$(wc -l <<<"$out")
[ "$n" -ge 15000 ] || fail "only $n rows of finished batches are there"
is $((n % 100)) 0
is "$out" "$(cut -f1 rows.tsv | head -n "$n")"
t 0 load killed rows rows.tsv
t 0 dump killed rows
is "$(cksum <<<"$out")" "$(cksum <rows.tsv)"
t 0 verify killed

# --- A damaged log is not taken for a short one: the second of several segments is needed, and full ---
segments=(damaged/wal-0*.log)
if [ ${#segments[@]} -ge 4 ]; then
    head -c 8192 /dev/zero | tr '\0' x | dd of="${segments[1]}" bs=4096 seek=122 conv=notrunc status=none
    t 1 verify damaged
    has "$out" "$(basename "${segments[1]}")"
    has "$err" ASH_CORRUPT
    t 1 verify damaged --json
    json "$out"
    t 3 get damaged rows key0000001
    has "$err" "$(basename "${segments[1]}")"
else
    echo "the log has only ${#segments[@]} segments: damage in its middle was not tried"
fi

# --- A signal: the database is closed ---
feed stopped
kill -TERM "$loader"
wait "$loader"
is $? 143
unfeed
has "$(<load-err)" "Stopped: "
t 0 get stopped rows key0000001
is "$err" ""

# --- Damage: the page is named, and nothing else is lost ---
t 0 inspect killed zones
zones=$(sed -n 's/^zone \([0-9]*\) .*/\1/p' <<<"$out")
for zone in $zones; do
    t 0 inspect killed zone "$zone"
    place=$(sed -n 's/^offset \([0-9]*\) .* page \([0-9]*\) *leaf .*/\1 \2/p' <<<"$out" | tail -1)
    [ -z "$place" ] || break
done
read -r offset page <<<"$place"
byte=$(od -An -tu1 -j $((offset + 3000)) -N1 killed/data-0000.ash)
printf "\\x$(printf %02x $((byte ^ 64)))" | dd of=killed/data-0000.ash bs=1 seek=$((offset + 3000)) conv=notrunc status=none
t 1 verify killed
has "$out" "data-0000.ash"
has "$out" "page $page"
has "$err" ASH_CORRUPT
t 1 verify killed --json
json "$out"
has "$out" "\"page\":$page,"
t 3 dump killed rows
has "$err" "page $page"
t 3 inspect killed page "$page"
t 0 inspect killed zone "$zone"
has "$out" "page $page"
hasnt "$out" "assertion"
# No superblock is left: an error, not a crash.
dd if=/dev/zero of=killed/data-0000.ash bs=4096 count=16 conv=notrunc status=none
t 1 verify killed
has "$out" "data-0000.ash"
has "$err" ASH_CORRUPT
t 3 get killed rows x
has "$err" ASH_CORRUPT
# A database without its data file is not an empty directory: its log is not thrown away.
rm killed/data-0000.ash
logs=$(ls killed)
t 3 create killed
has "$err" ASH_CORRUPT
t 3 load killed rows rows.tsv
is "$(ls killed)" "$logs"

[ $bad = 0 ] && echo "all well"
exit $bad
