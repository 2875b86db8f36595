#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes ./configure after a fresh clone; generated files are never committed.
cd "$(dirname "$0")" && exec autoreconf -fi
