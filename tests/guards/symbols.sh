#!/bin/sh
# Only heed_ names leave the library.
#   symbols.sh NM archive LIBRARY          every external symbol of the archive starts with heed_
#   symbols.sh NM shared LIBRARY MAP HEADER  the dynamic symbols are exactly those of the export map, and the export
#                                          map names exactly what the header declares
set -eu
nm=$1 kind=$2 library=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "$kind" = archive ]; then
    "$nm" --extern-only --defined-only "$library" | awk 'NF == 3 { print $3 }' | sort -u > "$work/symbols"
    [ -s "$work/symbols" ] || { echo "no symbols found in $library"; exit 1; }
    if grep -v '^heed_' "$work/symbols"; then
        echo "the symbols above leave $library and do not start with heed_"
        exit 1
    fi
    echo "$(wc -l < "$work/symbols") external symbols, all heed_"
    exit 0
fi

map=$4 header=$5
"$nm" --dynamic --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u > "$work/symbols"
sed -n 's/^ *\(heed_[a-z0-9_]*\);.*/\1/p' "$map" | sort -u > "$work/frozen"
grep -v '^#' "$header" | tr '\n' ' ' | grep -o 'HEED_API [^(;]*(' | sed 's/ *($//; s/.*[ *]//' | sort -u > "$work/declared"
[ -s "$work/frozen" ] && [ -s "$work/declared" ] || { echo "no names found in $map or $header"; exit 1; }
diff -u "$work/frozen" "$work/symbols" || { echo "exports (+) differ from the frozen list (-)"; exit 1; }
diff -u "$work/frozen" "$work/declared" || { echo "heed.h (+) differs from the frozen list (-)"; exit 1; }
echo "$(wc -l < "$work/symbols") symbols, as frozen"
