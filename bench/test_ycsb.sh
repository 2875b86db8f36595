#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test_ycsb.sh - every engine of this build runs every workload with 1,000 rows; the report is JSON and complete; wrong
# options are refused by name.
set -eu
bench=${builddir:-.}/bench/ashlar-bench
command -v python3 >/dev/null || exit 77
[ -x "$bench" ] || exit 77

dir=$(mktemp -d "${TMPDIR:-/tmp}/ashlar-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT

# Sanitizers see races in the peers' libraries, which are built without them.
[ "${CK_FORK:-yes}" = no ] && engines=--engines=ashlar || engines=--rounds=2
"$bench" ycsb $engines --dir="$dir/db" --records=1000 --operations=1000 --threads=2 --cache=16MiB --durability=async --rounds=2 \
    --json="$dir/report.json" >"$dir/table" || { cat "$dir/table"; exit 1; }
python3 -m json.tool "$dir/report.json" >/dev/null
python3 - "$dir/report.json" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["machine"]["cores"] >= 1
runs = report["runs"]
engines = {r["engine"] for r in runs}
assert len(runs) == len(engines) * 7, len(runs)
for r in runs:
    where = (r["engine"], r["workload"])
    assert r["error"] is None, (where, r["error"])
    assert r["operations"] == 1000 and r["ops_per_s"] > 0, where
    assert r["not_found"] == 0, where
    assert len(r["ops_per_s_of_rounds"]) == 2, where
    assert sum(l["count"] for l in r["latency_us"].values()) == 1000, where
    for l in r["latency_us"].values():
        assert l["p50"] <= l["p95"] <= l["p99"] <= l["p999"] <= l["max"], where
    if r["workload"] == "e":
        assert r["rows_scanned"] > 0, where
PY
[ -z "$(ls "$dir/db")" ] || { echo "databases were left behind: $(ls "$dir/db")"; exit 1; }

# A kept database is used again, and not without being asked deleted.
"$bench" ycsb --dir="$dir/db" --records=1000 --operations=100 --workloads=load --durability=none --keep >/dev/null
before=$(ls -id "$dir"/db/*/db)
"$bench" ycsb --dir="$dir/db" --records=1000 --operations=100 --workloads=c --durability=none >/dev/null
[ "$before" = "$(ls -id "$dir"/db/*/db)" ] || { echo "a kept database was made anew"; exit 1; }

# refuse option text: the command fails and its message names the option.
refuse() {
    if "$bench" ycsb --dir="$dir/db" "$1" >"$dir/out" 2>&1; then echo "accepted: $1"; exit 1; fi
    grep -q -e "$2" "$dir/out" || { echo "no \"$2\" in the message for $1:"; cat "$dir/out"; exit 1; }
}
refuse --engines=oracle --engines
refuse --workloads=a,load --workloads
refuse --workloads=z --workloads
refuse --records=many --records
refuse --value-size=2TiB --value-size
refuse --key-size=9 --key-size
refuse --durability=maybe --durability
refuse --distribution=normal --distribution
refuse --nonsense=1 --nonsense
"$bench" ycsb --help | grep -q -e --engines=LIST
