#!/bin/sh
# Makes docs/train_kernel.svg again and prints the table of "Training a kernel" in docs/linear.md: examples/train_kernel.c
# on both samples, every kernel from five seeds, and what heed-compare says of the folders of seed 1. Needs gnuplot. A
# couple of minutes on one thread:
#
#     bench/make_train_chart.sh [BUILD [STEPS]]
#
# BUILD is build/release unless given, STEPS 300.
set -eu

cd "$(dirname "$0")/.."
build=${1:-build/release}
steps=${2:-300}
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
export OMP_NUM_THREADS=1

# numbers ROWS: the losses of all runs in the end, smallest first
numbers() {
    sed -n "s/^  $1 .*-> //p" "$made/runs" | sort -n | tr '\n' ' '
}

# Colours are those of heed-compare's charts, by number of the kernel.
echo "| sample | kernel | rows learned from | rows not seen | heed-compare, all rows |"
echo "|---|---|---|---|---|"
place=0
for sample in encoder decoder; do
    number=0
    for kernel in elu1 softplus glu oglu aoglu; do
        seeds="1 2 3 4 5"
        [ "$kernel" != elu1 ] || seeds=1
        : > "$made/runs"
        for seed in $seeds; do
            "$build/examples/heed_example_train_kernel" "$sample" "$kernel" "$made/$sample-$kernel-$seed" "$steps" \
                "$seed" >> "$made/runs"
        done
        variant=linear-$kernel
        [ "$kernel" != glu ] || variant=linear-oglu
        params="--params $made/$sample-$kernel-1"
        [ "$kernel" != elu1 ] || params=
        # shellcheck disable=SC2086 # none, or two words
        "$build/bench/heed-compare" --quick --threads 1 --sample "$sample" --variants "$variant" $params \
            > "$made/compared"
        distance=$(awk -v variant="$variant" '$1 == variant {print $NF}' "$made/compared")
        # shellcheck disable=SC2046 # numbers are words
        echo "$place $number $kernel" $(numbers "rows learned from") $(numbers "rows not seen") |
            awk -v data="$made/data" -v sample="$sample" -v distance="$distance" '
                function middle(first) { return $(first + int((n - 1) / 2)) }
                function show(first) {
                    return n == 1 ? $first : middle(first) " (" $first " to " $(first + n - 1) ")"
                }
                {
                    n = (NF - 3) / 2
                    print $1, $2, middle(4), $4, $(3 + n), middle(4 + n), $(4 + n), $(3 + 2 * n) >> data
                    printf "| %s | %s | %s | %s | %.2f |\n", sample, $3, show(4), show(4 + n), distance
                }'
        place=$((place + 1))
        number=$((number + 1))
    done
    place=$((place + 1))
done

# put_panel TITLE COLUMN: a bar for each kernel, the middle one of its seeds, and a line from the least to the most
put_panel() {
    echo "set title '$1'"
    printf "plot "
    number=0
    for kernel in elu1 softplus '2 x GLU' '2 x OGLU' '3 x AOGLU'; do
        colour=$(echo '#0072b2 #e69f00 #009e73 #cc79a7 #56b4e9' | cut -d ' ' -f $((number + 1)))
        printf "'%s' using 1:(\$2 == %d ? \$%d : NaN) with boxes lc rgb '%s' title '%s', " \
            "$made/data" $number "$2" "$colour" "$kernel"
        number=$((number + 1))
    done
    printf "'%s' using 1:%d:(0):(\$%d - \$%d) with vectors nohead lw 1.5 lc rgb '#000000' notitle, " \
        "$made/data" $(($2 + 1)) $(($2 + 2)) $(($2 + 1))
    printf "'%s' using 1:(\$%d + 0.05):(sprintf('%%.2f', \$%d)) with labels notitle\n" "$made/data" $(($2 + 2)) "$2"
}
{
    cat <<END
set terminal svg size 1000,380 noenhanced font 'sans-serif,13' background rgb 'white'
set output '$made/train_kernel.svg'
set multiplot layout 1,2 title 'Linear attention after $steps steps: |out - softmax|^2 / |softmax|^2 (less is better)'
set border 3
set xtics nomirror ('encoder' 2, 'decoder, causal' 8)
set ytics nomirror
set tics scale 0.5
set style fill solid 0.9 noborder
set boxwidth 0.8
set grid ytics lt 1 lc rgb '#dddddd'
set xrange [-0.7:10.7]
set yrange [0:1.6]
set key top left reverse Left samplen 1
END
    put_panel "Rows learned from" 3
    echo "unset key"
    put_panel "Rows not seen" 6
    echo "unset multiplot"
} | gnuplot
cp "$made/train_kernel.svg" docs/train_kernel.svg
