"""Masks, shown in colour."""
import io
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.labels import IGNORED
from images.figures import figure
from images.formats import read_image
from masks.prediction_files import class_map

CONTOURS = ((255, 212, 0), (0, 220, 255), (255, 60, 200), (90, 255, 60), (255, 120, 40), (150, 130, 255))  # class 1 ...


def overlay(pixels, class_map, regions, white):
    """An image with the contours of `regions` along their insides, in the colours of their classes: (H, W, 3) uint8.

    pixels: (H, W) or (H, W, 3) values; white: the one that is shown white; regions: (H, W) integers, 0 background.
    """
    from scipy.ndimage import grey_dilation
    from skimage.segmentation import find_boundaries
    shown = np.minimum(pixels * (255 / white), 255).astype(np.uint8)
    picture = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    width = 1 + max(class_map.shape) // 1000  # px: to be seen on a screen
    contours = grey_dilation(find_boundaries(regions, mode="inner") * class_map, (width, width))
    colours = np.array(CONTOURS, np.uint8)[(contours[contours > 0] - 1) % len(CONTOURS)]
    picture[contours > 0] = colours
    return picture
HIT, EXTRA, MISSED, PASSED_OVER = (0, 200, 90), (255, 60, 40), (60, 120, 255), (110, 110, 110)  # colours of `compare`


def draw_overview(dataset, folder, path, rows=4):
    """Write a picture of the first test images: image, label, prediction, and where the two differ."""
    count = min(rows, len(dataset))
    with figure(path, count, 4, (10, 2.6 * count)) as axes:
        for row, index in zip(axes, range(count)):
            image, label = read_image(dataset.pairs[index][0]), dataset.label(index)
            prediction = class_map(Path(folder) / f"{dataset.name(index)}_pred.png", dataset.n_classes)
            row[0].imshow(image, cmap="gray")
            for axis, classes in zip(row[1:3], (label, prediction)):
                axis.imshow(classes, cmap="gray" if dataset.n_classes == 2 else "nipy_spectral", vmin=0,
                            vmax=dataset.n_classes - 1, interpolation="nearest")
            row[3].imshow(compare(label, prediction))
            for axis in row:
                axis.set_axis_off()
        for axis, title in zip(axes[0], ("image", "label", "prediction", "right (green), extra (red), missed (blue)")):
            axis.set_title(title, fontsize=9)


def compare(label, prediction):
    """(H, W, 3) uint8: foreground that is right, extra or missed, in colour; a wrong class counts as extra.

    Pixels that are IGNORED in the label are grey, whatever is predicted there.
    """
    picture = np.zeros((*label.shape, 3), np.uint8)
    picture[(label > 0) & (prediction == label)] = HIT
    picture[(prediction > 0) & (prediction != label)] = EXTRA
    picture[(label > 0) & (prediction == 0)] = MISSED
    picture[label == IGNORED] = PASSED_OVER
    return picture


def coloured(values, colours, lowest, highest):
    """(H, W) numbers as (H, W, 3) uint8 in Matplotlib's colour map of that name, from `lowest` to `highest`."""
    from matplotlib import colormaps
    scaled = (values - lowest) / max(highest - lowest, 1e-12)
    return colormaps[colours](scaled, bytes=True)[..., :3]


def shrunk(pixels, longest, smooth=True):
    """(H, W) or (H, W, 3) uint8 as (h, w, 3), no side over `longest` px; not `smooth`: no colour that was not there."""
    small = Image.fromarray(pixels).convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    return np.asarray(small)


def shown_image(path, longest):
    """An image file as (h, w, 3) uint8, no side over `longest` px; 16-bit values are stretched from black to white."""
    pixels = read_image(path)
    if pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = np.rint((pixels.astype(np.float32) - low) * (255 / max(high - low, 1))).astype(np.uint8)
    return shrunk(pixels, longest)


def shown_label(label, n_classes, longest):
    """A label as (h, w, 3) uint8, no side over `longest` px: black and white, or a colour for each class; IGNORED grey."""
    picture = coloured(label, "gray" if n_classes == 2 else "nipy_spectral", 0, n_classes - 1)
    picture[label == IGNORED] = PASSED_OVER
    return shrunk(picture, longest, smooth=False)


def panels(dataset, index, prediction, longest):
    """A tested image: {"image", "label", "probability", "errors": (h, w, 3) uint8}, no side over `longest` px.

    prediction: Process.Prediction of dataset's image `index`.
    """
    label = dataset.label(index)
    classes = class_map(io.BytesIO(prediction.mask), dataset.n_classes)
    with Image.open(io.BytesIO(prediction.probability)) as file:
        probability = np.asarray(file)
    return {"image": shown_image(dataset.pairs[index][0], longest),
            "label": shown_label(label, dataset.n_classes, longest),
            "probability": shrunk(probability, longest),
            "errors": shrunk(compare(label, classes), longest, smooth=False)}
