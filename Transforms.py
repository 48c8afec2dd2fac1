"""Augmentation while training: every epoch sees every pair warped anew, in other grey values.

    python Main.py --augment full                     # none, paper, light or full
    python Transforms.py --img scan.png --label mask.png --preview augmented.png   # look first

Flip, quarter turn, rotation, zoom, shift and elastic deformation together are one map.  It says
where each pixel comes from.  So pixels are interpolated only once, in the crop and around it, where
the net sees them.  Beyond the image's edges are mirrored pixels.  The image is interpolated
linearly, which is several times as fast as cubic splines.  Of the grain of ISBI 2012 (what a
Gaussian of 2 px takes away) this keeps 86 % of the standard deviation; cubic splines keep 95 %.  A
sample that is only flipped and turned keeps all of it.  Label and weight map take the value of the
nearest pixel.  So no new class appears, every pixel has the weight of its own class, and ignored
pixels have weight 0.

The weight map of classes is that of the original label, warped with it.  It is close to the map of
the warped label, but not equal.  Where the warp makes a gap between two cells wider or narrower,
the gap keeps the weight of its old width.  (A zoom changes the width by a quarter at most, elastic
deformation in places by more.)  Of objects the numbers are warped; the border between them and the
map are made after that.  The class weights are those of the whole original image, as for crops.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, section 3.1.
"""
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from command.errors import run
from command.flags import Parser, number, picture
from datasets.label_kinds import looks_numbered
from datasets.pairs import make_preview_folder, read_pair
from images import intensity, warp
from images.channels import MOST_CHANNELS, as_pixels, as_planes, is_scaled
from images.composite import Shades, find_shades, show_pixels
from images.figures import figure
from images.stains import is_stained, jitter_stains
from masks.colours import outline_objects

# U-Net, section 3.1: "a coarse 3 by 3 grid", "10 pixels standard deviation"
GRID_SIZE, GRID_SIGMA = 3, 10.0


class Crop(NamedTuple):
    """A part of an image, in pixels."""
    top: int     # its first row
    left: int    # its first column
    height: int
    width: int

    @property
    def pixels(self):
        """Its rows and columns, two slices: `label[crop.pixels]` cuts it out."""
        return (slice(self.top, self.top + self.height),
                slice(self.left, self.left + self.width))


class Augmented(NamedTuple):
    """An augmented training pair."""
    image: np.ndarray       # (C, h, w) float32, with the pixels around the crop
    label: np.ndarray       # (H, W) integers, of the dtype that was given
    weight_map: Optional[np.ndarray]  # (H, W) float32


@dataclass(frozen=True)
class Recipe:
    """How strong each augmentation is.  Its strength is drawn evenly from a range; 0 leaves it out.

    "The light" is the range from black to white, see intensity.find_lights.
    """
    symmetries: bool = False  # flips and quarter turns: one of the eight symmetries of the square
    warped: float = 1.0       # share of the samples with rotation, zoom, shift and elastic
    angle: float = 0.0        # degrees, either way
    zoom: float = 1.0         # magnified 1 / zoom ... zoom times
    shift: float = 0.0        # px either way, along each axis
    elastic: float = 0.0      # px: standard deviation of a displacement vector along each axis
    spacing: int = 256        # px from one vector to the next
    brightness: float = 0.0   # added, either way, as a part of the light
    contrast: float = 0.0     # distance from the mean times 1 - contrast ... 1 + contrast
    gamma: float = 1.0        # values to the power of 1 / gamma ... gamma, where no stains change
    stain_scale: float = 0.0  # stained RGB: optical density of each stain times 1 - x ... 1 + x
    stain_shift: float = 0.0  # stained RGB: added to each stain's optical density, either way
    degraded: float = 0.0     # share of the samples with blur, and share of those with noise
    blur: float = 0.0         # px: largest standard deviation of the Gaussian
    noise: float = 0.0        # largest standard deviation of the noise, as a part of the light


# ------------------------------------------------------------------------------------- the ranges
RECIPES = {
    # Section 3.1: "shift and rotation invariance", "robustness to deformations and gray value
    # variations", "random displacement vectors on a coarse 3 by 3 grid", "10 pixels standard
    # deviation".  In its 512 px images that is a vector every 256 px.  Only the grid has numbers
    # there.  A shift of 16 px is a period of the net's four poolings.
    "paper": Recipe(angle=180, shift=16, elastic=GRID_SIGMA, spacing=256, brightness=0.1,
                    contrast=0.2),
    # Microscope images have no up or down.  The eight symmetries need no interpolation.
    "light": Recipe(symmetries=True, brightness=0.08, contrast=0.2, gamma=1.4, stain_scale=0.2,
                    stain_shift=0.04),
    # With the symmetries, other angles need not be large.  The vectors are closer together than the
    # paper's, so that they bend single cells.
    "full": Recipe(symmetries=True, warped=0.7, angle=45, zoom=1.25, shift=16, elastic=5,
                   spacing=128, brightness=0.08, contrast=0.2, gamma=1.4, stain_scale=0.2,
                   stain_shift=0.04, degraded=0.2, blur=1.0, noise=0.04),
}


