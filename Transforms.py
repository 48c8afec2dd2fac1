"""Augmentation while training: every epoch sees every pair warped anew, in other grey values or stains.

    python Main.py --augment full                                       # none, paper, light or full
    python Transforms.py --img scan.png --label mask.png --preview augmented.png        # look first

Geometry is one map: flip, quarter turn, rotation, zoom, shift and elastic deformation only say where each pixel comes from,
and the pixels are interpolated once, those of the crop and of what the net sees around it alone.  From beyond the image's
edges come mirrored pixels.  The image is interpolated linearly, which is several times as fast as cubic splines: of the
grain of ISBI 2012 (what a Gaussian of 2 px takes away) it keeps 86 % of the standard deviation, they 95 %, and samples that
are only flipped and turned keep all of it.  Label and weight map take the nearest pixel, the same one: no class appears
that was not there, every pixel has the weight of its own class, and ignored pixels go on weighing nothing.

So the weight map is the original label's, moved along.  That approximates the map of the warped label: where the warp
makes a gap between two cells wider or narrower (a zoom by a quarter at most, the elastic deformation here and there by
more), its weight remains that of its old width; and the classes balance over the whole original image, as for crops.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015, section 3.1.
Ruifrok and Johnston, "Quantification of Histochemical Staining by Color Deconvolution", Anal. Quant. Cytol. Histol. 23, 2001.
Tellez et al., "Whole-Slide Mitosis Detection in H&E Breast Histology Using PHH3 as a Reference to Train Distilled
Stain-Invariant Convolutional Networks", IEEE Transactions on Medical Imaging 37(9), 2018, section III.
"""
import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

from command.errors import DataError, run
from command.files import atomic_write, make_folder
from command.flags import Parser, number, picture
from images.channels import as_planes
from images.figures import use_agg
from images.formats import check_same_size, read_image, read_label
from MirrorPadding import mirrored

GRID_SIZE, GRID_SIGMA = 3, 10.0  # U-Net, section 3.1: "a coarse 3 by 3 grid", "10 pixels standard deviation"


@lru_cache(maxsize=32)
def spline_weights(length, nodes):
    """What each of `nodes` values, even from end to end, counts at each of `length` points between: (length, nodes) float64.

    Of interpolation with cubic splines, mirrored at the ends; to be read only, for it is kept.
    """
    return np.stack([scipy.ndimage.zoom(node, length / nodes, order=3, mode="mirror") for node in np.eye(nodes)], axis=1)


def spread(vectors, rows, columns):
    """A grid of vectors (2, n, m), spread over all pixels by splines: (2, H, W), of the arguments' dtype.

    rows: (H, n), columns: (W, m), both of `spline_weights`.  Sums by hand: those of a matrix product depend on its threads.
    """
    along = sum(vectors[:, k, None, :] * rows[:, k, None] for k in range(rows.shape[1]))
    field = along[:, :, 0, None] * columns[:, 0]
    for k in range(1, columns.shape[1]):
        field += along[:, :, k, None] * columns[:, k]
    return field


@dataclass(frozen=True)
class Recipe:
    """How far each augmentation goes.  Each time its strength is drawn evenly from its range; 0 leaves it out."""
    symmetries: bool = False  # flips and quarter turns: one of the eight symmetries of the square
    warped: float = 1.0       # share of the samples that rotation, zoom, shift and elastic act on; the rest stay sharp
    angle: float = 0.0        # degrees either way
    zoom: float = 1.0         # magnified 1 / zoom ... zoom times
    shift: float = 0.0        # px either way, along each axis
    elastic: float = 0.0      # px: standard deviation of each displacement vector along each axis
    spacing: int = 256        # px from vector to vector
    brightness: float = 0.0   # added, either way: a part of the range from black to the image's white, see `white_level`
    contrast: float = 0.0     # distance from the mean times 1 - contrast ... 1 + contrast
    gamma: float = 1.0        # values to the power of 1 / gamma ... gamma, where no stains change: all alike are a gamma
    stain_scale: float = 0.0  # RGB on a bright ground: each stain's optical density times 1 - it ... 1 + it
    stain_shift: float = 0.0  # there too: added to each stain's optical density, either way
    degraded: float = 0.0     # share of the samples that are blurred, and share that get noise
    blur: float = 0.0         # px: standard deviation of the Gaussian, at most
    noise: float = 0.0        # standard deviation of the noise, at most: a part of that range


