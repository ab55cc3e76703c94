#!/bin/sh
# Makes docs/compare.svg, docs/linear.svg, docs/sweep.svg and the tables between the markers of README.md and
# docs/benchmarks.md again, from runs of heed-compare: both samples, a sweep over N, and the cases of softmax attention,
# AFT, linear attention and MrsHA that tuning went by. Needs gnuplot and Python 3. On a quiet machine:
#
#     bench/make_charts.sh [HEED-COMPARE [OPTION...]]
#
# HEED-COMPARE is build/compare/bench/heed-compare unless given; options (--threads, --rounds, ...) go to the first three
# runs.
# Nothing is written unless all of it was made.
set -eu

cd "$(dirname "$0")/.."
compare=${1:-build/compare/bench/heed-compare}
[ $# -eq 0 ] || shift
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

kinds=linear-elu1,linear-softplus,linear-oglu,linear-aoglu,linear-favor
"$compare" --variants softmax,gemm,mrsha,mrsha-1248,mrsha-2,aft-full,aft-local,aft-simple,aft-conv "$@" --json "$made/compare.json" \
    --svg "$made/compare.svg"
"$compare" --variants "softmax,$kinds,linear-blas" "$@" --json "$made/linear.json" --svg "$made/linear.svg"
"$compare" "$@" --sweep 64,128,256,512,1024,2048,4096,8192 --json "$made/sweep.json" --svg "$made/sweep.svg"

# name | options of a run; each case has a run of its own, and so a limit of its own moment
cat > "$made/softmax-cases" <<'END'
1024 tokens, D = 128 | --shape 1,8,8,1024,1024,128,128
1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64
1024 tokens, D = 32 | --shape 1,8,8,1024,1024,32,32
4096 tokens, D = 128 | --shape 1,8,8,4096,4096,128,128
4096 tokens, D = 64 | --shape 1,8,8,4096,4096,64,64
4096 tokens, D = 32 | --shape 1,8,8,4096,4096,32,32
8192 tokens, D = 128 | --shape 1,8,8,8192,8192,128,128
8192 tokens, D = 64 | --shape 1,8,8,8192,8192,64,64
8192 tokens, D = 32 | --shape 1,8,8,8192,8192,32,32
256 tokens, D = 128 | --shape 1,8,8,256,256,128,128
256 tokens, D = 64 | --shape 1,8,8,256,256,64,64
causal, 1024 tokens, D = 128 | --shape 1,8,8,1024,1024,128,128 --causal
causal, 1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64 --causal
causal, 4096 tokens, D = 128 | --shape 1,8,8,4096,4096,128,128 --causal
causal, 4096 tokens, D = 64 | --shape 1,8,8,4096,4096,64,64 --causal
bnhd, 1024 tokens, D = 128 | --shape 1,8,8,1024,1024,128,128 --layout bnhd
bnhd, 1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64 --layout bnhd
packed, 1024 tokens, D = 128 | --shape 1,8,8,1024,1024,128,128 --layout packed
packed, 1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64 --layout packed
bias [Hq, Nq, Nk], 1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64 --bias
boolean mask [Hq, Nq, Nk], 1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64 --bool-mask
AVX2, 1024 tokens, D = 128 | --shape 1,8,8,1024,1024,128,128 --isa avx2
AVX2, 1024 tokens, D = 64 | --shape 1,8,8,1024,1024,64,64 --isa avx2
AVX2, 1024 tokens, D = 32 | --shape 1,8,8,1024,1024,32,32 --isa avx2
AVX2, 4096 tokens, D = 128 | --shape 1,8,8,4096,4096,128,128 --isa avx2
AVX2, 4096 tokens, D = 64 | --shape 1,8,8,4096,4096,64,64 --isa avx2
AVX2, 4096 tokens, D = 32 | --shape 1,8,8,4096,4096,32,32 --isa avx2
encoder sample | --sample encoder
decoder sample | --sample decoder
2 queries, 32 heads on 8 | --shape 1,32,8,2,8192,128,128
4 queries, 32 heads on 8 | --shape 1,32,8,4,8192,128,128
8 queries, 32 heads on 8 | --shape 1,32,8,8,8192,128,128
16 queries, 32 heads on 8 | --shape 1,32,8,16,8192,128,128
32 queries, 32 heads on 8 | --shape 1,32,8,32,8192,128,128
48 queries, 32 heads on 8 | --shape 1,32,8,48,8192,128,128
decoding, 8192 keys, 32 heads on 32 | --shape 1,32,32,1,8192,128,128
decoding, 8192 keys, 32 heads on 8 | --shape 1,32,8,1,8192,128,128
decoding, 32768 keys, 32 heads on 32 | --shape 1,32,32,1,32768,128,128
decoding, 32768 keys, 32 heads on 8 | --shape 1,32,8,1,32768,128,128
decoding, bnhd, 8192 keys, 32 heads on 8 | --shape 1,32,8,1,8192,128,128 --layout bnhd
decoding, bnhd, 32768 keys, 32 heads on 8 | --shape 1,32,8,1,32768,128,128 --layout bnhd
decoding, AVX2, 8192 keys, 32 heads on 32 | --shape 1,32,32,1,8192,128,128 --isa avx2
decoding, AVX2, 8192 keys, 32 heads on 8 | --shape 1,32,8,1,8192,128,128 --isa avx2
END
cat > "$made/aft-cases" <<'END'
full, 1024 tokens | --variants aft-full --shape 1,1,1,1024,1024,512,512
full, causal, 1024 tokens | --variants aft-full --causal --shape 1,1,1,1024,1024,512,512
full, 4096 tokens | --variants aft-full --shape 1,1,1,4096,4096,512,512
full, causal, 4096 tokens | --variants aft-full --causal --shape 1,1,1,4096,4096,512,512
full, batch 8, 1024 tokens | --variants aft-full --shape 8,1,1,1024,1024,512,512
full, 64 factors, 4096 tokens | --variants aft-full --aft-factors 64 --shape 1,1,1,4096,4096,512,512
local, s = 256, 4096 tokens | --variants aft-local --aft-window 256 --shape 1,1,1,4096,4096,512,512
local, s = 256, causal, 4096 tokens | --variants aft-local --aft-window 256 --causal --shape 1,1,1,4096,4096,512,512
local, s = 32, 4096 tokens | --variants aft-local --aft-window 32 --shape 1,1,1,4096,4096,512,512
local, s = 32, 1024 tokens | --variants aft-local --aft-window 32 --shape 1,1,1,1024,1024,512,512
conv, 8 heads, s = 31, 4096 tokens | --variants aft-conv --shape 1,1,1,4096,4096,512,512
conv, 8 heads, s = 31, 1024 tokens | --variants aft-conv --shape 1,1,1,1024,1024,512,512
conv, 8 heads, s = 31, causal, 4096 tokens | --variants aft-conv --causal --shape 1,1,1,4096,4096,512,512
conv, 8 heads, s = 31, causal, 1024 tokens | --variants aft-conv --causal --shape 1,1,1,1024,1024,512,512
conv, 8 heads, 11 x 11 on 64 x 64 | --variants aft-conv --grid 64x64 --shape 1,1,1,4096,4096,512,512
simple, 16384 tokens | --variants aft-simple --shape 1,1,1,16384,16384,512,512
simple, causal, 16384 tokens | --variants aft-simple --causal --shape 1,1,1,16384,16384,512,512
AVX2, full, 1024 tokens | --variants aft-full --shape 1,1,1,1024,1024,512,512 --isa avx2
AVX2, full, causal, 1024 tokens | --variants aft-full --causal --shape 1,1,1,1024,1024,512,512 --isa avx2
AVX2, full, 64 factors, 4096 tokens | --variants aft-full --aft-factors 64 --shape 1,1,1,4096,4096,512,512 --isa avx2
AVX2, local, s = 256, 4096 tokens | --variants aft-local --aft-window 256 --shape 1,1,1,4096,4096,512,512 --isa avx2
AVX2, local, s = 32, 4096 tokens | --variants aft-local --aft-window 32 --shape 1,1,1,4096,4096,512,512 --isa avx2
AVX2, conv, s = 31, 1024 tokens | --variants aft-conv --shape 1,1,1,1024,1024,512,512 --isa avx2
AVX2, conv, 11 x 11 on 64 x 64 | --variants aft-conv --grid 64x64 --shape 1,1,1,4096,4096,512,512 --isa avx2
local, s = 32, 2048 tokens | --variants aft-local --aft-window 32 --shape 1,1,1,2048,2048,512,512
conv, 8 heads, s = 31, 2048 tokens | --variants aft-conv --shape 1,1,1,2048,2048,512,512
local, s = 32, 8192 tokens | --variants aft-local --aft-window 32 --shape 1,1,1,8192,8192,512,512
conv, 8 heads, s = 31, 8192 tokens | --variants aft-conv --shape 1,1,1,8192,8192,512,512
full, 2048 tokens | --variants aft-full --shape 1,1,1,2048,2048,512,512
simple, 32768 tokens | --variants aft-simple --shape 1,1,1,32768,32768,512,512
END

# One run holds all variants of a case: their times are compared.
{
    for n in 1024 4096 16384; do
        echo "$n tokens | --variants $kinds,linear-blas --features 64 --shape 1,8,8,$n,$n,64,64"
        echo "causal, $n tokens | --variants $kinds,linear-blas --features 64 --causal --shape 1,8,8,$n,$n,64,64"
    done
    for n in 65536 262144; do
        echo "$n tokens | --variants linear-softplus,linear-blas --shape 1,8,8,$n,$n,64,64"
        echo "causal, $n tokens | --variants linear-softplus,linear-blas --causal --shape 1,8,8,$n,$n,64,64"
    done
    for n in 1024 4096 16384 65536 262144; do
        echo "1 head, $n tokens | --variants linear-softplus,linear-blas --shape 1,1,1,$n,$n,64,64"
        echo "1 head, causal, $n tokens | --variants linear-softplus,linear-blas --causal --shape 1,1,1,$n,$n,64,64"
    done
    echo "256 features, 16384 tokens | --variants linear-favor --shape 1,8,8,16384,16384,64,64"
    echo "256 features, causal, 16384 tokens | --variants linear-favor --causal --shape 1,8,8,16384,16384,64,64"
    for batch in 1 32; do
        echo "step, 32 heads, 128 features, batch $batch | --step --variants $kinds --features 128" \
            "--shape $batch,32,32,1,256,128,128"
    done
    all="--variants $kinds --features 64 --shape 1,8,8,4096,4096,64,64"
    echo "gradients, 4096 tokens | --backward $all"
    echo "gradients, causal, 4096 tokens | --backward --causal $all"
    echo "AVX2, 4096 tokens | --isa avx2 $all"
    echo "AVX2, causal, 4096 tokens | --isa avx2 --causal $all"
} > "$made/linear-cases"

# One run holds softmax attention, which is MrsHA with fine heads alone, and three kinds of heads.
mrsha="--variants softmax,mrsha,mrsha-1248,mrsha-2 --groups 1,1,1,1,2,2,2,2"
for isa in "" "AVX2, "; do
    for channels in 64 128; do
        echo "${isa}D = $channels | $mrsha --shape 1,8,8,4096,4096,$channels,$channels ${isa:+--isa avx2}"
    done
done > "$made/mrsha-cases"

# run_cases LIST [OPTION...]: the rows of each case, on one thread and on two, into LIST.json
run_cases() {
    list=$1
    shift
    while IFS='|' read -r name options; do
        echo "$name" >&2
        case $options in
        *avx2*) "$compare" --isa avx2 --quick --shape 1,1,1,8,8,8,8 > /dev/null 2>&1 < /dev/null || continue ;;
        esac
        # shellcheck disable=SC2086 # the options are words
        "$compare" "$@" $options --threads 1,2 --json "$made/case.json" > "$made/case.log" < /dev/null ||
            { cat "$made/case.log" >&2; exit 1; }
        printf '{"name": "%s", "run": %s}\n' "${name% }" "$(tr '\n' ' ' < "$made/case.json")" >> "$made/$list.json"
    done < "$made/$list"
}
run_cases softmax-cases --variants softmax
run_cases aft-cases
run_cases linear-cases
run_cases mrsha-cases

