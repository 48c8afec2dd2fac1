"""From logits to what people look at: probabilities, class maps, instances, overlays.

Also what stands around the net in prediction alone: the average over flips and rotations, and U-2-Net's own protocol.
NumPy, Pillow, SciPy and scikit-image only.
"""
from typing import NamedTuple

import numpy as np


# ---------------------------------------------------------------------------------------------- probabilities, classes
def probabilities(logits):
    """Softmax over the classes, (..., K, H, W) -> the same; the sigmoid where there is one class."""
    if logits.shape[-3] == 1:
        return 0.5 + 0.5 * np.tanh(0.5 * logits)  # no overflow
    scaled = np.exp(logits - logits.max(axis=-3, keepdims=True))
    return scaled / scaled.sum(axis=-3, keepdims=True)


def logits_of(probability):
    """Logits whose `probabilities` are these, (..., K, H, W)."""
    def log(values):
        return np.log(np.maximum(values, 1e-37))  # float32 has no smaller normal numbers
    return log(probability) - log(1 - probability) if probability.shape[-3] == 1 else log(probability)


def classes(logits):
    """The likeliest class of each pixel, (K, H, W) -> (H, W) uint8; with one class, 1 above probability 0.5."""
    return (logits[0] > 0 if len(logits) == 1 else logits.argmax(axis=0)).astype(np.uint8)


def mask_pixels(prediction, n_classes):
    """A class map (H, W) as a picture's uint8 values: 0/255 for up to two classes, the class numbers for more."""
    return (prediction * (255 if n_classes <= 2 else 1)).astype(np.uint8)


def assemble(parts, height, width, with_probabilities=False):
    """(class map (H, W) uint8, probabilities or None) of the parts that `MirrorPadding.tiled_logits` yields.

    Probabilities: (K, H, W) float32, with one class (H, W).
    """
    class_map, kept = np.empty((height, width), np.uint8), None
    for top, left, logits in parts:
        here = np.s_[..., top:top + logits.shape[1], left:left + logits.shape[2]]
        class_map[here] = classes(logits)
        if with_probabilities:
            kept = np.empty((len(logits), height, width), np.float32) if kept is None else kept
            kept[here] = probabilities(logits)
    return class_map, kept[0] if kept is not None and len(kept) == 1 else kept


def class_bands(parts, width):
    """Yield the class map of `assemble` in bands as wide as the image, (rows, width) uint8, as they are completed."""
    row = []
    for _, left, logits in parts:
        row.append(classes(logits))
        if left + logits.shape[2] == width:
            yield np.concatenate(row, axis=1)
            row = []


def average_of_eight(forward):
    """A `forward` (see MirrorPadding) whose probabilities are the mean over the input's eight flips and rotations.

    Input and output are turned, mirrored border and all, so that tiles stay exact.
    """
    def turn(array, quarters, flipped):
        return np.rot90(array[..., ::-1] if flipped else array, quarters, axes=(-2, -1))

    def turn_back(array, quarters, flipped):
        array = np.rot90(array, -quarters, axes=(-2, -1))
        return array[..., ::-1] if flipped else array

    def forward_eight(inputs):
        ways = [(quarters, flipped) for flipped in (False, True) for quarters in range(4)]
        return logits_of(sum(turn_back(probabilities(forward(np.ascontiguousarray(turn(inputs, *way)))), *way)
                             for way in ways) / len(ways))
    return forward_eight


class Prediction(NamedTuple):
    """A tested image's result, small enough to keep that of every image."""
    mask: bytes         # PNG of the predicted classes, as `mask_pixels` shows them
    probability: bytes  # PNG of `foreground_probability`
    scores: dict        # Metrics.scores


def foreground_probability(logits):
    """How probably a pixel is no background: (K, H, W) float32 -> (H, W) uint8, 255 means 1."""
    return np.rint(255 * (1 - probabilities(logits)[0])).astype(np.uint8)
