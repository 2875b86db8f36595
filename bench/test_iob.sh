#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test_iob.sh - `ashlar-bench io` from outside: what it moves, what it reports, what it refuses.
#
# Goal and method per part: counts must be exact, rates within 5 %, the JSON must have fio's members (iob_json_keys.txt), a
# flipped byte must be found, and bad input must end with a sentence and leave files alone.
set -eu
bench=${builddir:-.}/bench/ashlar-bench
here=${srcdir:-$(dirname "$0")/..}/bench
command -v python3 >/dev/null || exit 77
[ -x "$bench" ] || exit 77

dir=$(mktemp -d "${TMPDIR:-/tmp}/ashlar-io.XXXXXX")
trap 'rm -rf "$dir"' EXIT
fail() { echo "$1"; cat "$dir/out" 2>/dev/null || true; exit 1; }
# io ARGUMENTS: must succeed; the JSON goes to $dir/json.
io() { "$bench" io --directory="$dir" --output="$dir/json" --output-format=json "$@" >"$dir/out" 2>&1 || fail "failed: io $*"; }
# value EXPRESSION: of the last JSON, with j the report and job its first job.
value() { python3 -c "import json,sys; j=json.load(open(sys.argv[1])); job=j['jobs'][0]; print($1)" "$dir/json"; }
# holds EXPRESSION WHAT
holds() { [ "$(value "$1")" = True ] || fail "not true: $1 ($(value "${2:-0}"))"; }
# refuse STATUS TEXT ARGUMENTS: ends with that status and a message that holds the text.
refuse() {
    local want=$1 text=$2 got=0
    shift 2
    "$bench" io --directory="$dir" "$@" >"$dir/out" 2>&1 || got=$?
    [ "$got" = "$want" ] || fail "ended with $got, not $want: io $*"
    grep -q -e "$text" "$dir/out" || fail "no \"$text\" in the message of: io $*"
}
engines="threads psync"
"$bench" io --directory="$dir" --name=probe --size=64k --rw=write --unlink >/dev/null 2>&1 && engines="io_uring $engines"

# Every pattern by every engine moves exactly its size, and a pass without norandommap is a whole one.
for engine in $engines; do
    for rw in read write randread randwrite rw randrw; do
        depth=8
        [ "$engine" = psync ] && depth=1
        io --name=t --rw=$rw --size=1m --ioengine="$engine" --iodepth=$depth --numjobs=2 --group_reporting --unlink
        holds "all((job['read']['total_ios'] + job['write']['total_ios'] == 512, job['error'] == 0,
                    job['read']['io_bytes'] + job['write']['io_bytes'] == 2 << 20,
                    (job['read']['total_ios'] > 0) == ('$rw' not in ('write', 'randwrite')),
                    (job['write']['total_ios'] > 0) == ('$rw' not in ('read', 'randread'))))"
    done
done
[ -z "$(ls "$dir" | grep '^t\.')" ] || fail "unlink left files"

# Several files, sizes that vary, flushes, a second pass, figures that fit together.
io --name=m --filename=a:b --rw=randwrite --bssplit=4k/50:16k/50 --size=4m --loops=2 --fdatasync=10 --end_fsync --iodepth=4 --ioengine=threads
holds "job['write']['io_bytes'] == 8 << 20"
holds "job['sync']['total_ios'] >= job['write']['total_ios'] // 10 and job['sync']['lat_ns']['N'] == job['sync']['total_ios']"
holds "job['write']['clat_ns']['N'] == job['write']['total_ios']"
holds "list(job['write']['clat_ns']['percentile'].values()) == sorted(job['write']['clat_ns']['percentile'].values())"
holds "job['write']['clat_ns']['min'] <= job['write']['clat_ns']['percentile']['50.000000'] <= job['write']['clat_ns']['max']"
holds "abs(sum(job['iodepth_level'].values()) - 100) < 0.1"
holds "abs(sum(sum(job[k].values()) for k in ('latency_ns', 'latency_us', 'latency_ms')) - 100) < 0.1"
[ "$(stat -c %s "$dir/a")" = $((2 << 20)) ] || fail "size is not divided among the files"

# Time bounds, and rates within 5 %.
io --name=r --filename=a --rw=randread --time_based --runtime=1500ms --rate_iops=400 --ioengine=threads --iodepth=4
holds "abs(job['read']['total_ios'] / 600 - 1) < 0.05" "job['read']['total_ios']"
holds "1450 <= job['read']['runtime'] <= 1700" "job['read']['runtime']"
io --name=r --filename=a --rw=rw --bs=16k --time_based --runtime=1500ms --rate=4m,2m --ioengine=psync
holds "abs(job['read']['io_bytes'] / (6 << 20) - 1) < 0.05 and abs(job['write']['io_bytes'] / (3 << 20) - 1) < 0.05" \
    "job['read']['io_bytes'], job['write']['io_bytes']"
