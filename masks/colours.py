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
from masks.prediction_files import read_prediction

CONTOURS = ((255, 212, 0), (0, 220, 255), (255, 60, 200),
            (90, 255, 60), (255, 120, 40), (150, 130, 255))  # of class 1, 2 ...
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


def draw_overview(dataset, folder, output, rows=4):
    """Write a picture of the first test images: image, label, prediction, and where the two differ.

    dataset: DataLoader.SegmentationSet; folder: of the predictions; rows: images to show, at most.
    """
    count, colours = min(rows, len(dataset)), choose_colour_map(dataset.n_classes)
    with figure(output, count, 4, (10, 2.6 * count)) as axes:
        for index, row in enumerate(axes):
            image, label = read_as_stored(dataset, index), dataset.label(index)
            path = Path(folder) / f"{dataset.name(index)}_pred.png"
            prediction = read_prediction(path, dataset.n_classes)
            row[0].imshow(show_pixels(image), cmap="gray")
            for axis, classes in zip(row[1:3], (label, prediction)):
                axis.imshow(classes, cmap=colours, vmin=0, vmax=dataset.n_classes - 1,
                            interpolation="nearest")
            row[3].imshow(colour_errors(label, prediction))
            for axis in row:
                axis.set_axis_off()
        titles = ("image", "label", "prediction", "green right, red extra, blue missed")
        for axis, title in zip(axes[0], titles):
            axis.set_title(title, fontsize=9)


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


def show_test(dataset, index, prediction, longest):
    """A tested image's pictures, {"image", "label", "probability", "errors": (h, w, 3) uint8}.

    prediction: the answers.Prediction of image `index` of `dataset`, a DataLoader.SegmentationSet.
    """
    label = dataset.label(index)
    classes = read_prediction(io.BytesIO(prediction.mask), dataset.n_classes)
    with Image.open(io.BytesIO(prediction.probability)) as file:
        probability = np.asarray(file)
    return {"image": show_image(dataset, index, longest),
            "label": show_label(label, dataset.n_classes, longest),
            "probability": shrink(probability, longest),
            "errors": shrink(colour_errors(label, classes), longest, smooth=False)}
