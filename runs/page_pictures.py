"""The pictures of a run's page, and what their colours mean."""
import base64
import io
from typing import NamedTuple, Optional

import numpy as np

from command.names import stem_of
from datasets.copies import Manifest, original_of
from images.figures import figure
from images.formats import png_bytes
from masks.colours import (EXTRA, HIT, MISSED, PASSED_OVER, colour_values, show_image, show_label,
                           show_objects, show_test, shrink)
from masks.pixel_scores import CHOOSING
from masks.score_rows import format_scores
from runs.curves import plot_loss, plot_scores

LONGEST = 512       # px: larger pictures are shrunk, so that the page stays small
COPIES = 2          # augmented copies that are shown, at most
NAMED_CLASSES = 12  # classes up to which a legend names their colours


class Picture(NamedTuple):
    """A picture that lies in the page."""
    source: str  # a data URI
    text: str    # what it shows, for those who cannot see it
    title: str   # the words below it


class ColourScale(NamedTuple):
    """The legend of a colour map."""
    name: str
    low: str       # the value of the first colour
    high: str      # of the last
    colours: list  # as CSS has them


class Example(NamedTuple):
    """A test image, as it is shown."""
    rank: str       # Best, Median or Worst
    name: str
    scores: str
    pictures: list  # of Pictures


class TrainingExample(NamedTuple):
    """A training image and its augmented copies, as they are shown."""
    name: str
    copies: list                  # their names
    strips: list                  # a list of Pictures for the image and for each copy
    scale: Optional[ColourScale]  # of the weights, where the loss has any


def css_colour(colour):
    """(r, g, b) as CSS has it."""
    return "rgb({}, {}, {})".format(*colour)


PROBABILITY_SCALE = ColourScale("probability", "0", "1",
                                [css_colour((0, 0, 0)), css_colour((255, 255, 255))])


# ----------------------------------------------------------------------------- pictures in the page
def data_uri(content, kind):
    """Bytes of the MIME type `kind` as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def inline_pictures(pictures, name):
    """Pictures, {title: (H, W, 3) uint8}, about the file `name`: [Picture]."""
    made = []
    for title, pixels in pictures.items():
        is_grey = (pixels == pixels[..., :1]).all()  # then it needs a third of the bytes
        content = png_bytes(pixels[..., 0] if is_grey else pixels)
        made.append(Picture(data_uri(content, "image/png"), f"{title} of {name}", title))
    return made


def draw_plot(draw, text, size=(5.5, 3.9)):
    """What `draw` draws on an Axes, as a Picture.

    text: what it shows.  size: width and height in inches.
    """
    content = io.BytesIO()
    with figure(content, 1, 1, size) as axes:
        draw(axes[0, 0])
    return Picture(data_uri(content.getvalue(), "image/svg+xml"), text, "")


def draw_plots(records, loss_title, constant):
    """The curves of some records, [Picture]; loss_title, constant: as `runs.curves` has them."""
    if not records:
        return []
    return [draw_plot(lambda axis: plot_loss(axis, records, loss_title),
                      "training loss of each epoch"),
            draw_plot(lambda axis: plot_scores(axis, records, constant),
                      "scores of each tested epoch")]


# -------------------------------------------------------------------------------------- test images
def rank_images(predictions, best_by=CHOOSING):
    """The names of the predictions, the best first, by the score with the key `best_by`."""
    return sorted(predictions, key=lambda name: -predictions[name].scores[best_by])


def choose_examples(predictions, best_by=CHOOSING):
    """[(rank, name)]: the best, the median and the worst, as far as these are different images."""
    names = rank_images(predictions, best_by)
    if not names:
        return []
    ranks = {len(names) // 2: "Median", len(names) - 1: "Worst", 0: "Best"}
    return [(ranks[place], names[place]) for place in sorted(ranks)]


def show_example(dataset, prediction, rank, name):
    """The Example of the image `name` of a DataLoader.SegmentationSet."""
    index = next(k for k in range(len(dataset)) if dataset.name(k) == name)
    pictures = inline_pictures(show_test(dataset, index, prediction, LONGEST), name)
    return Example(rank, name, format_scores(prediction.scores, separator=", "), pictures)


def explain_errors(n_classes, ignore_label):
    """What the colours of `colour_errors` mean: {name: CSS colour}."""
    extra = "false positive" if n_classes == 2 else "false positive or wrong class"
    colours = {"true positive": HIT, extra: EXTRA, "false negative": MISSED,
               "true negative": (0, 0, 0)}
    if ignore_label is not None:
        colours["ignored"] = PASSED_OVER
    return {name: css_colour(colour) for name, colour in colours.items()}


def explain_classes(n_classes):
    """The colours of the classes, {name: CSS colour}.  {} for two classes, and for too many."""
    if not 2 < n_classes <= NAMED_CLASSES:
        return {}
    colours = show_label(np.arange(n_classes)[None], n_classes, LONGEST)[0].tolist()
    return {f"class {k}": css_colour(colour) for k, colour in enumerate(colours)}


# ---------------------------------------------------------------------------------- training images
def show_training(loader):
    """The TrainingExample of a DataLoader.TrainingLoader.  All its weights are on one scale."""
    dataset = loader.dataset
    original, copies = find_example(dataset)
    targets = {index: dataset.target(index) for index in (original, *copies)}
    shown = {index: {"image": show_image(dataset, index, LONGEST),
                     "label": show_objects(target, LONGEST) if dataset.are_objects
                     else show_label(target, dataset.n_classes, LONGEST)}
             for index, target in targets.items()}
    scale = None
    if loader.maps is not None:
        weights = {index: loader.weight_map(index, target) for index, target in targets.items()}
        low = min(each.min() for each in weights.values())
        high = max(each.max() for each in weights.values())
        for index, each in weights.items():
            picture = colour_values(each, "viridis", low, high)
            shown[index]["weight"] = shrink(picture, LONGEST)
        stops = colour_values(np.linspace(0, 1, 6)[None], "viridis", 0, 1)[0].tolist()
        scale = ColourScale("weight", f"{low:.2f}", f"{high:.2f}", list(map(css_colour, stops)))
    strips = [inline_pictures(pictures, dataset.name(index)) for index, pictures in shown.items()]
    return TrainingExample(dataset.name(original), list(map(dataset.name, copies)), strips, scale)


def find_example(dataset):
    """(the index of a training pair, [those of its first augmented copies])."""
    images = [image for image, _ in dataset.pairs]
    made = Manifest(*(path.parent for path in dataset.pairs[0]))
    original = next((index for index, image in enumerate(images) if not made.lists(image)), 0)
    stem = stem_of(images[original])
    copies = [index for index, image in enumerate(images)
              if made.lists(image) and original_of(stem_of(image)) == stem]
    return original, copies[:COPIES]