io --name=r --filename=a --rw=read --size=40k --thinktime=20ms --ioengine=psync
holds "job['read']['runtime'] >= 180" "job['read']['runtime']"
io --name=r --filename=a --rw=randread --time_based --runtime=300ms --ramp_time=300ms
holds "290 <= job['read']['runtime'] <= 500" "job['read']['runtime']"

# One system call per I/O on the own thread; a batch has one.
io --name=s --filename=a --rw=randread --ioengine=psync
holds "job['ashlar']['syscalls_per_io'] == 1" "job['ashlar']"
case $engines in *io_uring*)
    io --name=s --filename=a --rw=randread --iodepth=16 --fixedbufs --registerfiles
    holds "job['ashlar']['syscalls_per_io'] < 1" "job['ashlar']"
    io --name=s --filename=a --rw=randread --iodepth=16 --iodepth_batch=1
    holds "job['ashlar']['syscalls_per_io'] >= 1" "job['ashlar']"
    io --name=s --filename=a --rw=randread --size=256k --iodepth=4 --sqthread_poll
    holds "job['read']['total_ios'] == 64"
    ;;
esac

# fio's members are all there, and what is ours is under "ashlar".
io --name=k --filename=a --rw=randrw --size=1m
python3 - "$dir/json" "$here/iob_json_keys.txt" <<'PY'
import json, sys
found = set()
def walk(value, path):
    if isinstance(value, dict):
        for key, inner in value.items():
            found.add(path + key)
            if key not in ("percentile", "job options", "global options", "ashlar"):
                walk(inner, path + key + "/")
    elif isinstance(value, list):
        for inner in value:
            walk(inner, path + "[]/")
walk(json.load(open(sys.argv[1])), "")
wanted = {line.strip() for line in open(sys.argv[2]) if not line.startswith("#")}
ours = {"global options", "jobs/[]/ashlar"}
missing = {p for p in wanted - found if not p.startswith("disk_util/")} # a tmpfs has no disk
assert not missing, "missing: %s" % sorted(missing)
assert not found - wanted - ours, "unknown to fio: %s" % sorted(found - wanted - ours)
PY
holds "job['job options']['rw'] == 'randrw' and j['fio version'].startswith('ashlar-bench-')"
io --name=k --filename=a --rw=read --size=1m --output-format=json+ --clat_percentiles=0
holds "sum(job['read']['clat_ns']['bins'].values()) == 256 and 'percentile' not in job['read']['clat_ns']"
"$bench" io --directory="$dir" --name=k --filename=a --rw=randrw --size=1m >"$dir/out"
grep -q 'read: IOPS=.*, BW=.*MiB/s\|read: IOPS=.*, BW=.*KiB/s' "$dir/out" || fail "no summary line"
grep -q '99.99th=' "$dir/out" || fail "no percentiles"

# Verify: good data pass, a flipped byte does not, and neither does a file that was never written.
io --name=v --filename=v --rw=randrw --bsrange=4k-64k --size=4m --verify=crc32c --iodepth=8 --norandommap --ioengine=threads
holds "job['ashlar']['verified_blocks'] > 0 and job['ashlar']['wrong_reads'] == 0 and job['error'] == 0"
io --name=v --filename=w --rw=write --bs=64k --size=4m --verify=crc32c --iodepth=4
holds "job['ashlar']['verified_blocks'] == 1024" "job['ashlar']"
io --name=v --filename=w --rw=randread --size=4m --verify=crc32c
printf 'x' | dd of="$dir/w" bs=1 seek=1234567 conv=notrunc 2>/dev/null
refuse 1 "w at offset $((1234567 / 4096 * 4096)): the checksum" --name=v --filename=w --rw=read --bs=64k --size=4m --verify=crc32c \
    --output="$dir/json" --output-format=json
holds "job['error'] == 84 and job['ashlar']['wrong_reads'] == 1"
refuse 1 "magic" --name=v --filename=a --rw=read --size=64k --verify=crc32c --verify_fatal

# Job files.
cat >"$dir/j.fio" <<EOT
[global]
directory=$dir
filename=a
size=1m
ioengine=threads
group_reporting
[first]
rw=read
numjobs=2
[second]
stonewall
rw=randread
bs=16k
EOT
"$bench" io --output-format=json --output="$dir/json" "$dir/j.fio" || fail "the job file failed"
holds "[(x['jobname'], x['groupid'], x['read']['total_ios']) for x in j['jobs']] == [('first', 0, 512), ('second', 1, 64)]" "j['jobs']"
holds "j['global options']['size'] == '1m' and j['jobs'][1]['job options']['bs'] == '16k'"
echo "iodepth_low=3" >>"$dir/j.fio"
refuse 2 "j.fio:14: iodepth_low: there is no option \"iodepth_low\"" "$dir/j.fio"