# ------------------------------------------------------------------------------------------------------------ the ranges
RECIPES = {
    # Section 3.1: "shift and rotation invariance", "robustness to deformations and gray value variations", "random
    # displacement vectors on a coarse 3 by 3 grid", "10 pixels standard deviation"; its 512 px images have a vector every
    # 256 px.  Only the grid has numbers there.  A shift of 16 px is a period of the net's four poolings.
    "paper": Recipe(angle=180, shift=16, elastic=GRID_SIGMA, spacing=256, brightness=0.1, contrast=0.2),
    # A microscope knows no upside, and all eight symmetries keep every pixel: nothing is interpolated.
    "light": Recipe(symmetries=True, brightness=0.08, contrast=0.2, gamma=1.4, stain_scale=0.2, stain_shift=0.04),
    # Beyond these, other angles need not be large.  Finer vectors than the paper's bend single cells.
    "full": Recipe(symmetries=True, warped=0.7, angle=45, zoom=1.25, shift=16, elastic=5, spacing=128,
                   brightness=0.08, contrast=0.2, gamma=1.4, stain_scale=0.2, stain_shift=0.04,
                   degraded=0.2, blur=1.0, noise=0.04),
}
STAINS = np.array([[0.65, 0.70, 0.29],   # haematoxylin: its optical density in red, green and blue
                   [0.07, 0.99, 0.11],   # eosin
                   [0.27, 0.57, 0.78]])  # DAB (Ruifrok and Johnston 2001); in H&E, whatever the two leave
BLACK = 1 / 255    # transmission below which an optical density is not told from a larger one: the first step of 8 bits
BLOCK = 64         # rows interpolated together: they stay in the processor's cache


# -------------------------------------------------------------------------------------------------------------- geometry
def symmetry(which):
    """One of the eight symmetries of the square, 0 ... 7, 0 the identity: the matrix (2, 2) that takes a pixel of the
    result, (row, column) from the middle, to the pixel that it comes from."""
    turned = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), which % 4)  # as np.rot90
    return turned if which < 4 else turned * [1, -1]  # as np.fliplr after it


def rotation(degrees):
    """The same for a rotation, counterclockwise as the image is looked at."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def elastic_displacement(shape, std, spacing, rng):
    """A smooth random field, float32 (2, H, W) px: a grid of Gaussian vectors `spacing` px apart, between them splines.

    `std`: px, along each axis.  The grid is at least 3 by 3, in the middle of which the pixels lie (U-Net, section 3.1).
    """
    weights = []
    for length in shape:
        intervals = max(GRID_SIZE - 1, math.ceil((length - 1) / spacing))
        first = (intervals * spacing + 1 - length) // 2
        weights.append(spline_weights(intervals * spacing + 1, intervals + 1)[first:first + length].astype(np.float32))
    vectors = rng.normal(0, std, (2, *(each.shape[1] for each in weights)))
    return spread(vectors.astype(np.float32), *weights)


def source_coordinates(shape, origin, center, matrix, displacement=(0, 0)):
    """Where the pixels come from: center + matrix (pixel - origin + displacement), float32 (2, H, W) rows and columns.

    origin: (row, column) in the result that comes from `center` in the source.
    """
    rows, columns = (np.arange(length, dtype=np.float32) - float(middle) for length, middle in zip(shape, origin))
    rows, columns = rows[:, None] + displacement[0], columns + displacement[1]
    result = np.empty((2, *shape), np.float32)
    for axis, (from_row, from_column), middle in zip(result, matrix, center):
        np.multiply(rows, float(from_row), out=axis)
        axis += columns * float(from_column)
        axis += float(middle)
    return result


def surroundings(planes, coordinates):
    """The box of the endlessly mirrored planes (..., H, W) that coordinates (2, h, w) lie in, and the same in the box."""
    starts = [math.floor(axis.min()) for axis in coordinates]
    stops = [math.floor(axis.max()) + 2 for axis in coordinates]  # the pixel after the last, for interpolation
    rows, columns = (mirrored(length, -start, stop - length)
                     for length, start, stop in zip(planes.shape[-2:], starts, stops))
    return planes.take(rows, axis=-2).take(columns, axis=-1), [axis - start for axis, start in zip(coordinates, starts)]


def linear(planes, coordinates):
    """Planes (C, H, W) float32 at coordinates (2, h, w), bilinear, mirrored beyond the edges: (C, h, w) float32.

    As scipy.ndimage.map_coordinates(order=1, mode="mirror"), in a third of its time: planes share the coordinates.
    """
    box, (rows, columns) = surroundings(planes, coordinates)
    width, flat = box.shape[-1], box.reshape(len(box), -1)
    result = np.empty((len(box), *rows.shape), np.float32)
    for first in range(0, len(rows), BLOCK):
        here = np.s_[first:first + BLOCK]
        top, left = rows[here].astype(np.intp), columns[here].astype(np.intp)
        down, right, index = rows[here] - top.astype(np.float32), columns[here] - left.astype(np.float32), top * width + left
        for plane, out in zip(flat, result):
            upper, lower = (_between(line.take(index), line[1:].take(index), right) for line in (plane, plane[width:]))
            out[here] = _between(upper, lower, down)
    return result


def _between(first, second, part):
    """first + part (second - first), computed in their place: exactly `first` where part is 0."""
    second -= first
    second *= part
    first += second
    return first


def nearest(plane, coordinates):
    """A plane (H, W) of any dtype at coordinates (2, h, w): the nearest pixel's value, mirrored beyond the edges."""
    box, (rows, columns) = surroundings(plane, coordinates)
    return box.take(np.rint(rows).astype(np.intp) * box.shape[-1] + np.rint(columns).astype(np.intp))


