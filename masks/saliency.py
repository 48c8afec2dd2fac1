"""U-2-Net's own protocol: what its published weights see of an image, and what becomes of the map.

As in the authors' u2net_test.py (github.com/xuebinqin/U-2-Net).
"""
import numpy as np
from PIL import Image

from masks.answers import probabilities

SALIENCY_SIDE = 320                    # px: what the net sees of any image
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green, blue; values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def saliency_input(pixels):
    """The input for an image: (H, W, 3) uint8 or uint16 -> (1, 3, 320, 320) float32.

    The image is resized, divided by its largest value, and normalised by ImageNet's mean and std.
    """
    from skimage.transform import resize
    small = resize(pixels, (SALIENCY_SIDE, SALIENCY_SIDE), mode="constant")
    small = small / max(small.max(), 1e-6)  # black stays black
    return ((small - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)[None].astype(np.float32)


def saliency_map(logits, height, width):
    """The saliency of the fused logits: (1, 320, 320) -> (height, width) float32 in [0, 1].

    The probabilities are stretched to [0, 1], then resized.  A constant map stays as it is.
    """
    saliency = probabilities(logits)[0]
    low, high = saliency.min(), saliency.max()
    if high > low:
        saliency = (saliency - low) / (high - low)
    image = Image.fromarray(saliency.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
