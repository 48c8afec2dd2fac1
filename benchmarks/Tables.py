"""The benchmark's results as a table and as a picture; what a result holds is `Bench.py`'s to say."""
import statistics
import textwrap

from command.files import atomic_write
from images.figures import use_agg

CONTENDERS = {"ours": "ours", "reference": "PyTorch, reference protocol", "full": "PyTorch, full tile",
              "channels_last": "PyTorch, channels_last", "compiled": "PyTorch, compiled"}
SIDE = 512  # px, of the images that are raced on
KINDS = {"train": "training", "predict": "prediction"}
SHARE = ("of sgemm: the plain arithmetic of the convolutions (2 x multiply-adds; training counts as three forward\n"
         "passes) per second, over the GFLOP/s of PyTorch's matrix product.  Above 1 is possible: ours convolves by\n"
         "Winograd's algorithm, with fewer multiplications than are counted here.")


# ------------------------------------------------------------------------------------------------------------- the table
def table(results):
    """All results as lines of text."""
    settings, machine = results["settings"], results["machine"]
    sgemm = max(each["sgemm_gflops"] for each in machine["ceiling"])
    copies = max(each["copy_gbs"] for each in machine["ceiling"])
    lines = [f"{machine['name']}; load before the run: {machine['load']:.2f} running processes",
             *textwrap.wrap(", ".join(f"{name} {value}" for name, value in results["versions"].items()), 120),
             f"Ceiling: single-precision matrix product {sgemm:.0f} GFLOP/s, copy {copies:.1f} GB/s (read and written)",
             f"Training (forward, loss, backward, Adam) and prediction, batch 1, {SIDE} x {SIDE} px; "
             + (f"medians of {settings['repeats']} turns" if settings["repeats"] > 1 else "one turn")]
    races = results["races"]
    for mode, kind in dict.fromkeys((row["mode"], row["kind"]) for row in races):
        lines += race_table([row for row in races if (row["mode"], row["kind"]) == (mode, kind)], sgemm)
    lines += ["", SHARE, "", *start_table(results["starts"]), "", *data_table(results["data"])]
    if results["growth"]:
        lines += ["", *growth_table(results["growth"])]
    return lines


def race_table(rows, sgemm):
    """One net's training or prediction: a line for each contender, then the ratios of the medians."""
    title = f"{rows[0]['mode']}, {KINDS[rows[0]['kind']]}"
    lines = ["", f"{title:<30}{'s/image':>9}{'min ... max':>18}{'images/s':>10}{'first step, s':>15}"
             f"{'peak, MB':>10}{'GFLOP/s':>9}{'of sgemm':>10}"]
    for row in rows:
        name, seconds = "  " + CONTENDERS[row["contender"]], row["median_s"]
        if seconds is None:
            lines.append(f"{name:<30}failed: {row['failed']}")
            continue
        rate = 2e-9 * row["multiply_adds"] * (3 if row["kind"] == "train" else 1) / seconds
        spread = f"{min(row['seconds']):.3f} ... {max(row['seconds']):.3f}"
        lines.append(f"{name:<30}{seconds:>9.3f}{spread:>18}{1 / seconds:>10.3f}{row['first_s']:>15.2f}"
                     f"{row['peak_bytes'] / 1e6:>10,.0f}{rate:>9.0f}{rate / sgemm:>10.2f}")
    found = {row["contender"]: row["median_s"] for row in rows if row["median_s"]}
    ours = found.pop("ours", None)
    if ours and "reference" in found:
        lines.append(f"  ours is {found['reference'] / ours:.2f} times as fast as the reference protocol")
    if ours and found:
        fastest = min(found, key=found.get)
        lines.append(f"  ours is {found[fastest] / ours:.2f} times as fast as the best of these ({CONTENDERS[fastest]})")
    return lines


def start_table(starts):
    """Medians over the processes that were started for it: the import, and the first training step."""
    lines = [f"{'From the start of the process, s':<40}{'import done':>13}{'first training step done':>27}"]
    for mode, name in dict.fromkeys((row["mode"], row["contender"]) for row in starts):
        rows = [row for row in starts if (row["mode"], row["contender"]) == (mode, name) and "failed" not in row]
        values = [f"{statistics.median(row[key] for row in rows):.2f}" if rows else "failed"
                  for key in ("import_s", "start_s")]
        lines.append(f"  {f'{mode}, {CONTENDERS[name]}':<38}{values[0]:>13}{values[1]:>27}")
    return lines


def data_table(data):
    lines = [f"{f'Preparation of {SIDE} x {SIDE} px images':<50}{'s/image':>9}{'images/s':>10}"]
    for what, seconds in data.items():
        value = statistics.median(seconds)
        lines.append(f"  {what:<48}{value:>9.3f}{1 / value:>10.1f}")
    return lines


def growth_table(rows):
    title = f"How ours grows (U-Net: {rows[0]['base_channels']} base channels)"
    lines = [f"{title:<42}{'side, px':>10}{'batch':>7}{'s/step':>9}{'images/s':>10}{'peak, MB':>10}"]
    for row in rows:
        seconds = row["median_s"]
        result = f"  failed: {row['failed']}" if seconds is None else (
            f"{seconds:>9.3f}{row['batch'] / seconds:>10.2f}{row['peak_bytes'] / 1e6:>10,.0f}")
        lines.append(f"  {row['mode'] + ', ' + KINDS[row['kind']]:<40}{row['side']:>10}{row['batch']:>7}{result}")
    return lines


# ----------------------------------------------------------------------------------------------------------- the picture
def draw(path, races, machine):
    """Bars of images/s: a row of panels for each net, training on the left, prediction on the right."""
    pyplot = use_agg()
    modes = list(dict.fromkeys(row["mode"] for row in races))
    figure, axes = pyplot.subplots(len(modes), 2, figsize=(12, 0.8 + 2.2 * len(modes)), squeeze=False,
                                   layout="constrained")
    for row_of_axes, mode in zip(axes, modes):
        for axis, kind in zip(row_of_axes, KINDS):
            rows = [row for row in races if (row["mode"], row["kind"]) == (mode, kind)][::-1]
            rates = [1 / row["median_s"] if row["median_s"] else 0 for row in rows]
            bars = axis.barh([CONTENDERS[row["contender"]] for row in rows], rates,
                             color=["#1f77b4" if row["contender"] == "ours" else "#c0392b" for row in rows])
            axis.bar_label(bars, [f"{rate:.3g}" if rate else "failed" for rate in rates], padding=3)
            axis.margins(x=0.15)
            axis.set(title=f"{mode}, {KINDS[kind]}", xlabel=f"images/s ({SIDE} x {SIDE} px, batch 1)")
    figure.suptitle(machine)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)