python3 - "$made" <<'END'
import json
import re
import sys

made = sys.argv[1]


def read(name):
    with open(f"{made}/{name}.json", encoding="utf-8") as file:
        return json.load(file)


def machine_line(machine):
    fma = ", ".join(f"{isa} {rate:.0f}" for isa, rate in machine["fma_gflops"].items() if rate)
    reads = machine["read_gbytes"]
    return (f"{machine['cpu']}, {machine['cores']} cores, {machine['compiler']}, {machine['blas']}. One thread: FMA "
            f"{fma} GFLOP/s; exp {machine['exp_gops']:.1f} G/s; read L2 {reads['l2']:.0f}, L3 {reads['l3']:.0f}, DRAM "
            f"{reads['dram']:.0f} GB/s.")


def table(rows):
    lines = ["| input | B, Hq, Hkv, Nq, Nk, D, Dv | variant | ISA | threads | ms | GFLOP/s | share of limit | scratch |"
             " max error | to softmax |", "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        unit = "GFLOP/s" if row["limit"] == "fma" else "GB/s"
        gflops = "-" if row["gflops"] is None else f"{row['gflops']:.1f}"
        shape = ", ".join(str(size) for size in row["shape"]) + (", causal" if row["causal"] else "")
        lines.append(f"| {row['input']} | {shape} | {row['variant']} | {row['isa']} | {row['threads']} | {row['ms']:.3f}"
                     f" | {gflops} | {100 * row['share']:.0f} % of {row['limit_value']:.0f} {unit}"
                     f" | {row['scratch_bytes'] / 1024:.0f} KiB | {row['max_abs_err']:.1e} | {row['softmax_distance']:.1e} |")
    return "\n".join(lines)


def case_line(name, rows):
    one, two = sorted(rows, key=lambda row: row["threads"])
    unit = "GFLOP/s" if one["limit"] == "fma" else "GB/s"
    return (f"| {name} | {one['limit_value']:.0f}, {two['limit_value']:.0f} {unit} | {one['ms']:.3f}"
            f" | {one['share']:.2f} | {two['ms']:.3f} | {two['share']:.2f} | {one['ms'] / two['ms']:.2f} |")


def row_name(row):
    """What a row is called where its case has several: its variant, and of gradients how many times as long they take."""
    over = f" backward, {row['over_forward']:.2f} x forward" if "over_forward" in row else ""
    return row["variant"] + over


def case_table(name):
    """One line for each case and variant: time and share on one thread and on two."""
    lines = ["| case | limit | ms, 1 thread | share | ms, 2 threads | share | 2 threads over 1 |",
             "|---|---|--:|--:|--:|--:|--:|"]
    with open(f"{made}/{name}.json", encoding="utf-8") as file:
        for case in map(json.loads, file):
            kinds = {}
            for row in case["run"]["rows"]:
                kinds.setdefault((row["variant"], row["mode"]), []).append(row)
            for rows in kinds.values():
                several = name == "linear-cases"
                lines.append(case_line(f"{case['name']}: {row_name(rows[0])}" if several else case["name"], rows))
    return "\n".join(lines)


def mrsha_line(name, one, two, softmax_one, softmax_two):
    sizes = one["options"].get("group_sizes", [1] * one["shape"][1])
    predicted = sum(size ** -2 for size in sizes) / len(sizes)
    return (f"| {name}: {one['variant']} | {', '.join(map(str, sizes))} | {one['limit_value']:.0f},"
            f" {two['limit_value']:.0f} GFLOP/s | {one['ms']:.3f} | {one['share']:.2f} | {two['ms']:.3f}"
            f" | {two['share']:.2f} | {one['ms'] / softmax_one['ms']:.3f} | {two['ms'] / softmax_two['ms']:.3f}"
            f" | {predicted:.3f} |")


def mrsha_table():
    """One line for each case and variant: time and share on one thread and on two, and the part of softmax's time."""
    lines = ["| case | S of the heads | limit | ms, 1 thread | share | ms, 2 threads | share |"
             " of softmax's time, 1 thread | 2 threads | operations |", "|---|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    with open(f"{made}/mrsha-cases.json", encoding="utf-8") as file:
        for case in map(json.loads, file):
            rows = {(row["variant"], row["threads"]): row for row in case["run"]["rows"]}
            for variant in ("softmax", "mrsha", "mrsha-1248", "mrsha-2"):
                lines.append(mrsha_line(case["name"], rows[variant, 1], rows[variant, 2], rows["softmax", 1],
                                        rows["softmax", 2]))
    return "\n".join(lines)


def put_block(page, name, text):
    """Returns the page with `text` between its two markers."""
    begin, end = f"<!-- BEGIN {name} -->\n", f"<!-- END {name} -->"
    page, n_blocks = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}{text}\n{end}", page,
                             flags=re.DOTALL)
    if n_blocks != 1:
        sys.exit(f"one block {name} expected, found {n_blocks}")
    return page


