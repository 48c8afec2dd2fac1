"""A run as one page to read and to send: scores, curves, pictures, settings, machine, the command that repeats it.

The page needs no server, no network and no JavaScript: pictures lie in it as data.  It is built as a tree of elements,
and Python's own ElementTree writes it, escaping every text and attribute: a file may be named `<script>.png`.
"""
import base64
import io
import platform
import shlex
import time
from dataclasses import dataclass
from importlib import metadata
from xml.etree import ElementTree

import numpy as np

from command.files import atomic_write
from datasets.copies import Manifest, original_of
from images.figures import figure
from images.formats import png_bytes
from masks.colours import (EXTRA, HIT, MISSED, PASSED_OVER, coloured, panels, shown_image,
                           shown_label, shrunk)
from masks.pixel_scores import best_constant
from runs.curves import plot_loss, plot_scores
from runs.log import ENDLESS, best_of, duration, middle_mean

LONGEST = 512  # px: larger pictures are shrunk, so that the page stays small
COPIES = 2     # augmented copies that are shown
MOST_CLASSES = 12  # whose colours are named
PACKAGES = ("jittor", "numpy", "scipy", "scikit-image", "pillow")
SCORES = {"iou": "IoU", "dice": "Dice", "f1": "F1"}

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --quiet: #5c5c5c; --rule: #c9c9c9; --tint: #f5f5f2 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e4e4e1; --quiet: #a0a29f; --rule: #43474c; --tint: #1f2226 }
  .plot { filter: invert(1) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 Charter, "Bitstream Charter", "Source Serif 4", Cambria, Georgia, "DejaVu Serif", serif }
h1, b, pre, .facts td, .notice, .panels span { overflow-wrap: anywhere }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; font-weight: 600 }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .8rem; font-weight: 600; border-bottom: 1px solid var(--rule) }
p { margin: .5rem 0 }
.quiet, figcaption, .panels span, .legend, summary { color: var(--quiet); font-size: .88rem }
.verdict { font-size: 1.12rem; margin: 1.4rem 0; padding: .8rem 1rem; background: var(--tint);
  border-left: 3px solid var(--ink) }
.notice { border-left: 3px solid #c0392b; padding-left: 1rem }
figure { margin: 1.4rem 0; break-inside: avoid; counter-increment: figure }
figcaption { margin-top: .5rem; color: var(--ink) }
figcaption::before { content: "Figure " counter(figure) ". "; font-weight: 600 }
.panels { display: grid; gap: .6rem; margin-bottom: .6rem; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)) }
.curves { --columns: 2 }
.of3 { --columns: 3 }
.of4 { --columns: 4 }
.panels img { display: block; width: 100% }
.panels span { display: block; padding-top: .15rem }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin: .6rem 0 }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .4em; vertical-align: -.08em;
  border: 1px solid var(--rule) }
.scale { width: 5em; margin: 0 .4em }
.wide { overflow-x: auto }
table { border-collapse: collapse; border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink);
  font-size: .92rem; font-variant-numeric: tabular-nums }
