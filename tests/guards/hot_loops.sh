#!/bin/sh
# The hot loops of the micro-kernels keep everything in registers.
#   hot_loops.sh OBJDUMP x86|arm ISA OBJECT...
set -eu
objdump=$1 arch=$2 isa=$3
shift 3
here=$(dirname "$0")
for object; do
    "$objdump" --disassemble --no-show-raw-insn "$object"
done | awk -v arch="$arch" -v isa="$isa" -f "$here/hot_loops.awk"
