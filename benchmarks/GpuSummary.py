"""All results of a device as one page in Markdown, summary.md, ready for docs/."""
from Contenders import GPU_CONTENDERS, RACE_KINDS, RACE_SIDE
from GpuPlan import START
from GpuProbe import STAND_IN
from GpuRace import STEPS
from GpuSteps import PASSED

from backend.precision import ON_GPU
from command.files import atomic_write

RIVALS = [name for name in GPU_CONTENDERS if name != "ours"]


def write_summary(records):
    """Write summary.md beside the records."""
    with atomic_write(records.summary) as temporary:
        temporary.write_text("\n".join(summary_lines(records.rows)) + "\n", encoding="utf-8")


def summary_lines(rows):
    """The page's lines; rows: Records.rows, of which those of other cards are left out."""
    start = rows[START]
    card, found = start["card"], start["values"]
    here = {name: row for name, row in rows.items() if row["card"] == card}
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"# On {card}", ""]
    if card == STAND_IN:
        lines += ["**This device is a stand-in that computes nothing. No number on this page means "
                  "anything.**", ""]
    lines += [f"Driver {found['driver']}, {versions}. Jittor started in "
              f"{start['seconds']:.0f} s. Own CUDA kernels in use: "
              f"{', '.join(found['kernels']) or 'none'}."]
    others = len(rows) - len(here)
    if others:
        lines += ["", f"Records of other cards that are left out: {others}."]
    for section in (check_lines, bench_lines, memory_lines, train_lines, printed_lines):
        lines += section(here)
    return lines


def markdown_table(head, rows):
    """The lines of a Markdown table after an empty one; none without rows."""
    if not rows:
        return []
    return ["", *(f"| {' | '.join(map(str, cells))} |"
                  for cells in (head, ["---"] * len(head), *rows))]


def titled(title, lines):
    """Lines under a heading; none without lines."""
    return ["", f"## {title}", *lines] if lines else []


# --------------------------------------------------------------------------------------- the checks
def check_lines(rows):
    """How each step has ended."""
    cells = [(row["title"], row["state"], f"{row['seconds']:.0f}",
              as_cell(row["reason"] or (row["values"] if isinstance(row["values"], str) else "")))
             for row in rows.values()]
    return titled("Steps", markdown_table(["step", "state", "s", ""], cells))


def as_cell(text):
    """A text for a cell of a table."""
    return text.replace("|", r"\|")


def printed_lines(rows):
    """What the doctor printed, and the comparisons with PyTorch on the CPU."""
    names = ["doctor", *(name for precision in ON_GPU for name in rows
                         if name.startswith("align_") and name.endswith(precision))]
    lines = []
    for name in names:
        if rows.get(name, {}).get("values"):
            lines += ["", f"### {rows[name]['title']}", "", "```text", *rows[name]["values"], "```"]
    return titled("What the steps printed", lines)


# ---------------------------------------------------------------------------------------- the bench
def races_of(rows):
    """{(net, batch, kind): {contender: row of the race}} of all benches that have passed."""
    races = {}
    for name, record in rows.items():
        if name.startswith("bench_") and record["state"] == PASSED:
            for row in record["values"]:
                key = row["mode"], row["batch"], row["kind"]
                races.setdefault(key, {})[row["contender"]] = row
    return dict(sorted(races.items(), key=lambda race: (race[0][1], race[0][2] == "predict")))


def bench_lines(rows):
    """Milliseconds of a step, and how many times as fast as each rival ours is."""
    races = races_of(rows)
    cells = []
    for (mode, batch, kind), race in races.items():
        ours = race["ours"]["median_s"]
        line = [mode, batch, RACE_KINDS[kind], f"{1e3 * ours:.1f}"]
        for name in RIVALS:
            seconds = race[name]["median_s"]
            line.append(f"{1e3 * seconds:.1f} ({seconds / ours:.2f})" if seconds else "-")
        cells.append(line)
    failures = sorted({f"{GPU_CONTENDERS[name]}: {row['failed']}" for race in races.values()
                       for name, row in race.items() if "failed" in row})
    turns = ", ".join(f"{steps} steps for batch {batch}" for batch, steps in STEPS.items())
    text = ["", f"Milliseconds of a step on {RACE_SIDE} x {RACE_SIDE} px, U-Net with 64 base "
            "channels and padded convolutions, Adam, weighted cross entropy. In brackets: how many "
            f"times as fast ours is. All take turns; a turn is {turns}; medians of the turns."]
    if not cells:
        return []
    lines = markdown_table(["net", "batch", "", *GPU_CONTENDERS.values()], cells)
    if failures:
        lines += ["", "Left out:", "", *(f"- {line}" for line in failures)]
    return titled("Ours beside PyTorch", [*text, *lines])


def memory_lines(rows):
    """The GPU's memory that each process holds, where the driver tells it."""
    cells = []
    for (mode, batch, kind), race in races_of(rows).items():
        held = [race[name].get("peak_bytes") for name in GPU_CONTENDERS]
        if held[0]:
            cells.append([mode, batch, RACE_KINDS[kind],
                          *(f"{size / 2 ** 30:.1f}" if size else "-" for size in held)])
    head = ["net", "batch", "", *GPU_CONTENDERS.values()]
    return titled("Memory, GiB", markdown_table(head, cells))


# ------------------------------------------------------------------------------------- the training
def train_lines(rows):
    """Scores and speed of each training."""
    cells = []
    for name, record in rows.items():
        if name.startswith(("train_", "default_")) and record["values"]:
            found = record["values"]
            best, last = found["best"], found["last"]
            cells.append((record["title"], found["epochs"], f"{found['seconds'] / 60:.1f}",
                          f"{found['images_per_s']:.1f}", f"{best['iou']:.4f}, {best['dice']:.4f}",
                          f"{last['iou']:.4f}, {last['dice']:.4f}"))
    head = ["run", "epochs", "minutes of training", "images/s", "best epoch: IoU, Dice",
            "last test: IoU, Dice"]
    return titled("Trainings", markdown_table(head, cells))