# ---------------------------------------------------------------------------------------------------------------- values
# An image is (C, H, W) float32, its values in [0, 1], here and there beyond until they are clipped at the end.
def white_level(image):
    """An image's white: of 1000 of its values 999 are no larger.  16-bit files of a 12-bit camera stay far below 1."""
    step = max(1, min(image.shape[1:]) // 128)  # a part of the pixels tells
    return float(np.percentile(image[:, ::step, ::step], 99.9)) or 1.0


def is_stained(image, white):
    """Whether an image is RGB on a bright ground, of which stains take light away; on a dark one it shines itself."""
    return len(image) == 3 and image.max(axis=0).mean() > 0.5 * white


def brightness(image, added):
    return image + added


def contrast(image, factor):
    """Each channel's distance from its mean, times `factor`."""
    mean = image.mean(axis=(1, 2), keepdims=True)
    return (image - mean) * factor + mean


def gamma(image, exponent):
    return np.maximum(image, 0) ** exponent


def stain_jitter(image, scales, shifts):
    """Each stain's optical density times its scale, plus its shift (Tellez et al. 2018); scales, shifts: (3,).

    image: RGB.  An optical density is -log10 of the transmitted part of the light: that of a pixel is the sum of what its
    stains have there, and STAINS says in which colours each one absorbs (Ruifrok and Johnston 2001).
    """
    matrix = np.linalg.inv(STAINS) @ np.diag(scales) @ STAINS  # colours to stains, and back after they were scaled
    density = -np.log10(np.maximum(image, BLACK))
    jittered = [sum(float(part) * plane for part, plane in zip(column, density)) + float(shift)
                for column, shift in zip(matrix.T, shifts @ STAINS)]
    return np.exp(np.stack(jittered) * -math.log(10))


def blur(image, sigma):
    """Each channel, smoothed by a Gaussian of `sigma` px, cut at three sigma."""
    return scipy.ndimage.gaussian_filter(image, (0, sigma, sigma), mode="mirror", truncate=3)


def noise(image, std, rng):
    """Gaussian noise, independent in every pixel and channel."""
    return image + rng.standard_normal(image.shape, np.float32) * std


# ------------------------------------------------------------------------------------------------------------- pipelines
def augmentation(name):
    """The Augmentation of a name, 'paper', 'light' or 'full', for grey or RGB images; None for 'none'.

    Raises ValueError for another name.
    """
    if name not in ("none", *RECIPES):
        raise ValueError(f"augmentation is one of none, {', '.join(RECIPES)}, not {name!r}")
    return None if name == "none" else Augmentation(RECIPES[name])


class Augmentation:
    """A function from a training pair to an augmented one, of which the generator's state decides everything."""

    def __init__(self, recipe):
        self.recipe = recipe

    def __call__(self, image, label, weight_map, rng, crop=None, context=lambda length: (0, 0)):
        """image: (C, H, W) float32 in [0, 1]; label: (H, W) int32; weight_map: (H, W) float32 -> the same three.

        crop: (top, left, height, width) in px, the part to augment, the whole by default.  context: a function from a
        side of the result (px) to how many pixels around it the image shows before and after it; the label and its map
        show none.  Height and width may change their places: an image that is not square can be turned.
        """
        top, left, height, width = crop or (0, 0, *label.shape)
        matrix, sides = self._turned(height, width, rng)
        around = [context(length) for length in sides]
        shape = [before + length + after for (before, after), length in zip(around, sides)]
        origin = [before + (length - 1) / 2 for (before, _), length in zip(around, sides)]
        center = top + (height - 1) / 2, left + (width - 1) / 2
        coordinates = self._warped(shape, origin, center, matrix, rng)
        inner = coordinates[:, around[0][0]:around[0][0] + sides[0], around[1][0]:around[1][0] + sides[1]]
        image = self._values(linear(image, coordinates), white_level(image), rng)
        return image, nearest(label, inner), nearest(weight_map, inner)

    def sides(self, height, width, rng):
        """The height and width of what becomes of a crop of this size, px, with the generator in this state."""
        return self._turned(height, width, rng)[1]

    def _turned(self, height, width, rng):
        """(a symmetry, the crop's height and width after it)."""
        matrix = symmetry(int(rng.integers(8))) if self.recipe.symmetries else np.eye(2)
        return matrix, (height, width) if matrix[0, 0] else (width, height)

    def _warped(self, shape, origin, center, matrix, rng):
        """The coordinates of a symmetry `matrix`, most often with a random warp: float32 (2, H, W)."""
        recipe = self.recipe
        if rng.random() >= recipe.warped:
            return source_coordinates(shape, origin, center, matrix)
        matrix = matrix @ rotation(rng.uniform(-recipe.angle, recipe.angle)) / recipe.zoom ** rng.uniform(-1, 1)
        center = center + rng.uniform(-recipe.shift, recipe.shift, 2)
        displacement = elastic_displacement(shape, recipe.elastic, recipe.spacing, rng) if recipe.elastic else (0, 0)
        return source_coordinates(shape, origin, center, matrix, displacement)

    def _values(self, image, white, rng):
        recipe = self.recipe
        if (recipe.stain_scale or recipe.stain_shift) and is_stained(image, white):
            image = white * stain_jitter(image / white, 1 + rng.uniform(-recipe.stain_scale, recipe.stain_scale, 3),
                                         rng.uniform(-recipe.stain_shift, recipe.stain_shift, 3))
        elif recipe.gamma != 1:
            image = white * gamma(image / white, recipe.gamma ** rng.uniform(-1, 1))
        if recipe.brightness:
            image = brightness(image, white * rng.uniform(-recipe.brightness, recipe.brightness))
        if recipe.contrast:
            image = contrast(image, 1 + rng.uniform(-recipe.contrast, recipe.contrast))
        if rng.random() < recipe.degraded:
            image = blur(image, rng.uniform(0, recipe.blur))
        if rng.random() < recipe.degraded:
            image = noise(image, white * rng.uniform(0, recipe.noise), rng)
        return image.clip(0, 1)


# ----------------------------------------------------------------------------------------------------------- the preview
def draw_preview(image, label, augment, seed, path):
    """A picture of a pair, (C, H, W) in [0, 1] and (H, W), and of eleven augmented ones, with the foreground's contour."""
    pyplot = use_agg()
    height, width = label.shape
    figure, axes = pyplot.subplots(3, 4, figsize=(16, 12.6 * height / width), layout="constrained")
    pairs = [(image, label, label)]
    pairs += [augment(image, label, np.zeros(label.shape, np.float32), np.random.default_rng([seed, k])) for k in range(11)]
    for k, (axis, (shown, classes, _)) in enumerate(zip(axes.flat, pairs)):
        axis.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        foreground = classes > 0
        if foreground.any() and not foreground.all():
            axis.contour(foreground, levels=[0.5], colors="#ffd400", linewidths=0.7)
        axis.set_title("the pair" if k == 0 else f"augmented, {k}", fontsize=10)
        axis.set_axis_off()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def main():
    parser = Parser("Write a picture of augmented versions of a pair, as training with --augment sees them.")
    parser.add_argument("--img", type=Path, required=True, help="image file, grey or RGB")
    parser.add_argument("--label", type=Path, required=True, help="its label file")
    parser.add_argument("--preview", type=picture, required=True, help="picture to write")
    parser.add_argument("--augment", choices=tuple(RECIPES), default="full", help="the pipeline")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of the random draws")
    args = parser.parse_args()
    image, label = as_planes(read_image(args.img)), read_label(args.label).astype(np.int32)
    check_same_size(args.img, image.shape[1:], args.label, label.shape)
    folder = make_folder(args.preview.parent)
    if any(folder.samefile(path.parent) for path in (args.img, args.label)):
        raise DataError(f"{args.preview}: lies among the training pairs; choose another folder")
    draw_preview(image, label, augmentation(args.augment), args.seed, args.preview)
    print(f"{args.preview}: {args.img.name} and augmented versions of it")


if __name__ == "__main__":
    sys.exit(run(main))
