#!/bin/sh
# No AVX instruction outside the objects of its instruction set: each of these objects runs on every x86-64 machine. And
# no static initialiser: nothing of heed runs before it is called.
#   generic_objects.sh OBJDUMP OBJECT...
set -eu
objdump=$1
shift
n_instructions=0
for object; do
    "$objdump" --disassemble --no-show-raw-insn "$object" > "$object.disassembly"
    n=$(grep -c '^ *[0-9a-f]*:' "$object.disassembly") || true
    n_instructions=$((n_instructions + n))
    # VEX and EVEX instructions are those on ymm, zmm or mask registers, or whose name starts with v.
    if grep -E '%[yz]mm|%k[0-7]|^ *[0-9a-f]+:[[:space:]]+v[a-z]' "$object.disassembly" | head -5 | grep .; then
        echo "$object: the instructions above are not for every x86-64 machine"
        exit 1
    fi
    rm "$object.disassembly"
    if "$objdump" --section-headers "$object" | grep -E '\.(init_array|ctors|preinit_array)'; then
        echo "$object has a static initialiser"
        exit 1
    fi
done
[ "$n_instructions" -gt 1000 ] || { echo "only $n_instructions instructions found: nothing was checked"; exit 1; }
echo "$n_instructions instructions, none of them AVX, no static initialiser"
