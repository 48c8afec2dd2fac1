"""The benchmark's results as a table; `Race.py` says what a row of a race has."""
import statistics
import textwrap

from Contenders import CONTENDERS, RACE_KINDS, RACE_SIDE
from Rivals import group_races, ratio_lines, rival_lines

SHARE = (
    "of sgemm: the plain arithmetic of the convolutions (2 x multiply-adds; training counts as "
    "three forward\n"
    "passes) per second, over the GFLOP/s of PyTorch's matrix product.  Above 1 is possible: "
    "ours convolves by\n"
    "Winograd's algorithm, with fewer multiplications than are counted here.")


# -------------------------------------------------------------------------------------- the table
def result_lines(results):
    """All results as lines of text; results: as Bench.benchmark returns them."""
    settings, machine, races = results["settings"], results["machine"], results["races"]
    sgemm = max(each["sgemm_gflops"] for each in machine["ceiling"])
    copies = max(each["copy_gbs"] for each in machine["ceiling"])
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    turns = "one turn"
    if settings["repeats"] > 1:
        turns = f"medians of {settings['repeats']} turns"
    lines = [f"{machine['name']}; load before the run: {machine['load']:.2f} running processes",
             *textwrap.wrap(versions, 120),
             f"Ceiling: single-precision matrix product {sgemm:.0f} GFLOP/s, "
             f"copy {copies:.1f} GB/s (read and written)",
             f"Training (forward, loss, backward, Adam) and prediction, batch 1, "
             f"{RACE_SIDE} x {RACE_SIDE} px; {turns}"]
    lines += [f"Left out: {CONTENDERS[name].title}: {reason}"
              for name, reason in results["left_out"].items()]
    for rows in group_races(races):
        lines += race_lines(rows, sgemm)
    lines += ["", SHARE, "", *rival_lines(races)]
    if results["crowd"]:
        lines += ["", *crowd_lines(results["crowd"])]
    lines += ["", *start_lines(results["starts"]), "", *data_lines(results["data"])]
    if results["growth"]:
        lines += ["", *growth_lines(results["growth"])]
    return lines


def crowd_lines(rows):
    """Training alone and beside busy processes: seconds, and the share of the speed left."""
    title = f"Beside busy processes (U-Net: {rows[0]['base_channels']} base channels)"
    counts = list(dict.fromkeys(row["beside"] for row in rows))
    lines = [f"{title:<48}" + "".join(f"{f'{count} busy, s':>14}{'speed':>8}" for count in counts)]
    for mode, name in dict.fromkeys((row["mode"], row["contender"]) for row in rows):
        seconds = [row["median_s"] for row in rows
                   if (row["mode"], row["contender"]) == (mode, name)]
        line = f"  {f'{mode}, training, {CONTENDERS[name].title}':<46}"
        for value in seconds:
            share = f"{seconds[0] / value:.2f}" if value and seconds[0] else ""
            line += f"{f'{value:.3f}' if value else 'failed':>14}{share:>8}"
        lines.append(line)
    return lines


def race_lines(rows, sgemm):
    """One net's training or prediction: a line for each contender, then the ratios."""
    title = f"{rows[0]['mode']}, {RACE_KINDS[rows[0]['kind']]}"
    lines = ["", f"{title:<30}{'s/image':>9}{'min ... max':>18}{'images/s':>10}"
             f"{'first step, s':>15}{'peak, MB':>10}{'GFLOP/s':>9}{'of sgemm':>10}"]
    for row in rows:
        name, seconds = "  " + CONTENDERS[row["contender"]].title, row["median_s"]
        if seconds is None:
            lines.append(f"{name:<30}failed: {row['failed']}")
            continue
        passes = 3 if row["kind"] == "train" else 1
        rate = 2e-9 * row["multiply_adds"] * passes / seconds
        spread = f"{min(row['seconds']):.3f} ... {max(row['seconds']):.3f}"
        lines.append(f"{name:<30}{seconds:>9.3f}{spread:>18}{1 / seconds:>10.3f}"
                     f"{row['first_s']:>15.2f}{row['peak_bytes'] / 1e6:>10,.0f}"
                     f"{rate:>9.0f}{rate / sgemm:>10.2f}")
    return lines + ratio_lines(rows)


def start_lines(starts):
    """Medians over the processes that were started: the import, and the first training step."""
    title = "From the start of the process, s"
    lines = [f"{title:<40}{'import done':>13}{'first training step done':>27}"]
    for mode, name in dict.fromkeys((row["mode"], row["contender"]) for row in starts):
        rows = [row for row in starts
                if (row["mode"], row["contender"]) == (mode, name) and "failed" not in row]
        imported = started = "failed"
        if rows:
            imported, started = (f"{statistics.median(row[key] for row in rows):.2f}"
                                 for key in ("import_s", "start_s"))
        lines.append(f"  {f'{mode}, {CONTENDERS[name].title}':<38}{imported:>13}{started:>27}")
    return lines


def data_lines(data):
    """Medians of the preparation; data: {what: seconds per image}."""
    title = f"Preparation of {RACE_SIDE} x {RACE_SIDE} px images"
    lines = [f"{title:<50}{'s/image':>9}{'images/s':>10}"]
    for what, seconds in data.items():
        value = statistics.median(seconds)
        lines.append(f"  {what:<48}{value:>9.3f}{1 / value:>10.1f}")
    return lines


def growth_lines(rows):
    """Time and memory of ours at each size of image and batch."""
    title = f"How ours grows (U-Net: {rows[0]['base_channels']} base channels)"
    lines = [f"{title:<42}{'side, px':>10}{'batch':>7}{'s/step':>9}{'images/s':>10}"
             f"{'peak, MB':>10}"]
    for row in rows:
        seconds = row["median_s"]
        if seconds is None:
            result = f"  failed: {row['failed']}"
        else:
            result = (f"{seconds:>9.3f}{row['batch'] / seconds:>10.2f}"
                      f"{row['peak_bytes'] / 1e6:>10,.0f}")
        what = f"{row['mode']}, {RACE_KINDS[row['kind']]}"
        lines.append(f"  {what:<40}{row['side']:>10}{row['batch']:>7}{result}")
    return lines
