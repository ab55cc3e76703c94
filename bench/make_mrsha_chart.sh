#!/bin/sh
# Makes docs/mrsha.svg and the table between the markers of docs/mrsha.md again: what multiresolution-head attention
# saves and what it costs on both samples, over the share of coarse heads, from runs of heed-compare. Needs gnuplot and
# Python 3. A few minutes on a quiet machine:
#
#     bench/make_mrsha_chart.sh [HEED-COMPARE [OPTION...]]
#
# HEED-COMPARE is build/compare/bench/heed-compare unless given; options (--rounds, --isa, ...) go to all runs.
# Nothing is written unless all of it was made.
set -eu

cd "$(dirname "$0")/.."
compare=${1:-build/compare/bench/heed-compare}
[ $# -eq 0 ] || shift
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

# sample, its heads, mode, S of coarse heads, quarters of the heads that are coarse; without coarse heads all is the same
for sample in "encoder 12" "decoder 9"; do
    echo "$sample both 1 0"
    for kind in "both 2" "both 4" "value 2" "value 4"; do
        for quarters in 1 2 3 4; do
            echo "$sample $kind $quarters"
        done
    done
done > "$made/list"

# The last heads are coarse, half a head counts as fine: as HEED_MRSHA_HALF has it.
while read -r sample heads mode size quarters; do
    n_coarse=$(((heads * quarters + 1) / 4))
    echo "$sample, $mode, S = $size in $n_coarse of $heads heads" >&2
    groups=$(awk -v n_fine=$((heads - n_coarse)) -v heads="$heads" -v size="$size" \
        'BEGIN { for (h = 0; h < heads; h++) printf("%s%d", h ? "," : "", h < n_fine ? 1 : size) }')
    "$compare" --threads 1 "$@" --sample "$sample" --variants softmax,mrsha --groups "$groups" --mrsha-mode "$mode" \
        --json "$made/run.json" > "$made/run.log" < /dev/null || { cat "$made/run.log" >&2; exit 1; }
    printf '{"mode": "%s", "size": %d, "coarse": %d, "run": %s}\n' "$mode" "$size" "$n_coarse" \
        "$(tr '\n' ' ' < "$made/run.json")" >> "$made/runs"
done < "$made/list"

python3 - "$made" <<'END'
import json
import re
import sys

made = sys.argv[1]
columns = [("both", 2), ("both", 4), ("value", 2), ("value", 4)]


def read_run(line):
    """The figures of a run: time and operations over those of softmax attention, and distances."""
    case = json.loads(line)
    softmax, mrsha = case["run"]["rows"][:2]
    heads = mrsha["shape"][1]
    coarse = [part for part in mrsha["resolutions"] if part["group_size"] > 1]
    return {
        "sample": mrsha["input"], "mode": case["mode"], "size": case["size"], "coarse": case["coarse"], "heads": heads,
        "ms": mrsha["ms"], "time": mrsha["ms"] / softmax["ms"],
        "operations": mrsha["gflops"] * mrsha["ms"] / (softmax["gflops"] * softmax["ms"]),
        "distance": mrsha["softmax_distance"],
        "coarse_distance": coarse[0]["softmax_distance"] if coarse else None,
        "machine": case["run"]["machine"], "isa": mrsha["isa"], "threads": mrsha["threads"],
    }


def table(runs):
    lines = ["| sample | mode | S of coarse heads | coarse heads | ms | time over softmax | operations over softmax |"
             " to softmax | coarse heads alone |", "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    for run in runs:
        alone = "-" if run["coarse_distance"] is None else f"{run['coarse_distance']:.2f}"
        distance = f"{run['distance']:.2f}" if run["coarse"] else f"{run['distance']:.1e}"
        mode, size = (run["mode"], run["size"]) if run["coarse"] else ("-", "-")
        lines.append(f"| {run['sample']} | {mode} | {size} | {run['coarse']} of {run['heads']} | {run['ms']:.3f}"
                     f" | {run['time']:.2f} | {run['operations']:.2f} | {distance} | {alone} |")
    return "\n".join(lines)


def write_lines(runs):
    """For each sample, mode and S a file of: share of coarse heads, time, operations, distance."""
    for sample in ("encoder", "decoder"):
        for mode, size in columns:
            with open(f"{made}/{sample}-{mode}-{size}", "w", encoding="utf-8") as file:
                for run in runs:
                    if run["sample"] == sample and (run["coarse"] == 0 or (run["mode"], run["size"]) == (mode, size)):
                        print(run["coarse"] / run["heads"], run["time"], run["operations"], run["distance"], file=file)


with open(f"{made}/runs", encoding="utf-8") as file:
    runs = [read_run(line) for line in file]
write_lines(runs)
first = runs[0]
machine = first["machine"]
threads = "1 thread" if first["threads"] == 1 else f"{first['threads']} threads"
text = (f"{machine['cpu']}, {machine['compiler']}, {first['isa']}, {threads}.\n\n{table(runs)}\n\n"
        "![Time and distance to softmax over the share of coarse heads, on both samples](mrsha.svg)")
with open("docs/mrsha.md", encoding="utf-8") as file:
    page = file.read()
begin, end = "<!-- BEGIN mrsha-chart -->\n", "<!-- END mrsha-chart -->"
page, n_blocks = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}{text}\n{end}", page,
                         flags=re.DOTALL)
if n_blocks != 1:
    sys.exit(f"docs/mrsha.md: one block mrsha-chart expected, found {n_blocks}")
with open(f"{made}/mrsha.md", "w", encoding="utf-8") as file:
    file.write(page)
END

# put_panel SAMPLE TITLE COLUMN [COLUMN-OF-A-THIN-LINE]
put_panel() {
    echo "set title '$2'"
    printf "plot "
    for kind in "both-2 0072b2 1" "both-4 d55e00 1" "value-2 0072b2 2" "value-4 d55e00 2"; do
        # shellcheck disable=SC2086 # the name of a line, its colour, its dashes
        put_line "$1" $kind "$3" "${4:-}"
    done
    echo
}

# put_line SAMPLE NAME COLOUR DASHES COLUMN [COLUMN-OF-A-THIN-LINE]
put_line() {
    title="mode ${2%-*}, S = ${2#*-}"
    printf "'%s' using 1:%d with linespoints lw 2 pt 7 ps 0.7 dt %d lc rgb '#%s' title '%s', " "$made/$1-$2" "$5" "$4" \
        "$3" "$title"
    [ -z "$6" ] ||
        printf "'%s' using 1:%d with lines lw 1 dt 3 lc rgb '#%s' notitle, " "$made/$1-$2" "$6" "$3"
}
{
    cat <<END
set terminal svg size 1000,720 noenhanced font 'sans-serif,13' background rgb 'white'
set output '$made/mrsha.svg'
set multiplot layout 2,2 title 'Multiresolution-head attention over the share of coarse heads'
set border 3
set xtics nomirror 0.25
set ytics nomirror
set tics scale 0.5
set grid ytics lt 1 lc rgb '#dddddd'
set xrange [-0.03:1.03]
set yrange [0:*]
set key bottom left reverse Left samplen 3
END
    for sample in encoder decoder; do
        what=$sample
        [ "$sample" != decoder ] || what="decoder, causal"
        put_panel "$sample" "$what: time over that of softmax (dotted: operations)" 2 3
        echo "unset key"
        put_panel "$sample" "$what: |out - softmax| / |softmax|" 4
    done
    echo "unset multiplot"
} | gnuplot
cp "$made/mrsha.md" docs/mrsha.md
cp "$made/mrsha.svg" docs/mrsha.svg
