"""From logits to what people look at: probabilities, class maps, instances, overlays.

Also what stands around the net in prediction alone: the average over flips and rotations, and U-2-Net's own protocol.
NumPy, Pillow, SciPy and scikit-image only.
"""
import numpy as np
from PIL import Image

CONTOURS = ((255, 212, 0), (0, 220, 255), (255, 60, 200), (90, 255, 60), (255, 120, 40), (150, 130, 255))  # class 1 ...
NECK = 0.75             # a neck narrower than this part of the narrower side's own width parts two instances
GRID = 3                # px: added to half widths, so that the pixels' steps along a thin object are no necks
SALIENCY_SIDE = 320     # px: what U-2-Net sees of any image
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


# ---------------------------------------------------------------------------------------------- U-2-Net's own protocol
def saliency_input(pixels):
    """An image as the published U-2-Net takes it: (H, W, 3) uint8 or uint16 -> (1, 3, 320, 320) float32.

    Resized, divided by its largest value, normalised by ImageNet's mean and std, as in the authors' u2net_test.py.
    """
    from skimage.transform import resize
    small = resize(pixels, (SALIENCY_SIDE, SALIENCY_SIDE), mode="constant")
    small = small / max(small.max(), 1e-6)  # black stays black
    return ((small - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)[None].astype(np.float32)


def saliency_map(logits, height, width):
    """The saliency (height, width) float32 in [0, 1] of the fused logits (1, 320, 320): stretched to [0, 1], resized.

    A constant map stays as it is.
    """
    saliency = probabilities(logits)[0]
    low, high = saliency.min(), saliency.max()
    if high > low:
        saliency = (saliency - low) / (high - low)
    resized = Image.fromarray(saliency.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


# -------------------------------------------------------------------------------------------------- instances, overlays
def instances(class_map):
    """Objects of a class map, (H, W) uint8 -> (H, W) int32: 0 background, 1 ... n 8-connected pixels of one class.

    Touching objects are parted by a watershed on the distance to the outside (Beucher and Lantuejoul 1979).  Two of its
    maxima are two objects where every way between them narrows to less than NECK of the lower one, whatever their size:
    on the logarithm of the distance that is a valley of a given depth.
    """
    from scipy.ndimage import distance_transform_edt, label
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed
    eight = np.ones((3, 3), int)
    found, count = np.zeros(class_map.shape, np.int32), 0
    for value in np.unique(class_map[class_map > 0]):
        inside = class_map == value
        distance = distance_transform_edt(inside).astype(np.float32)
        heights = np.where(inside, np.log(distance + GRID), 0)
        markers, n = label(local_maxima(reconstruction(heights + np.log(NECK), heights, footprint=eight)), eight)
        markers[markers > 0] += count
        found += watershed(-distance, markers, connectivity=2, mask=inside).astype(np.int32)
        count += n
    return found


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
