"""Masks, shown in colour.

Every picture here is (h, w, 3) uint8.  `longest` is the longest side that it may have, in px.
"""
import io
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.labels import IGNORED
from images.channels import stored_channels
from images.composite import show_pixels
from images.figures import figure, import_matplotlib
from images.reading import read_image
from masks.prediction_files import read_png, read_prediction

CONTOURS = ((255, 212, 0), (0, 220, 255), (255, 60, 200),
            (90, 255, 60), (255, 120, 40), (150, 130, 255))  # of class 1, 2 ...
OBJECT_COLOURS = ((130, 30, 130), (245, 130, 40), (70, 100, 255), (255, 255, 255),
                  (240, 50, 230), (255, 225, 25), (70, 230, 240), (230, 25, 60), (50, 170, 70),
                  (215, 185, 255), (180, 240, 60))  # each far from the next, for human eyes
OVERVIEW = 512  # px: the longest side of objects in the overview, where they have some 250 px
NEAR = 4  # px: objects less than twice as far apart have different colours
# of `colour_errors`: foreground that is right, extra or missed, and pixels that are not scored
HIT, EXTRA, MISSED, PASSED_OVER = (0, 200, 90), (255, 60, 40), (60, 120, 255), (110, 110, 110)


def overlay(pixels, class_map, regions, shades):
    """An image with the contours of `regions` along their insides, in the colours of their classes.

    pixels: (H, W) or (H, W, C) values; shades: their images.composite.Shades; class_map: (H, W)
    classes; regions: (H, W) integers, 0 is background.  The picture has the image's own size.
    """
    from scipy.ndimage import grey_dilation
    from skimage.segmentation import find_boundaries
    shown = show_pixels(pixels, shades)
    picture = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    width = 1 + max(class_map.shape) // 1000  # px: thick enough to be seen on a screen
    contours = grey_dilation(find_boundaries(regions, mode="inner") * class_map, (width, width))
    colours = np.array(CONTOURS, np.uint8)[(contours[contours > 0] - 1) % len(CONTOURS)]
    picture[contours > 0] = colours
    return picture


def choose_colour_map(n_classes):
    """The Matplotlib colour map for class numbers, by name: black and white, or a colour each."""
    return "gray" if n_classes == 2 else "nipy_spectral"


# ---------------------------------------------------------------------------------------- objects
def colour_objects(numbers):
    """Numbered objects in OBJECT_COLOURS: (H, W) integers -> (H, W, 3) uint8.

    The background is black, IGNORED is grey.  A number has the same colour in all pictures, unless
    a near object has this colour too.  Then one of the two takes the next one.
    """
    near, chosen, count = find_near_objects(numbers), {}, len(OBJECT_COLOURS)
    for number in sorted(near, key=lambda number: (-len(near[number]), number)):
        taken = {chosen.get(other) for other in near[number]}
        wanted = ((number + k) % count for k in range(count))
        chosen[number] = next((colour for colour in wanted if colour not in taken), number % count)
    values, places = np.unique(numbers, return_inverse=True)
    colours = [OBJECT_COLOURS[chosen[value]] if value > 0 else
               PASSED_OVER if value == IGNORED else (0, 0, 0) for value in values.tolist()]
    return np.array(colours, np.uint8)[places.reshape(numbers.shape)]


def find_near_objects(numbers):
    """The objects less than 2 NEAR px from each object: {number: set of numbers}.

    numbers: (H, W) integers.  Objects behind others do not count.
    """
    from skimage.segmentation import expand_labels
    grown = np.pad(expand_labels(np.maximum(numbers, 0), NEAR), 1)
    near = {number: set() for number in np.unique(grown[grown > 0]).tolist()}
    here = grown[:-1, 1:-1]
    for there in (grown[:-1, 2:], grown[1:, :-2], grown[1:, 1:-1], grown[1:, 2:]):
        meet = (here != there) & (here > 0) & (there > 0)
        for one, other in set(zip(here[meet].tolist(), there[meet].tolist())):
            near[one].add(other)
            near[other].add(one)
    return near


def outline_objects(picture, numbers):
    """A picture, (H, W) or (H, W, 3) uint8, with the outlines of numbered objects in colour."""
    from skimage.segmentation import find_boundaries
    outlined = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    edges = find_boundaries(numbers, mode="inner")
    outlined[edges] = colour_objects(numbers)[edges]
    return outlined