th { font-weight: 600; text-align: left }
th, td { padding: .22rem 1.6rem .22rem 0; vertical-align: top }
th:last-child, td:last-child { padding-right: 0 }
td + td { text-align: right }
.facts td + td { text-align: left }
thead tr { border-bottom: 1px solid var(--rule) }
thead th + th { text-align: right }
.facts td:first-child { overflow-wrap: normal; width: 11.5em }
.columns { display: grid; gap: 0 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
.columns table { width: 100% }
details { margin: 1rem 0 }
summary { cursor: pointer }
pre { margin: 0; padding: .8rem 1rem; background: var(--tint); font-size: .85rem; line-height: 1.45;
  white-space: pre-wrap }
@media (max-width: 40rem) {
  body { padding-top: 1.25rem }
  h1 { font-size: 1.5rem }
  table { font-size: .85rem }
  th, td { padding-right: .6rem }
  .panels { gap: .35rem }
  .of4 { --columns: 2 }
  .curves { --columns: 1 }
}
"""


@dataclass
class Run:
    """What a page tells about a run."""
    log: object          # Report.RunLog
    settings: dict       # the flags' values
    outcome: str         # why it ended early, or ""
    seconds: float       # that the whole run took
    command: list        # the words of its command line
    device: str
    parameters: int      # that were trained
    data: object         # Main.Data
    predictions: dict    # {name: Process.Prediction} of the test images at the best epoch, {} before the first test
    test_scores: dict    # the best model's on the test images where others have chosen it, else {}

    @property
    def records(self):
        return self.log.records

    @property
    def scored(self):
        """Which images the epochs' scores are about."""
        return "held-back training images" if self.data.holds_back else "test images"

    @property
    def title(self):
        return f"{self.settings['mode']} on {self.settings['Data_directory'].resolve().name}"


def write_page(path, run):
    """Write the page about a Run, atomically."""
    text = "<!DOCTYPE html>\n" + ElementTree.tostring(page(run), encoding="unicode", method="html") + "\n"
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


# ---------------------------------------------------------------------------------------------------------- the elements
def element(tag, *content, **attributes):
    """An HTML element that holds elements and texts; `class_="quiet"` is its attribute `class`."""
    made = ElementTree.Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for part in content:
        if not isinstance(part, str):
            made.append(part)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + part
        else:
            made.text = (made.text or "") + part
    return made


def inlined(content, kind, text, **attributes):
    """An <img> whose file, bytes of the MIME type `kind`, lies in the page; `text` describes it."""
    return element("img", src=f"data:{kind};base64,{base64.b64encode(content).decode()}", alt=text, **attributes)


def panel_row(pictures, name):
    """Pictures, {title: (H, W, 3) uint8}, beside each other, about the file `name`."""
    cells = []
    for title, pixels in pictures.items():
        grey = (pixels == pixels[..., :1]).all()  # a third of the bytes
        content = png_bytes(pixels[..., 0] if grey else pixels)
        cells.append(element("div", inlined(content, "image/png", f"{title} of {name}"), element("span", title)))
    return element("div", *cells, class_=f"panels of{len(pictures)}")


def plot_of(draw, text):
    """A panel with what `draw(axis)` draws."""
    content = io.BytesIO()
    with figure(content, 1, 1, (5.5, 3.9)) as axes:
        draw(axes[0, 0])
    return element("div", inlined(content.getvalue(), "image/svg+xml", text, class_="plot"))


def table(head, rows, **attributes):
    """A table of strings; one that is too wide for the page scrolls."""
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    top = [element("thead", element("tr", *(element("th", cell) for cell in head)))] if head else []
    return element("div", element("table", *top, element("tbody", *body), **attributes), class_="wide")


def swatch(colour, text):
    return element("span", element("span", class_="swatch", style=f"background: rgb{colour}"), text)


def scale(low, high, stops, text):
    """A legend's bar from `low` to `high`; stops: its colours, (r, g, b)."""
    colours = ", ".join(f"rgb{tuple(stop)}" for stop in stops)
    bar = element("span", class_="swatch scale", style=f"background: linear-gradient(to right, {colours})")
    return element("span", text, low, " ", bar, high)


def folded(title, content):
    return element("details", element("summary", title), content)


# ------------------------------------------------------------------------------------------------------------- the page
def page(run):
    """The page's root element."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing from outside, whatever is in it
    head = element("head", element("meta", charset="utf-8"),
                   element("meta", **{"http-equiv": "Content-Security-Policy"}, content=policy),
                   element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                   element("title", f"{run.title}: {run.log.name}"), element("style", STYLE))
    sections = (opening, curves, score_tables, examples, training_pairs, settings, machine, command)
    body = element("body", *(part for section in sections for part in section(run)))
    return element("html", head, body, lang="en")


def opening(run):
    yield element("h1", run.title)
    yield element("p", f"{run.parameters:,} trainable parameters; {len(run.data.loader.dataset)} training images, "
                       f"{len(run.data.test_set)} test images", class_="quiet")
    yield element("p", f"Run {run.log.name}, page written {time.strftime('%Y-%m-%d %H:%M')}", class_="quiet")
    if run.outcome:
        yield element("p", f"Not complete: {run.outcome}", class_="notice")
    yield element("p", verdict(run), class_="verdict")


def verdict(run):
    """The result in one line, beside the answers that do not look."""
    best, total = best_of(run.records), run.settings["Total_epochs"]
    of_all = f"{len(run.records)} of {total}" if total < ENDLESS else f"{len(run.records)}"
    epochs = f"{of_all} epochs in {duration(run.seconds)}"
    if best is None:
        return f"No epoch was tested; {epochs}."
    def with_constants(scores, baselines):
        constants = [f"{name} {each['iou']:.4f} / {each['dice']:.4f}" for name, each in baselines.items()]
        return f"{scores['iou']:.4f} / {scores['dice']:.4f}", f"({', '.join(constants)})"
    scores, constants = with_constants(best, run.data.baselines)
    if not run.data.holds_back:
        return f"Best IoU / Dice: {scores} at epoch {best['epoch']} {constants}; {epochs}."
    chosen_by = f"IoU / Dice {scores} {constants} of {len(run.data.choosing)} {run.scored} chose epoch {best['epoch']}; {epochs}."
    if not run.test_scores:
        return chosen_by
    scores, constants = with_constants(run.test_scores, run.data.test_baselines)
    return f"Test IoU / Dice, read once: {scores} {constants}. {chosen_by}"


def curves(run):
    if not run.records:
        return
    constant = best_constant(run.data.baselines)
    plots = [plot_of(lambda axis: plot_loss(axis, run.records), "training loss of each epoch"),
             plot_of(lambda axis: plot_scores(axis, run.records, constant), "scores of each tested epoch")]
    yield element("h2", "Curves")
    yield element("figure", element("div", *plots, class_="panels curves"),
                  element("figcaption", f"Training loss, and scores on the {run.scored}; epochs count from 0. Dotted: "
                                        f"what {constant[0]} would score."))


def score_tables(run):
    def row(name, record):
        return [name, *(f"{record[key]:.4f}" if key in record else "" for key in (*SCORES, "train_loss"))]

    yield element("h2", "Scores")
    best, last = best_of(run.records), run.records[-1] if run.records else None
    rows = [row(f"best epoch, {best['epoch']}", best)] if best else []
    rows += [row(f"last epoch, {last['epoch']}", last)] if last else []
    rows += [row(name, scores) for name, scores in run.data.baselines.items()]
    yield table([f"mean over {run.scored}", *SCORES.values(), "training loss"], rows)
    if run.test_scores:
        rows = [[name, *(f"{scores[key]:.4f}" for key in SCORES)]
                for name, scores in {"best model": run.test_scores, **run.data.test_baselines}.items()]
        yield table(["mean over test images, read once", *SCORES.values()], rows)
    if run.records:
        rows = [[*row(str(record["epoch"]), record), f"{record['epoch_time']:.2f}", f"{record['throughput']:.4f}"]
                for record in run.records]
        yield folded("All epochs", table(["epoch", *SCORES.values(), "training loss", "time (s)", "images/s"], rows))
    if run.predictions:
        rows = [[name, *(f"{run.predictions[name].scores[key]:.4f}" for key in SCORES)]
                for name in ranked(run.predictions)]
        yield folded("All test images, at the best epoch", table(["image", *SCORES.values()], rows))


def ranked(predictions):
    """The names of the predictions, best IoU first."""
    return sorted(predictions, key=lambda name: -predictions[name].scores["iou"])


def chosen(predictions):
    """[(rank, name)]: the best, the median and the worst prediction, as far as they are of different images."""
    names = ranked(predictions)
    ranks = {len(names) // 2: "Median", len(names) - 1: "Worst", 0: "Best"}
    return [(ranks[place], names[place]) for place in sorted(ranks)]


def examples(run):
    if not run.predictions:
        return
    test_set = run.data.test_set
    extra = "false positive" if test_set.n_classes == 2 else "false positive or wrong class"
    yield element("h2", "Best, median and worst test image")
    ignored = [] if test_set.ignore_label is None else [swatch(PASSED_OVER, "ignored")]
    yield element("p", swatch(HIT, "true positive"), swatch(EXTRA, extra), swatch(MISSED, "false negative"),
                  swatch((0, 0, 0), "true negative"), *ignored, scale("0", "1", [(0, 0, 0), (255, 255, 255)], "probability "),
                  class_="legend")
    if 2 < test_set.n_classes <= MOST_CLASSES:
        (colours,) = shown_label(np.arange(test_set.n_classes)[None], test_set.n_classes, LONGEST).tolist()
        yield element("p", *(swatch(tuple(colour), f"class {k}") for k, colour in enumerate(colours)), class_="legend")
    index = {test_set.name(k): k for k in range(len(test_set))}
    for rank, name in chosen(run.predictions):
        prediction = run.predictions[name]
        scores = ", ".join(f"{title} {prediction.scores[key]:.4f}" for key, title in SCORES.items())
        yield element("figure", panel_row(panels(test_set, index[name], prediction, LONGEST), name),
                      element("figcaption", f"{rank} test image by IoU, ", element("b", name), f": {scores}."))


def training_pairs(run):
    loader = run.data.loader
    dataset = loader.dataset
    original, copies = example_pair(dataset)
    labels = {index: dataset.label(index) for index in (original, *copies)}
    shown = {index: {"image": shown_image(dataset.pairs[index][0], LONGEST),
                     "label": shown_label(label, dataset.n_classes, LONGEST)} for index, label in labels.items()}
    yield element("h2", "What the net learns from")
    if loader.w0 is not None:
        weights = {index: loader.weight_map(index, label) for index, label in labels.items()}
        low, high = min(map(np.min, weights.values())), max(map(np.max, weights.values()))
        stops = coloured(np.linspace(0, 1, 6)[None], "viridis", 0, 1)[0].tolist()
        yield element("p", scale(f"{low:.2f}", f"{high:.2f}", stops, "weight "), class_="legend")
        for index, each in weights.items():
            shown[index]["weight"] = shrunk(coloured(each, "viridis", low, high), LONGEST)
    caption = ["Training image ", element("b", dataset.name(original))]
    for index in copies:
        caption += ["; warped copies: " if index == copies[0] else ", ", element("b", dataset.name(index))]
    caption.append(". Each with its label" + (" and the weight of its pixels in the loss." if loader.w0 is not None else "."))
    yield element("figure", *(panel_row(pictures, dataset.name(index)) for index, pictures in shown.items()),
                  element("figcaption", *caption))


def example_pair(dataset):
    """(the index of a training pair, [those of its first augmented copies])."""
    images = [image for image, _ in dataset.pairs]
    made = Manifest(*(path.parent for path in dataset.pairs[0])).hashes
    original = next((index for index, image in enumerate(images) if image not in made), 0)
    copies = [index for index, image in enumerate(images)
              if image in made and original_of(image.stem) == images[original].stem]
    return original, copies[:COPIES]


def settings(run):
    def shown(value):
        return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    rows = [[name, shown(value)] for name, value in run.settings.items()]
    half = (len(rows) + 1) // 2
    yield element("h2", "Settings")
    yield element("div", *(table([], part, class_="facts") for part in (rows[:half], rows[half:])), class_="columns")


def machine(run):
    rows = [["device", run.device], ["system", platform.platform()], ["Python", platform.python_version()]]
    rows += [[name, metadata.version(name)] for name in PACKAGES]
    if run.records:
        seconds, images = (middle_mean(run.records, key) for key in ("epoch_time", "throughput"))
        rows += [["training", f"{seconds:.2f} s per epoch, {images:.4f} images/s (means over the middle half of "
                              f"{len(run.records)} epochs, tests not counted)"]]
    rows += [["whole run", duration(run.seconds)]]
    yield element("h2", "Machine, software and speed")
    yield table([], rows, class_="facts")


def command(run):
    yield element("h2", "To repeat this run")
    yield element("pre", shlex.join(run.command))
