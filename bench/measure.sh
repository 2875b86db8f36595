#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# measure.sh - runs the suites of docs/performance.md and prints their tables as Markdown.
#
# Engines run one after the other in each round, so slow drifts of the machine hit all alike; the figure is the median of the
# rounds.  Nothing else should run meanwhile: look at the load average that is printed with each suite.
set -eu

usage() {
    cat <<'TEXT'
usage: measure.sh --dir=DIR [options]

  --dir=DIR        databases go here: the device to measure, with some 20 GB free
  --out=DIR        JSON reports and tables (default: measure-<date>)
  --bench=PROGRAM  default: bench/ashlar-bench
  --suites=LIST    of memory-sync,memory-none,small,large-sync,large-none,executors (default: all)
  --rounds=N       default 3
  --seconds=N      per workload, default 20
  --scale=N        divides rows and caches, default 1: 10 for a quick look
  --threads=N      clients of the memory suites, default 2
  --fio            measures the device first
  --tables         only prints the tables of the reports in --out
TEXT
}

dir= out=measure-$(date +%Y%m%d-%H%M) bench=bench/ashlar-bench rounds=3 seconds=20 scale=1 threads=2 fio= tables=
suites=memory-sync,memory-none,small,large-sync,large-none,executors
for arg; do
    case $arg in
    --dir=*) dir=${arg#*=} ;;
    --out=*) out=${arg#*=} ;;
    --bench=*) bench=${arg#*=} ;;
    --suites=*) suites=${arg#*=} ;;
    --rounds=*) rounds=${arg#*=} ;;
    --seconds=*) seconds=${arg#*=} ;;
    --scale=*) scale=${arg#*=} ;;
    --threads=*) threads=${arg#*=} ;;
    --fio) fio=--fio ;;
    --tables) tables=yes ;;
    --help) usage; exit 0 ;;
    *) echo "measure.sh: no option $arg" >&2; usage >&2; exit 2 ;;
    esac
done
mkdir -p "$out"

# run NAME options: one suite, its report in $out/NAME.json.  A failed engine does not end the measurement.
run() {
    name=$1
    shift
    echo "measure.sh: $name, load average $(cut -d' ' -f1-3 /proc/loadavg)" >&2
    "$bench" ycsb --dir="$dir" --rounds="$rounds" --seconds="$seconds" $fio "$@" --json="$out/$name.json" >"$out/$name.txt" 2>&1 ||
        echo "measure.sh: $name: an engine failed, see $out/$name.txt" >&2
    fio= # once is enough
}

suite() {
    # As many operations for all, or the data of the fastest would outgrow the cache by the inserts of d.
    memory="--records=$((1000000 / scale)) --value-size=1000 --cache=$((4096 / scale))MiB --threads=$threads"
    memory="$memory --operations=$((4000000 / scale))"
    large="--records=$((2000000 / scale)) --value-size=1000 --cache=$((256 / scale))MiB --load-batch=100"
    direct=--engines=ashlar,rocksdb,wiredtiger # the others would have the page cache besides
    case $1 in
    memory-sync) run "$1" $memory --durability=sync ;;
    memory-none) run "$1" $memory --durability=none ;;
    small) run "$1" --workloads=load,c --key-size=8 --value-size=120 --distribution=uniform --records=$((10000000 / scale)) \
        --cache=$((6144 / scale))MiB --durability=none --load-batch=1000 --threads=1 --operations=1000000000 ;;
    large-sync) run "$1" $direct $large --workloads=load,a,b,c --threads=64 --durability=sync ;;
    large-none) run "$1" $direct $large --workloads=load,a,b,c --threads=64 --durability=none ;;
    executors) run "$1" --engines=ashlar --executors $large --workloads=load,a,b,c --threads=256 --durability=sync ;;
    *) echo "measure.sh: no suite $1" >&2; exit 2 ;;
    esac
}

if [ -z "$tables" ]; then
    [ -n "$dir" ] || { usage >&2; exit 2; }
    for name in $(echo "$suites" | tr ',' ' '); do suite "$name"; done
fi

python3 - "$out" <<'PY'
import glob, json, os, sys

ORDER = ["memory-sync", "memory-none", "small", "large-sync", "large-none", "executors"]


def short(n):
    return "%.2f M" % (n / 1e6) if n >= 1e6 else "%.1f K" % (n / 1e3) if n >= 1e3 else "%.0f" % n


def p99(run):
    return max((l["p99"] for l in run["latency_us"].values()), default=0)


def cell(run):
    if run is None:
        return "-"
    return "failed" if run["error"] else short(run["ops_per_s"])


def table(name, report):
    runs = {}
    engines = []
    workloads = []
    for r in report["runs"]:
        runs[r["engine"], r["workload"]] = r
        if r["engine"] not in engines:
            engines.append(r["engine"])
        if r["workload"] not in workloads:
            workloads.append(r["workload"])
    first = report["runs"][0]
    print("\n### %s\n" % name)
    print("%s rows, keys of %d and values of %d bytes, cache %d MiB, %s, %d %s, %d rounds (median).\n"
          % (short(first["records"]), first["key_size"], first["value_size"], first["cache_bytes"] >> 20, first["durability"],
             first["threads"], "requests in flight" if first["executors"] else "threads", first["rounds"]))
    peers = [e for e in engines if e != "ashlar"]
    print("| workload | " + " | ".join(engines) + " | ashlar / best peer | p99 us | CPU us/op | rss MiB | space MiB | rounds |")
    print("|---" * (len(engines) + 7) + "|")
    for w in workloads:
        own = runs.get(("ashlar", w))
        best = max((runs[p, w]["ops_per_s"] for p in peers if (p, w) in runs and not runs[p, w]["error"]), default=0)
        row = [w] + [cell(runs.get((e, w))) for e in engines]
        if own and not own["error"] and own["operations"]:
            row += ["**%.2f**" % (own["ops_per_s"] / best) if best else "-", "%.0f" % p99(own),
                    "%.2f" % (own["cpu_s"] * 1e6 / own["operations"]), "%d" % (own["rss_bytes"] >> 20),
                    "%d" % (own["space_bytes"] >> 20), " ".join(short(x) for x in own["ops_per_s_of_rounds"])]
        else:
            row += ["-"] * 6
        print("| " + " | ".join(row) + " |")


names = [os.path.basename(p)[:-5] for p in glob.glob(os.path.join(sys.argv[1], "*.json"))]
machine = None
for name in sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else 99, n)):
    with open(os.path.join(sys.argv[1], name + ".json")) as f:
        report = json.load(f)
    if machine is None:
        machine = report["machine"]
        print("Machine: %s, %d cores, %d GiB, Linux %s, %s on %s, %s." % (
            machine["cpu"], machine["cores"], machine["memory_bytes"] >> 30, machine["kernel"], machine["filesystem"],
            machine["device"], machine["date"]))
        if report.get("device"):
            d = report["device"]
            print("\nDevice (fio): " + ", ".join("%s %s" % (k, short(v)) for k, v in d.items() if isinstance(v, (int, float))) + ".")
    if report["runs"]:
        table(name, report)
PY