# ------------------------------------------------------------------------------------ deformation
def elastic_displacement(shape, std, spacing, rng):
    """A smooth random field, float32 (2, H, W) px, with splines between Gaussian vectors.

    std: px along each axis, of the vectors; spacing: px from one vector to the next.  The grid has
    at least 3 x 3 vectors.  The pixels lie in its middle (U-Net, section 3.1).
    """
    weights = []
    for length in shape:
        intervals = max(GRID_SIZE - 1, math.ceil((length - 1) / spacing))
        first = (intervals * spacing + 1 - length) // 2
        whole = warp.spline_weights(intervals * spacing + 1, intervals + 1)
        weights.append(whole[first:first + length].astype(np.float32))
    vectors = rng.normal(0, std, (2, *(each.shape[1] for each in weights)))
    return warp.spread_vectors(vectors.astype(np.float32), *weights)


# -------------------------------------------------------------------------------------- pipelines
def augmentation(name, is_scaled=True):
    """The Augmentation of a name: 'paper', 'light' or 'full', or None for 'none'.

    is_scaled: as for Augmentation.  Raises ValueError for another name.
    """
    if name not in ("none", *RECIPES):
        raise ValueError(f"augmentation is one of none, {', '.join(RECIPES)}, not {name!r}")
    return None if name == "none" else Augmentation(RECIPES[name], is_scaled)


class Augmentation:
    """A function from a training pair to an augmented one.

    All that is random comes from the generator that the caller gives.  The values of grey and RGB
    images are changed by one draw.  Of other images each channel is taken for a grey image, with
    draws of its own.
    """

    def __init__(self, recipe, is_scaled=True):
        """is_scaled: whether images are scaled to [0, 1], see images.channels.is_scaled.

        Other values are changed in their own range, channel by channel, and never clipped.
        """
        self.recipe, self.is_scaled = recipe, is_scaled

    def look_at(self, image):
        """The Lights of a whole image: all that changes of its values need of it."""
        return intensity.find_lights(intensity.thin_out(image), self.is_scaled)

    def __call__(self, image, label, weight_map, rng, crop=None, context=lambda length: (0, 0),
                 margin=0, lights=None):
        """Augment a pair, or its crop: an Augmented.

        image: (C, H, W) float32; label: (H, W) integers; weight_map: (H, W) float32, or None.  Each
        is an array or images.windows.Windows, of which the crop alone is computed.
        crop: a Crop, by default the whole image.  context: a function from a side of the result, in
        px, to (pixels before it, pixels after it) that only the image has, not label and map.
        margin: px around the crop, on each side, that label and map have.  lights: of `look_at` the
        image, where that is known.  A crop that is not square can be turned: then its height and
        width change places.
        """
        top, left, height, width = crop or Crop(0, 0, *label.shape)
        matrix, sides = self._draw_symmetry(height, width, rng)
        seen = [context(length) for length in sides]
        around = [tuple(max(each, margin) for each in ends) for ends in seen]
        shape = [before + length + after for (before, after), length in zip(around, sides)]
        origin = [before + (length - 1) / 2 for (before, _), length in zip(around, sides)]
        center = top + (height - 1) / 2, left + (width - 1) / 2
        coordinates = self._draw_field(shape, origin, center, matrix, rng)

        def part_of_field(ends):
            """The field of the crop and some pixels around it, [(before, after)] of its sides."""
            rows, columns = (slice(most - before, most + length + after)
                             for (most, _), (before, after), length in zip(around, ends, sides))
            return coordinates[:, rows, columns]
        lights = lights or self.look_at(image)
        pixels = warp.sample_linear(image, part_of_field(seen))
        inner = part_of_field([(margin, margin)] * 2)
        return Augmented(self._change_values(pixels, lights, rng),
                         warp.sample_nearest(label, inner),
                         weight_map if weight_map is None
                         else warp.sample_nearest(weight_map, inner))

    def sides(self, height, width, rng):
        """(height, width), px, of a crop of this size after augmentation with this generator."""
        return self._draw_symmetry(height, width, rng)[1]

    def _draw_symmetry(self, height, width, rng):
        """(the matrix of a symmetry, the crop's (height, width) after it)."""
        matrix = warp.symmetry_matrix(int(rng.integers(8))) if self.recipe.symmetries else np.eye(2)
        return matrix, (height, width) if matrix[0, 0] else (width, height)

    def _draw_field(self, shape, origin, center, matrix, rng):
        """The field of a symmetry `matrix`, with a random warp in a share of cases: (2, H, W)."""
        recipe = self.recipe
        if rng.random() >= recipe.warped:
            return warp.source_coordinates(shape, origin, center, matrix)
        turn = warp.rotation_matrix(rng.uniform(-recipe.angle, recipe.angle))
        matrix = matrix @ turn / recipe.zoom ** rng.uniform(-1, 1)
        center = center + rng.uniform(-recipe.shift, recipe.shift, 2)
        if not recipe.elastic:
            return warp.source_coordinates(shape, origin, center, matrix)
        displacement = elastic_displacement(shape, recipe.elastic, recipe.spacing, rng)
        return warp.source_coordinates(shape, origin, center, matrix, displacement)

    def _change_values(self, image, lights, rng):
        """The image in other values: all channels together, or each in its own Light."""
        if len(lights) == 1:
            return self._change_light(image, lights[0], rng)
        return np.concatenate([self._change_light(channel[None], light, rng)
                               for channel, light in zip(image, lights)])

    def _change_light(self, image, light, rng):
        """The image in other grey values or stains, perhaps blurred and noisy.

        Clipped where it is scaled.
        """
        recipe, span = self.recipe, light.white - light.black
        if (recipe.stain_scale or recipe.stain_shift) and is_stained(image, span):
            scales = 1 + rng.uniform(-recipe.stain_scale, recipe.stain_scale, 3)
            shifts = rng.uniform(-recipe.stain_shift, recipe.stain_shift, 3)
            image = span * jitter_stains(image / span, scales, shifts)
        elif recipe.gamma != 1:
            change = intensity.apply_gamma if self.is_scaled else intensity.bend_gamma
            scaled = change((image - light.black) / span, recipe.gamma ** rng.uniform(-1, 1))
            image = span * scaled + light.black
        if recipe.brightness:
            added = rng.uniform(-recipe.brightness, recipe.brightness)
            image = intensity.add_brightness(image, span * added)
        if recipe.contrast:
            factor = 1 + rng.uniform(-recipe.contrast, recipe.contrast)
            image = intensity.scale_contrast(image, factor)
        if rng.random() < recipe.degraded:
            image = intensity.blur_image(image, rng.uniform(0, recipe.blur))
        if rng.random() < recipe.degraded:
            image = intensity.add_noise(image, span * rng.uniform(0, recipe.noise), rng)
        return image.clip(0, 1) if self.is_scaled else image


