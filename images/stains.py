"""Stains of tissue on a bright ground: each in another strength.  NumPy only.

Ruifrok and Johnston, "Quantification of Histochemical Staining by Color Deconvolution", Analytical
and Quantitative Cytology and Histology 23, 2001.
Tellez et al., "Whole-Slide Mitosis Detection in H&E Breast Histology Using PHH3 as a Reference to
Train Distilled Stain-Invariant Convolutional Networks", IEEE Transactions on Medical Imaging 37(9),
2018, section III.
"""
import math

import numpy as np

STAINS = np.array([[0.65, 0.70, 0.29],   # haematoxylin: optical density in red, green and blue
                   [0.07, 0.99, 0.11],   # eosin
                   [0.27, 0.57, 0.78]])  # DAB (Ruifrok and Johnston 2001); in H&E it is the rest
BLACK = 1 / 255    # a smaller transmission counts as this one, the first step of 8 bits


def is_stained(image, white):
    """Whether an image is RGB on a bright ground, as stained tissue; fluorescence is dark."""
    return len(image) == 3 and image.max(axis=0).mean() > 0.5 * white


def jitter_stains(image, scales, shifts):
    """Each stain's optical density times its scale, plus its shift (Tellez et al. 2018).

    image: RGB (3, H, W), 1 is white; scales, shifts: (3,).  An optical density is -log10 of the
    part of the light that comes through.  A pixel's density is the sum over its stains.  STAINS
    says which colours each stain absorbs (Ruifrok and Johnston 2001).
    """
    matrix = np.linalg.inv(STAINS) @ np.diag(scales) @ STAINS  # to stains, scaled, and back
    density = -np.log10(np.maximum(image, BLACK))
    jittered = [sum(float(part) * plane for part, plane in zip(column, density)) + float(shift)
                for column, shift in zip(matrix.T, shifts @ STAINS)]
    return np.exp(np.stack(jittered) * -math.log(10))