# ----------------------------------------------------------------------------------- the overview
def draw_overview(dataset, folder, output, rows=4, predictions=None):
    """Write a picture of the first test images: image, label, prediction, and where the two differ.

    dataset: DataLoader.SegmentationSet; folder: of the predictions; rows: images to show, at most;
    predictions: {name: answers.Prediction}, whose numbered objects are shown where there are any.
    """
    count, colours = min(rows, len(dataset)), choose_colour_map(dataset.n_classes)
    with figure(output, count, 4, (10, 2.6 * count)) as axes:
        for index, row in enumerate(axes):
            image, label = read_as_stored(dataset, index), dataset.label(index)
            path = Path(folder) / f"{dataset.name(index)}_pred.png"
            prediction = read_prediction(path, dataset.n_classes)
            row[0].imshow(show_pixels(image), cmap="gray")
            shown = [label, prediction]
            if dataset.are_objects:
                shown[0] = show_objects(dataset.objects(index), OVERVIEW)
            if predictions and dataset.are_objects:
                shown[1] = show_found(predictions[dataset.name(index)], OVERVIEW)
            for axis, classes in zip(row[1:3], shown):
                axis.imshow(classes, cmap=colours, vmin=0, vmax=dataset.n_classes - 1,
                            interpolation="nearest")
            row[3].imshow(colour_errors(label, prediction))
            for axis in row:
                axis.set_axis_off()
        titles = ("image", "label", "prediction", "green right, red extra, blue missed")
        for axis, title in zip(axes[0], titles):
            axis.set_title(title, fontsize=9)


# ---------------------------------------------------------------------------- pictures of one size
def colour_errors(label, prediction):
    """Foreground that is right, extra or missed, in colour: (H, W) classes -> (H, W, 3) uint8.

    A wrong class counts as extra.  Pixels that are IGNORED in the label are grey.
    """
    picture = np.zeros((*label.shape, 3), np.uint8)
    picture[(label > 0) & (prediction == label)] = HIT
    picture[(prediction > 0) & (prediction != label)] = EXTRA
    picture[(label > 0) & (prediction == 0)] = MISSED
    picture[label == IGNORED] = PASSED_OVER
    return picture


def colour_values(values, colours, lowest, highest):
    """(H, W) numbers in the Matplotlib colour map named `colours`, from `lowest` to `highest`."""
    colormaps = import_matplotlib().colormaps
    scaled = (values - lowest) / max(highest - lowest, 1e-12)
    return colormaps[colours](scaled, bytes=True)[..., :3]


def shrink(pixels, longest, smooth=True):
    """(H, W) or (H, W, 3) uint8 as a picture.  Unless `smooth`, it has no new colours."""
    small = Image.fromarray(pixels).convert("RGB")
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    small.thumbnail((longest, longest), how)
    return np.asarray(small)


def read_as_stored(dataset, index):
    """The pixels of an image of a DataLoader.SegmentationSet as they are stored, for pictures."""
    return read_image(dataset.pairs[index][0], stored_channels(dataset.n_channels))


def show_image(dataset, index, longest):
    """An image of a DataLoader.SegmentationSet as a picture, see images.composite."""
    return shrink(show_pixels(read_as_stored(dataset, index)), longest)


def show_label(label, n_classes, longest):
    """(H, W) classes as a picture: black and white, or a colour each.  IGNORED is grey."""
    picture = colour_values(label, choose_colour_map(n_classes), 0, n_classes - 1)
    picture[label == IGNORED] = PASSED_OVER
    return shrink(picture, longest, smooth=False)


def show_objects(numbers, longest):
    """(H, W) integers, numbered objects, as a picture, see `colour_objects`."""
    small = Image.fromarray(numbers.astype(np.int32))
    small.thumbnail((longest, longest), Image.Resampling.NEAREST)
    return colour_objects(np.asarray(small))


def show_found(prediction, longest):
    """The numbered objects of an answers.Prediction as a picture."""
    return show_objects(read_png(prediction.objects), longest)


def show_test(dataset, index, prediction, longest):
    """A tested image's pictures, {"image", "label", "probability", "errors": (h, w, 3) uint8}.

    Where labels number objects, "prediction" follows "label" and shows the objects found.
    prediction: the answers.Prediction of image `index` of `dataset`, a DataLoader.SegmentationSet.
    """
    label = dataset.label(index)
    classes = read_prediction(io.BytesIO(prediction.mask), dataset.n_classes)
    if dataset.are_objects:
        answers = {"label": show_objects(dataset.objects(index), longest),
                   "prediction": show_found(prediction, longest)}
    else:
        answers = {"label": show_label(label, dataset.n_classes, longest)}
    return {"image": show_image(dataset, index, longest), **answers,
            "probability": shrink(read_png(prediction.probability), longest),
            "errors": shrink(colour_errors(label, classes), longest, smooth=False)}