# ------------------------------------------------------------------------------------ the preview
def draw_augmented(image, label, augment, seed, path, numbered=False):
    """Draw a pair and eleven augmented ones, with the foreground's contour, into a PNG file.

    image: (C, H, W) float32; label: (H, W) integers; augment: an Augmentation; numbered: whether
    the label numbers objects, which are then outlined in colours of their own.
    """
    shades = Shades(0, 1) if augment.is_scaled else find_shades(as_pixels(image))
    height, width = label.shape
    weight_map = np.zeros(label.shape, np.float32)
    pairs = [Augmented(image, label, weight_map)]
    pairs += [augment(image, label, weight_map, np.random.default_rng([seed, k]))
              for k in range(11)]
    with figure(path, 3, 4, (16, 12.6 * height / width), dpi=110) as axes:
        for k, (axis, pair) in enumerate(zip(axes.flat, pairs)):
            shown, foreground = show_pixels(as_pixels(pair.image), shades), pair.label > 0
            if numbered:
                shown = outline_objects(shown, pair.label)
            axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
            if foreground.any() and not foreground.all() and not numbered:
                axis.contour(foreground, levels=[0.5], colors="#ffd400", linewidths=0.7)
            axis.set_title("the pair" if k == 0 else f"augmented, {k}", fontsize=10)
            axis.set_axis_off()


def build_parser():
    parser = Parser("Draw augmented versions of a pair, as training with --augment sees them.")
    parser.add_argument("--img", type=Path, required=True, help="image file")
    parser.add_argument("--label", type=Path, required=True, help="its label file")
    parser.add_argument("--preview", type=picture, required=True, help="picture to write")
    parser.add_argument("--n_channels", type=number(int, 1, MOST_CHANNELS + 1),
                        help="channels of an image whose file has as many pages (default: a page "
                             "is an image)")
    parser.add_argument("--augment", choices=tuple(RECIPES), default="full",
                        help="the augmentation, as for Main.py")
    parser.add_argument("--seed", type=number(int, 0), default=0,
                        help="the same seed gives the same picture")
    return parser


def main():
    args = build_parser().parse_args()
    pair = args.img, args.label
    pixels, label = read_pair(pair, args.n_channels)
    make_preview_folder(args.preview, pair)
    augment = augmentation(args.augment, is_scaled(pixels.dtype))
    draw_augmented(as_planes(pixels), label, augment, args.seed, args.preview,
                   looks_numbered(args.label))
    print(f"{args.preview}: {args.img.name} and augmented versions of it")


if __name__ == "__main__":
    sys.exit(run(main))