def read_page(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


samples, linear, sweep = read("compare"), read("linear"), read("sweep")
line, rows = machine_line(samples["machine"]), table(samples["rows"])
chart = "![Time and error of each variant on both samples]"
benchmarks = put_block(
    read_page("docs/benchmarks.md"), "benchmark-results",
    f"Both samples. {line}\n\n{rows}\n\n{chart}(compare.svg)\n\n"
    f"Linear attention, in a run of its own. {machine_line(linear['machine'])}\n\n{table(linear['rows'])}\n\n"
    "![Time and error of linear attention on both samples](linear.svg)\n\n"
    f"A sweep over N, in a run of its own. {machine_line(sweep['machine'])}\n\n{table(sweep['rows'])}\n\n"
    "![Time and error of each variant over N](sweep.svg)")
for name in ("softmax-cases", "aft-cases", "linear-cases"):
    benchmarks = put_block(benchmarks, name, case_table(name))
benchmarks = put_block(benchmarks, "mrsha-cases", mrsha_table())
pages = {
    "README.md": put_block(read_page("README.md"), "compare-table",
                           f"{line}\n\n{rows}\n\n{chart}(docs/compare.svg)\n\nLinear attention with kernels that nobody "
                           "trained, and so far from softmax (docs/linear.md trains them):\n\n"
                           + table([row for row in linear["rows"] if row["threads"] == 1])),
    "docs/benchmarks.md": benchmarks,
}
for path, page in pages.items():
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
END
mv "$made/compare.svg" "$made/linear.svg" "$made/sweep.svg" docs/