# Bad input ends with a sentence before anything is touched.
refuse 2 "there is no option \"ioscheduler\"" --name=a --ioscheduler=x
refuse 2 "is none of io_uring" --name=a --ioengine=libaio
refuse 2 "give one of them" --name=a --size=1m --bs=4k --bssplit=4k/100
refuse 2 "hipri needs direct=1" --name=a --size=1m --hipri
refuse 2 "iomem_align" --name=a --size=1m --direct=1 --iomem_align=512
refuse 2 "no multiple of 4096" --name=a --size=1m --bs=1k
refuse 2 "There is no file" --name=a --filename=missing --rw=read
refuse 2 "There is no file" --readonly --name=a --filename=missing --rw=read --size=1m
refuse 2 "cpus_allowed" --name=a --filename=a --cpus_allowed=1-
refuse 2 "neither a file nor a block device" --name=a --filename=/dev/null --size=1m
refuse 2 "cannot be written" --name=a --filename=a --output=/no/such/directory/x
head -c 8192 /dev/urandom >"$dir/short"
refuse 2 "has 8192 bytes, but job a needs 1048576" --name=a --filename=short --size=1m --rw=read
head -c 1048576 /dev/urandom >"$dir/precious"
before=$(cksum <"$dir/precious")
refuse 2 "not made by ashlar-bench" --name=a --filename=precious --size=1m --rw=write
refuse 2 "not made by ashlar-bench" --name=a --filename=precious --size=1m --rw=randrw
[ "$before" = "$(cksum <"$dir/precious")" ] || fail "a foreign file was changed"
io --name=a --filename=precious --size=1m --rw=write --allow_overwrite=1
[ "$before" != "$(cksum <"$dir/precious")" ] || fail "allow_overwrite did nothing"
"$bench" io --parse-only --name=a --filename=missing --size=1m --rw=write || fail "parse-only"
[ ! -e "$dir/missing" ] || fail "parse-only made a file"
device=$(lsblk -dnpo NAME 2>/dev/null | head -1 || true)
[ -z "$device" ] || [ ! -r "$device" ] || refuse 2 "is a block device; allow_overwrite=1" --name=a --filename="$device" --size=1m --rw=randwrite

# A signal ends the job, not the report.
"$bench" io --directory="$dir" --name=i --filename=a --rw=randread --time_based --runtime=60 --output="$dir/json" --output-format=json &
pid=$!
sleep 0.5
kill -INT $pid
got=0
wait $pid || got=$?
[ $got = 130 ] || fail "SIGINT: ended with $got"
holds "job['read']['total_ios'] > 0 and job['read']['runtime'] < 30000"

# A block device is written to when that is wanted, but not while it is in use (a loop device, where one may be made).
truncate -s 4m "$dir/image"
if loop=$(losetup -f --show "$dir/image" 2>/dev/null); then
    trap 'losetup -d "$loop"; rm -rf "$dir"' EXIT
    refuse 2 "$loop is a block device; allow_overwrite=1" --name=b --filename="$loop" --rw=write
    io --name=b --filename="$loop" --rw=randwrite --size=50% --verify=crc32c --allow_overwrite=1 --direct=1 --iodepth=4
    holds "job['write']['io_bytes'] == 2 << 20 and job['ashlar']['verified_blocks'] == 512"
    refuse 2 "has 4194304 bytes, but job b needs 8388608" --name=b --filename="$loop" --rw=read --size=8m
    python3 -c "import os,sys,time; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL); print(flush=True); time.sleep(60)" "$loop" >"$dir/held" &
    holder=$!
    while [ ! -s "$dir/held" ]; do sleep 0.05; done
    refuse 2 "allow_mounted_write=1" --name=b --filename="$loop" --rw=write --allow_overwrite=1
    kill $holder
    wait $holder || true
    losetup -d "$loop"
    trap 'rm -rf "$dir"' EXIT
else
    echo "no loop device here: the part about block devices is left out"
fi

# A file system without O_DIRECT (ramfs, where it may be mounted).
cat >"$dir/ramfs.sh" <<EOT
mount -t ramfs none "$dir/ram" || exit 77
if "$bench" io --name=a --filename="$dir/ram/f" --size=1m --rw=read --direct=1 >"$dir/out" 2>&1; then exit 1; fi
grep -q "has no O_DIRECT; give direct=0" "$dir/out" || exit 1
[ ! -e "$dir/ram/f" ] || exit 1
"$bench" io --name=a --filename="$dir/ram/f" --size=1m --rw=read --direct=0 >"$dir/out" 2>&1
EOT
mkdir "$dir/ram"
got=0
unshare -rm sh "$dir/ramfs.sh" 2>/dev/null || got=$?
case $got in 0) ;; 1) fail "ramfs: direct=1" ;; *) echo "no ramfs here: the part without O_DIRECT is left out" ;; esac

# The ladder names each rung, with figures or a reason.
"$bench" io --directory="$dir" --name=l --filename=a --rw=randread --size=1m --iodepth=8 --runtime=50ms --ladder >"$dir/out" 2>&1 || fail ladder
for rung in psync threads "depth 1" "one by one" batched registered SQPOLL IOPOLL passthrough; do
    grep -q -e "$rung" "$dir/out" || fail "the ladder has no rung $rung"
done
refuse 2 "ladder" --ladder --name=a --filename=a --name=b --filename=a
"$bench" io --help | grep -q -e '--rw=read|write' || fail help
