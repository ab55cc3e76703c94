#!/bin/sh
# Makes docs/compare.svg, docs/sweep.svg and the tables between the markers of README.md and docs/benchmarks.md again,
# from two runs of heed-compare: both samples, and a sweep over N. Needs gnuplot and Python 3. On a quiet machine:
#
#     bench/make_charts.sh [HEED-COMPARE [OPTION...]]
#
# HEED-COMPARE is build/compare/bench/heed-compare unless given; options (--threads, --rounds, ...) go to both runs.
# Nothing is written unless all of it was made.
set -eu

cd "$(dirname "$0")/.."
compare=${1:-build/compare/bench/heed-compare}
[ $# -eq 0 ] || shift
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

"$compare" "$@" --json "$made/compare.json" --svg "$made/compare.svg"
"$compare" "$@" --sweep 64,128,256,512,1024,2048,4096,8192 --json "$made/sweep.json" --svg "$made/sweep.svg"

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
             " max error |", "|---|---|---|---|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        unit = "GB/s" if row["limit"] == "bandwidth" else "GFLOP/s"
        shape = ", ".join(str(size) for size in row["shape"]) + (", causal" if row["causal"] else "")
        lines.append(f"| {row['input']} | {shape} | {row['variant']} | {row['isa']} | {row['threads']} | {row['ms']:.3f}"
                     f" | {row['gflops']:.1f} | {100 * row['share']:.0f} % of {row['limit_value']:.0f} {unit}"
                     f" | {row['scratch_bytes'] / 1024:.0f} KiB | {row['max_abs_err']:.1e} |")
    return "\n".join(lines)


def put_block(path, name, text):
    """Returns the file's text with `text` between its two markers."""
    with open(path, encoding="utf-8") as file:
        page = file.read()
    begin, end = f"<!-- BEGIN {name} -->\n", f"<!-- END {name} -->"
    page, n_blocks = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}{text}\n{end}", page,
                             flags=re.DOTALL)
    if n_blocks != 1:
        sys.exit(f"{path}: one block {name} expected, found {n_blocks}")
    return page


samples, sweep = read("compare"), read("sweep")
line, rows = machine_line(samples["machine"]), table(samples["rows"])
chart = "![Time and error of each variant on both samples]"
pages = {
    "README.md": put_block("README.md", "compare-table", f"{line}\n\n{rows}\n\n{chart}(docs/compare.svg)"),
    "docs/benchmarks.md": put_block(
        "docs/benchmarks.md", "benchmark-results",
        f"Both samples. {line}\n\n{rows}\n\n{chart}(compare.svg)\n\n"
        f"A sweep over N, in a run of its own. {machine_line(sweep['machine'])}\n\n{table(sweep['rows'])}\n\n"
        "![Time and error of each variant over N](sweep.svg)"),
}
for path, page in pages.items():
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
END
mv "$made/compare.svg" "$made/sweep.svg" docs/
