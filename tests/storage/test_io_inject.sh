#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test_io_inject.sh - io_uring_enter() fails again and again: EINTR, EAGAIN, EBUSY, ENOMEM, injected by strace into the
# tests of the disk manager.  No request may be lost, sent twice or told a wrong outcome (invariant I4 of io_uring.c).
set -u

command -v strace >/dev/null || { echo "strace is not installed: skipped"; exit 77; }
strace -qq -o /dev/null -e inject=getppid:error=EAGAIN true 2>/dev/null || { echo "ptrace is not allowed: skipped"; exit 77; }
[ "${sanitizing:-}" != yes ] || { echo "too slow under sanitizers: skipped"; exit 77; }

cd "${builddir:-.}" || exit 99
export CK_FORK=no CK_DEFAULT_TIMEOUT=120
failed=0
# The first few calls probe the ring; every third after them fails.
for error in EINTR EAGAIN EBUSY ENOMEM; do
    for program in tests/storage/test_io tests/storage/test_io_merge; do
        if timeout -k 5 180 strace -f -qq -o /dev/null -e trace=io_uring_enter \
            -e inject=io_uring_enter:error=$error:when=3+3 "$program" >inject.log 2>&1; then
            echo "ok      $error $program"
        else
            echo "FAILED  $error $program"
            tail -n 20 inject.log
            failed=1
        fi
    done
done
rm -f inject.log
exit $failed
