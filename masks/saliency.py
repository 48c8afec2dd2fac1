"""U-2-Net's own protocol."""
import numpy as np
from PIL import Image

from masks.answers import probabilities

SALIENCY_SIDE = 320     # px: what U-2-Net sees of any image
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
