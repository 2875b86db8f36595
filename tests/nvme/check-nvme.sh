#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# check-nvme.sh - the disk manager and a database on an emulated NVMe drive: `make check-nvme`, or a part of
# `make check` where QEMU is installed.  77 (skipped) where it is not.
set -eu
here=$(dirname "$0")
vm=$here/vm.sh
test=${1:-tests/storage/test_volume}
failed=0

run() { # name, device, what to run, options of vm.sh...
    name=$1 device=$2 part=$3
    shift 3
    code=0
    ASH_VM_ENV="export ASH_TEST_DEVICE=$device ASH_TEST_BLOCK=/dev/nvme0n1 CK_RUN_CASE=$part CK_FORK=no ASH_TEST_FAULTY=1" \
        sh "$vm" "$@" "$test" || code=$?
    [ $code -ne 77 ] || exit 77
    [ $code -eq 0 ] && echo "ok   $name" || { echo "FAIL $name"; failed=1; }
}

run "passthrough, blocks of 512 bytes" /dev/ng0n1 volume --size=48M
run "passthrough, blocks of 4096 bytes" /dev/ng0n1 volume --size=48M --block=4096
run "block device" /dev/nvme0n1 volume --size=48M
run "a database, passthrough" /dev/ng0n1 database --size=2G
# Zeroing of new units must not meet the fault: the drive fails plain writes only.
fault=$(mktemp)
trap 'rm -f "$fault"' EXIT
cat >"$fault" <<'FAULT'
[inject-error]
event = "none"
iotype = "write"
errno = "5"
sector = "8192"
once = "off"
FAULT
run "a drive that fails" /dev/ng0n1 faulty --size=48M --fault="$fault"
exit $failed
