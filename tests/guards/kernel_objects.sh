#!/bin/sh
# Kernel objects stand alone: they call nothing outside their own instruction set (no libm, no memset), hold no static
# initialiser, and no symbol that a linker may merge with that of another object (inline functions compiled with wider
# instructions would then run on machines without them).
#   kernel_objects.sh NM OBJDUMP ISA OBJECT...
set -eu
nm=$1 objdump=$2 isa=$3
shift 3
n_symbols=0
for object; do
    n=$("$nm" --extern-only --defined-only "$object" | grep -c "_$isa\$") || true
    n_symbols=$((n_symbols + n))
    if "$nm" --undefined-only "$object" | awk '{ print $NF }' | grep -v "^heed_.*_$isa\$" |
        grep -v '^_GLOBAL_OFFSET_TABLE_$'; then
        echo "$object calls the functions above"
        exit 1
    fi
    if "$nm" --extern-only --defined-only "$object" | grep -v " [TRDB] heed_[a-z0-9_]*_$isa\$"; then
        echo "$object defines the symbols above: weak, or without the suffix _$isa"
        exit 1
    fi
    if "$objdump" --section-headers "$object" | grep -E '\.(init_array|ctors|preinit_array)'; then
        echo "$object has a static initialiser"
        exit 1
    fi
done
[ "$n_symbols" -gt 10 ] || { echo "only $n_symbols symbols end in _$isa: nothing was checked"; exit 1; }
echo "$n_symbols symbols of $isa, which call nothing else"
