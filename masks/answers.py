"""From logits to a net's answer: probabilities, class maps, pictures of them.

Also averages: over eight flips and rotations, and over several nets.  NumPy only.

Logits and probabilities are (..., K, H, W).  K is the number of classes, or 1: then there is one
class besides the background, and its logit belongs to a sigmoid.
"""
from typing import NamedTuple, Optional

import numpy as np

from nets.geometry import Part

SMALLEST = 1e-37  # a probability whose logarithm is finite: float32 has no smaller normal numbers


# -------------------------------------------------------------------------- probabilities, classes
def probabilities(logits):
    """Softmax over the classes, or the sigmoid where there is one: (..., K, H, W) -> the same."""
    if logits.shape[-3] == 1:
        return 0.5 + 0.5 * np.tanh(0.5 * logits)  # the sigmoid, without overflow
    scaled = np.exp(logits - logits.max(axis=-3, keepdims=True))
    return scaled / scaled.sum(axis=-3, keepdims=True)


def logits_of(probability):
    """Logits of which `probabilities` makes these probabilities: (..., K, H, W) -> the same."""
    log = np.log(np.maximum(probability, SMALLEST))
    if probability.shape[-3] == 1:
        return log - np.log(np.maximum(1 - probability, SMALLEST))
    return log


def classes(logits, threshold=0.5):
    """The likeliest class of each pixel: (K, H, W) -> (H, W) uint8.

    With one class: 1 above probability 0.5, else 0.  threshold: with up to two classes another
    probability; with more there is none.
    """
    if threshold != 0.5:
        return (probabilities(logits)[-1] > np.float32(threshold)).astype(np.uint8)
    likeliest = logits[0] > 0 if len(logits) == 1 else logits.argmax(axis=0)
    return likeliest.astype(np.uint8)


def mask_pixels(prediction, n_classes):
    """A class map as a picture's values: (H, W) integers -> (H, W) uint8.

    Up to two classes: 0 and 255.  More: the numbers of the classes.
    """
    if n_classes <= 2:
        prediction = prediction * 255
    return prediction.astype(np.uint8)


def object_pixels(objects):
    """Numbered objects as a picture's values: (H, W) int32 -> (H, W) uint16.

    Beyond 65,535 the numbers begin again at 1.
    """
    return np.where(objects > 0, (objects - 1) % 65535 + 1, 0).astype(np.uint16)


def foreground_probability(logits):
    """How probably a pixel is no background: (K, H, W) float32 -> (H, W) uint8, 255 means 1."""
    return np.rint(255 * (1 - probabilities(logits)[0])).astype(np.uint8)


class Prediction(NamedTuple):
    """The result of a tested image, small enough to keep that of every image."""
    mask: bytes         # PNG of the predicted classes, as `mask_pixels` shows them
    probability: bytes  # PNG of `foreground_probability`
    scores: dict        # {key of masks.score_rows.ROWS: score}
    objects: Optional[bytes] = None  # PNG of `object_pixels`, where labels number objects


# --------------------------------------------------------------------------------- from its parts
class Assembled(NamedTuple):
    """The answer for a whole image."""
    class_map: np.ndarray              # (H, W) uint8
    probability: Optional[np.ndarray]  # (K, H, W) float32, with one class (H, W); None: not wanted


def assemble(parts, height, width, with_probabilities=False, threshold=0.5):
    """Put the parts of an image's logits together: an Assembled of `height` x `width` px.

    parts: the nets.geometry.Parts that together cover the image, as MirrorPadding's tilings yield
    them.  threshold: see `classes`.
    """
    class_map, probability = np.empty((height, width), np.uint8), None
    for top, left, logits in parts:
        here = np.s_[..., top:top + logits.shape[1], left:left + logits.shape[2]]
        class_map[here] = classes(logits, threshold)
        if with_probabilities:
            if probability is None:
                probability = np.empty((len(logits), height, width), np.float32)
            probability[here] = probabilities(logits)
    if probability is not None and len(probability) == 1:
        probability = probability[0]
    return Assembled(class_map, probability)


def class_bands(parts, width, threshold=0.5):
    """Yield the class map of `assemble` from the top down, in bands (rows, width) uint8.

    A band comes as soon as its parts, which follow each other from left to right, are complete.
    """
    row = []
    for _, left, logits in parts:
        row.append(classes(logits, threshold))
        if left + logits.shape[2] == width:
            yield np.concatenate(row, axis=1)
            row = []


# ------------------------------------------------------------------------------- average of eight
def average_of_eight(forward):
    """A forward pass that answers the mean over the input's eight flips and rotations.

    forward: a function from inputs (N, C, h, w) to logits (N, K, h', w'), as in MirrorPadding.  The
    result is such a function too.  It averages probabilities and returns their logits.
    The input is turned with its mirrored border, and the output turned back, so that exact tiles
    stay exact.
    """
    ways = [(quarters, flipped) for flipped in (False, True) for quarters in range(4)]

    def forward_eight(inputs):
        answers = (_turn_back(probabilities(forward(_turn(inputs, *way))), *way) for way in ways)
        return logits_of(sum(answers) / len(ways))
    return forward_eight


def _turn(array, quarters, flipped):
    """Flip an array (..., H, W) from left to right if `flipped`, then turn it by quarter turns."""
    if flipped:
        array = array[..., ::-1]
    return np.ascontiguousarray(np.rot90(array, quarters, axes=(-2, -1)))


def _turn_back(array, quarters, flipped):
    """Undo `_turn`."""
    array = np.rot90(array, -quarters, axes=(-2, -1))
    return array[..., ::-1] if flipped else array


# --------------------------------------------------------------------------------- average of nets
def average_of_nets(answers, n_classes, width):
    """Yield the mean of several nets' probabilities, as the logits of Parts as wide as the image.

    answers: for each net the Parts of an image `width` px wide, as MirrorPadding's tilings yield
    them; their rows of tiles may differ in height.  n_classes: K of the mean.  Where it is 2, the
    answer of a net with one class becomes two.
    The net that is furthest behind is always asked next.  So no more rows are in memory than the
    highest tile has, twice, whatever the image's height.
    """
    answers, ends = [iter(parts) for parts in answers], [0] * len(answers)  # px, rows answered
    sums, done = np.zeros((n_classes, 0, width), np.float32), 0
    while True:
        behind = ends.index(min(ends))
        for top, left, logits in answers[behind]:
            bottom, right = top + logits.shape[1], left + logits.shape[2]
            missing = max(0, bottom - done - sums.shape[1])
            sums = np.pad(sums, [(0, 0), (0, missing), (0, 0)]) if missing else sums
            sums[:, top - done:bottom - done, left:right] += _of_classes(probabilities(logits),
                                                                         n_classes)
            if right == width:
                ends[behind] = bottom
                break
        else:
            return
        complete = min(ends) - done
        if complete:
            yield Part(done, 0, logits_of(sums[:, :complete] / len(answers)))
            sums, done = sums[:, complete:].copy(), done + complete


def _of_classes(probability, n_classes):
    """Probabilities (K, h, w) as (n_classes, h, w): of one class, the background's too."""
    if len(probability) == n_classes:
        return probability
    return np.concatenate([1 - probability, probability])
