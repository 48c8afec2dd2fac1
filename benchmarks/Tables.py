"""The benchmark's results as a table and as a picture; `Race.py` says what a row of a race has."""
import statistics
import textwrap

from images.figures import figure

CONTENDERS = {"ours": "ours", "reference": "PyTorch, reference protocol",
              "full": "PyTorch, full tile", "channels_last": "PyTorch, channels_last",
              "compiled": "PyTorch, compiled"}
GPU_CONTENDERS = {"ours": "ours", "full": "PyTorch, eager, TF32",
                  "channels_last": "PyTorch, channels_last, TF32",
                  "compiled": "PyTorch, compiled, TF32",
                  "autocast": "PyTorch, channels_last, bf16 autocast"}
RACE_KINDS = {"train": "training", "predict": "prediction"}
RACE_SIDE = 512  # px, of the images that are raced on
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
    for mode, kind in dict.fromkeys((row["mode"], row["kind"]) for row in races):
        rows = [row for row in races if (row["mode"], row["kind"]) == (mode, kind)]
        lines += race_lines(rows, sgemm)
    lines += ["", SHARE, "", *start_lines(results["starts"]), "", *data_lines(results["data"])]
    if results["growth"]:
        lines += ["", *growth_lines(results["growth"])]
    return lines


def race_lines(rows, sgemm):
    """One net's training or prediction: a line for each contender, then the ratios."""
    title = f"{rows[0]['mode']}, {RACE_KINDS[rows[0]['kind']]}"
    lines = ["", f"{title:<30}{'s/image':>9}{'min ... max':>18}{'images/s':>10}"
             f"{'first step, s':>15}{'peak, MB':>10}{'GFLOP/s':>9}{'of sgemm':>10}"]
    for row in rows:
        name, seconds = "  " + CONTENDERS[row["contender"]], row["median_s"]
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


def ratio_lines(rows):
    """How many times as fast as the others ours is, by the medians."""
    medians = {row["contender"]: row["median_s"] for row in rows if row["median_s"]}
    ours, lines = medians.pop("ours", None), []
    if not ours or not medians:
        return lines
    if "reference" in medians:
        lines.append(f"  ours is {medians['reference'] / ours:.2f} times as fast as "
                     "the reference protocol")
    fastest = min(medians, key=medians.get)
    lines.append(f"  ours is {medians[fastest] / ours:.2f} times as fast as "
                 f"the best of these ({CONTENDERS[fastest]})")
    return lines


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
        lines.append(f"  {f'{mode}, {CONTENDERS[name]}':<38}{imported:>13}{started:>27}")
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


# ------------------------------------------------------------------------------------ the picture
def draw_races(path, races, machine):
    """Draw bars of images/s: a row of panels for each net, training left, prediction right."""
    modes = list(dict.fromkeys(row["mode"] for row in races))
    with figure(path, len(modes), 2, (12, 0.8 + 2.2 * len(modes))) as axes:
        for row_of_axes, mode in zip(axes, modes):
            for axis, kind in zip(row_of_axes, RACE_KINDS):
                rows = [row for row in races if (row["mode"], row["kind"]) == (mode, kind)]
                draw_race(axis, rows[::-1])
                axis.set(title=f"{mode}, {RACE_KINDS[kind]}",
                         xlabel=f"images/s ({RACE_SIDE} x {RACE_SIDE} px, batch 1)")
        axes[0, 0].figure.suptitle(machine)


def draw_race(axis, rows):
    """Draw one net's training or prediction, a bar for each contender from below."""
    rates = [1 / row["median_s"] if row["median_s"] else 0 for row in rows]
    colours = ["#1f77b4" if row["contender"] == "ours" else "#c0392b" for row in rows]
    bars = axis.barh([CONTENDERS[row["contender"]] for row in rows], rates, color=colours)
    axis.bar_label(bars, [f"{rate:.3g}" if rate else "failed" for rate in rates], padding=3)
    axis.margins(x=0.15)
