"""Ours beside its best rivals: lines, a table in Markdown, and a picture."""
from Contenders import CONTENDERS, RACE_KINDS, RACE_SIDE

from images.figures import figure


def group_races(rows):
    """The rows of each net's training and prediction, lists in their order."""
    return [[row for row in rows if (row["mode"], row["kind"]) == key]
            for key in dict.fromkeys((row["mode"], row["kind"]) for row in rows)]


def best_of_rows(rows, is_ours, is_bf16=None):
    """The fastest row of one race that is ours or a rival's, or None; is_bf16: None for any."""
    chosen = [row for row in rows if row["median_s"]
              and CONTENDERS[row["contender"]].is_ours == is_ours
              and is_bf16 in (None, CONTENDERS[row["contender"]].is_bf16)]
    return min(chosen, key=lambda row: row["median_s"], default=None)


def duels(rows):
    """The pairs (ours, its best rival) of one race.

    In float32 the rivals are those in float32; in bf16 they are all.
    """
    pairs = [(best_of_rows(rows, is_ours=True, is_bf16=False),
              best_of_rows(rows, is_ours=False, is_bf16=False)),
             (best_of_rows(rows, is_ours=True, is_bf16=True), best_of_rows(rows, is_ours=False))]
    return [(ours, rival) for ours, rival in pairs if ours and rival]


def describe_duel(ours, rival):
    """How fast ours is beside its best rival, in words."""
    ratio = rival["median_s"] / ours["median_s"]
    name, other = (CONTENDERS[row["contender"]].title for row in (ours, rival))
    behind = "" if ratio >= 1 else ": behind"
    return f"{name} is {ratio:.2f} times as fast as the best of its rivals ({other}){behind}"


def ratio_lines(rows):
    """How many times as fast as the others ours is in one race, by the medians."""
    lines = []
    ours = best_of_rows(rows, True, False)
    reference = [row["median_s"] for row in rows
                 if row["contender"] == "reference" and row["median_s"]]
    if ours and reference:
        lines.append(f"  ours, float32 is {reference[0] / ours['median_s']:.2f} times as fast as "
                     "the reference protocol")
    return lines + [f"  {describe_duel(*pair)}" for pair in duels(rows)]


def rival_lines(races):
    """Each race's duels as a table in Markdown, and where ours is behind."""
    lines = ["| net | ours | s/image | peak memory | best rival | s/image | peak memory | ratio |",
             "|---|---|---|---|---|---|---|---|"]
    behind = []
    for rows in group_races(races):
        race = f"{rows[0]['mode']}, {RACE_KINDS[rows[0]['kind']]}"
        for ours, rival in duels(rows):
            ratio = rival["median_s"] / ours["median_s"]
            cells = [race]
            for row in (ours, rival):
                cells += [CONTENDERS[row["contender"]].title, f"{row['median_s']:.3f}",
                          f"{row['peak_bytes'] / 1e9:.1f} GB"]
            lines.append(f"| {' | '.join([*cells, f'**{ratio:.2f}**'])} |")
            if ratio < 1:
                behind.append(f"{race}: {describe_duel(ours, rival)}")
    lines += ["", "Ours is behind nowhere." if not behind else "Where ours is behind:"]
    return lines + [f"  {line}" for line in behind]


# ------------------------------------------------------------------------------------ the picture
def draw_races(path, races, machine):
    """Draw bars of images/s: a row of panels for each net, training left, prediction right."""
    modes = list(dict.fromkeys(row["mode"] for row in races))
    with figure(path, len(modes), 2, (12, 0.8 + 3 * len(modes))) as axes:
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
    contenders = [CONTENDERS[row["contender"]] for row in rows]
    colours = ["#1f77b4" if each.is_ours else "#c0392b" for each in contenders]
    bars = axis.barh([each.title for each in contenders], rates, color=colours)
    axis.bar_label(bars, [f"{rate:.3g}" if rate else "failed" for rate in rates], padding=3)
    axis.margins(x=0.15)
