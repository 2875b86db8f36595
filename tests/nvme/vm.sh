#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# vm.sh - runs programs in a virtual machine that has an emulated NVMe drive.
#
# usage: vm.sh [--block=512|4096] [--fault=FILE] [--size=S] PROGRAM [ARGUMENT...]
#
# PROGRAM runs as root in a guest with an empty drive, /dev/nvme0n1 and /dev/ng0n1, in an empty /tmp, and its exit code is
# this script's.  Nothing of the host is reachable from the guest.  QEMU emulates the processor (TCG), so no hardware
# support is needed and no figure measured in there means anything.
#
#   --block=B    bytes of a logical block of the drive
#   --fault=F    a blkdebug file: errors that the drive reports
#   --size=S     of the drive, as truncate(1) takes it (default 256M)
#
# ASH_VM_ENV holds variables for the program, as `export NAME=VALUE` lines.
#
# Exit code 77 (skipped), with a line that says what is missing, when QEMU, busybox, cpio or a kernel with NVMe built
# in cannot be had.  ASH_VM_KERNEL names a kernel; otherwise the newest Debian cloud kernel, installed or downloaded.
set -eu

block=512 fault= size=256M seconds=${ASH_VM_SECONDS:-120}
while [ $# -gt 0 ]; do
    case $1 in
    --block=*) block=${1#*=} ;;
    --fault=*) fault=${1#*=} ;;
    --size=*) size=${1#*=} ;;
    -*) echo "vm.sh: Unknown option $1; see the head of $0." >&2; exit 2 ;;
    *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || { echo "vm.sh: Name a program to run." >&2; exit 2; }

skip() { echo "SKIP: $1" >&2; exit 77; }
[ "$(uname -m)" = x86_64 ] || skip "the NVMe tests need an x86-64 host."
for tool in qemu-system-x86_64 busybox cpio; do
    command -v $tool >/dev/null 2>&1 ||
        skip "$tool is missing; install qemu-system-x86, seabios, busybox-static and cpio to run the NVMe tests."
done

work=$(mktemp -d "${TMPDIR:-/tmp}/ash-vm.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# The kernel: given, installed, kept from last time, or downloaded as a package and unpacked.
cache=${ASH_VM_CACHE:-./vm-cache}
kernel=${ASH_VM_KERNEL:-}
if [ -z "$kernel" ]; then
    kernel=$(ls -1 /boot/vmlinuz-*-cloud-amd64 "$cache"/boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -1)
fi
if [ -z "$kernel" ] && command -v apt-get >/dev/null 2>&1; then
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }')
    if [ -n "$package" ] && (cd "$work" && apt-get -q download "$package" >/dev/null 2>&1); then
        mkdir -p "$cache"
        dpkg-deb -x "$work"/linux-image-*.deb "$cache"
        kernel=$(ls -1 "$cache"/boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -1)
    fi
fi
[ -n "$kernel" ] || skip "no kernel for the guest; install linux-image-cloud-amd64, or name one in ASH_VM_KERNEL."

# The guest: busybox, the program, the libraries that it needs.
root=$work/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
ldd "$root/bin/busybox" >/dev/null 2>&1 && skip "busybox is not a static one; install busybox-static."
program=$1
shift
real=$program
# A program that libtool wraps in a script lies beside it.
if head -c 2 "$program" | grep -q '#!' && [ -x "$(dirname "$program")/.libs/$(basename "$program")" ]; then
    real=$(dirname "$program")/.libs/$(basename "$program")
fi
cp "$real" "$root/bin/program"
ldd "$real" 2>/dev/null | grep -o '/[^ )]*' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
for argument; do
    printf "%s\n" "$argument"
done >"$root/arguments"
printf '%s\n' "${ASH_VM_ENV:-}" >"$root/environment"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
set --
while IFS= read -r argument; do set -- "$@" "$argument"; done </arguments
. /environment
export PATH=/bin HOME=/tmp TMPDIR=/tmp
i=0
while [ ! -e /dev/ng0n1 ] && [ $i -lt 50 ]; do /bin/busybox sleep 0.1; i=$((i + 1)); done
cd /tmp
echo "vm: begin"
/bin/program "$@"
echo "vm: end $?"
/bin/busybox sync
/bin/busybox poweroff -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd.gz"

image=$work/nvme.img
truncate -s "$size" "$image"
file=file
[ -z "$fault" ] || file=blkdebug
set -- -blockdev "driver=file,node-name=disk,filename=$image,cache.direct=off"
[ $file = file ] || set -- "$@" -blockdev "driver=blkdebug,node-name=faulty,image=disk,config=$fault"
[ $file = file ] && drive=disk || drive=faulty
timeout -k 5 "$seconds" qemu-system-x86_64 -M q35,accel=tcg -cpu max -m 768 -smp 1 -nographic -no-reboot \
    -nodefaults -serial stdio -kernel "$kernel" -initrd "$work/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 nvme.poll_queues=1" "$@" -device nvme,id=nv,serial=s0 \
    -device "nvme-ns,drive=$drive,logical_block_size=$block,physical_block_size=$block" </dev/null >"$work/console" 2>&1 ||
    true
tr -d '\r' <"$work/console" >"$work/text"
sed -n '/vm: begin$/,/^vm: end/p' "$work/text" | grep -v -e 'vm: begin$' -e '^vm: end' || true
code=$(sed -n 's/^vm: end \([0-9]*\)$/\1/p' "$work/text")
if [ -z "$code" ]; then
    echo "vm.sh: The guest did not end by itself within $seconds s; its console said:" >&2
    tail -20 "$work/text" >&2
    exit 1
fi
exit "$code"
