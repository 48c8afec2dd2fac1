"""Mirror padding and the overlap-tile strategy (Ronneberger et al. 2015, section 2, figure 2).

    python MirrorPadding.py --image F      # the image before and after its mirror padding

A net with valid convolutions predicts only the middle of its input.  To predict a whole image, the
image is mirrored beyond its edges.  To predict a large image in little memory, it is cut into
tiles.  Each tile sees the *real* image around its own part, and mirrored pixels only beyond the
image's edges.  An object says how images are cut: `Whole()`, `Tiles(side)` or `Reference()`.
NumPy only.  nets/geometry.py has the input sizes of nets and the places of tiles.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, number, picture
from images.channels import MOST_CHANNELS, as_pixels, stored_channels
from images.composite import find_shades, show_pixels
from images.figures import figure
from images.mirror import mirrored
from images.reading import read_image
from images.windows import window_of
from nets.geometry import UNET_BILINEAR, Geometry, Part, exact_axis, exact_spans
from nets.quadrants import REFERENCE_SIDE, reference_blocks, stitch_reference
from nets.tiles import blended_parts, forward_in_batches, read_rows

WHOLE = 2 ** 21  # pixels, 1,448 x 1,448: a net without exact tiles takes such images whole
WINDOW = 1024    # px: the side of the tiles that larger images are cut into


# -------------------------------------------------------------------------------------- mirroring
def mirror_pad(image, top, bottom, left, right):
    """Mirror an image (..., H, W) beyond its edges, without repeating the edge pixel.

    As NumPy's `reflect`.  Where the border is wider than the image, it is mirrored again.
    top, bottom, left, right: widths of the border, px.
    Returns (..., top + H + bottom, left + W + right).
    """
    rows = mirrored(image.shape[-2], top, bottom)
    columns = mirrored(image.shape[-1], left, right)
    return image.take(rows, axis=-2).take(columns, axis=-1)


def mirror_padding(image, pad_size):
    """Mirror `pad_size` px onto each axis of (..., H, W); an odd pixel at the bottom and right."""
    before, after = pad_size // 2, pad_size - pad_size // 2
    return mirror_pad(image, before, after, before, after)


def pad_for(geometry, image, height, width):
    """The input that gives logits for a canvas of height x width px: `image`, mirrored around.

    image: (..., h, w).  The canvas begins with the image's first pixel and is as large or larger.
    It lies in the middle of the logits, and `crop_logits` cuts it out.
    """
    rows, columns = (geometry.around(canvas, own)
                     for canvas, own in zip((height, width), image.shape[-2:]))
    return mirror_pad(image, *rows, *columns)


def crop_input(geometry, image, top, left, height, width):
    """The input (C, h, w) for the `height` x `width` px of `image` from (top, left) on.

    image: an array (C, H, W), or images.windows.Windows, of which no other part is computed.
    The input shows the real image around the crop, and mirrored pixels only beyond the image's
    edges.  `crop_logits` gives the crop's logits.
    """
    places = []
    for start, canvas, own in zip((top, left), (height, width), image.shape[1:]):
        begin, side = start - geometry.before(canvas), geometry.input_side(canvas)
        places.append(mirrored(own, -begin, begin + side - own))
    return window_of(image, *places)


def crop_logits(logits, height, width):
    """The middle height x width px, the canvas of `pad_for`, of logits (..., H, W); or of Vars."""
    top, left = (logits.shape[-2] - height) // 2, (logits.shape[-1] - width) // 2
    return logits[..., top:top + height, left:left + width]


# ----------------------------------------------------------------------------------- overlap-tile
def exact_parts(source, forward, geometry, height, width, batch):
    """Yield the Parts of an image from tiles of height x width px: the overlap-tile strategy."""
    rows, columns = (exact_axis(length, side, geometry)
                     for length, side in zip(source.shape[-2:], (height, width)))
    for row in rows:
        band, seen = read_rows(source, row.pixels), [column.pixels for column in columns]
        for column, part in zip(columns, forward_in_batches(forward, band, seen, batch)):
            inner = part[:, row.inside, column.inside]
            yield Part(row.keep.start, column.keep.start, inner)


@dataclass(frozen=True)
class Whole:
    """The whole image in one pass: `--tile full`."""
    for_prediction = "full"  # in a checkpoint: how Predict.py cuts images
    inputs_per_image = 1     # how many inputs of the net a training step makes of an image

    def __str__(self):
        return "full"

    def check(self, geometry):
        """Raise DataError where this tiling does not suit a net of this Geometry."""

    def check_size(self, path, height, width):
        """Raise DataError where this tiling does not suit an image, that of the file `path`."""

    def for_images(self, height, width):
        """The tiling for a set whose largest image has this size."""
        return self

    def automatic(self, geometry, height, width):
        """The tiling of an image where no flag asks for one: one pass, or tiles to save memory."""
        exact = geometry.edge is not None  # exact tiles give the same answer in less memory
        return self if not exact and height * width <= WHOLE else Tiles(WINDOW)

    def blends(self, geometry, height, width):
        """Whether an image of this size is cut into tiles that are not exact, and blended."""
        return False

    def for_testing(self, geometry, height, width):
        """The tiling of a test image of this size, for a net that is trained with this tiling."""
        return self

    def sides(self, height, width):
        """The height and width (px) that a training step takes of an image of this size."""
        return height, width

    def areas(self, height, width):
        """How many times what a training step takes of it an image of this size is."""
        return 1.0

    def input_sides(self, geometry, height, width):
        """The height and width (px) of the net's input for these `sides`."""
        return tuple(map(geometry.input_side, self.sides(height, width)))

    def context(self, geometry, length):
        """How many pixels before and after `length` pixels are warped together with them.

        For a whole image none.  Its border is mirrored after the warp, as that of a test image.
        """
        return 0, 0

    def net_inputs(self, geometry, image, corner, height, width):
        """The net's inputs (n, C, h, w) for height x width px of an image, from `corner` on."""
        return crop_input(geometry, image, *corner, height, width)[None]

    def on_canvas(self, logits, height, width, concatenate):
        """The net's logits for `net_inputs` as (N, K, height, width); arrays or Vars."""
        return crop_logits(logits, height, width)

    def parts(self, source, forward, geometry, batch=1):
        """Yield an image's logits as Parts, in reading order.

        source: a normalised array (C, H, W), or an object with `shape` and [:, top:bottom], which
        is asked for the rows of one row of tiles at a time.
        forward: a function from inputs (N, C, h, w) to logits (N, K, h - margin, w - margin).
        batch: tiles per call of `forward`.  The Parts of one row of tiles fill the image's width.
        """
        yield from exact_parts(source, forward, geometry, *source.shape[-2:], batch)


@dataclass(frozen=True)
class Tiles(Whole):
    """Tiles of `side` px of the output: `--tile N`.  In training: random crops of this side."""
    side: int

    def __str__(self):
        return str(self.side)

    def check(self, geometry):
        if geometry.edge is not None:
            exact_spans(geometry.output_side(10 * self.side), self.side, geometry)

    def for_images(self, height, width):
        return self if max(height, width) > self.side else Whole()

    def automatic(self, geometry, height, width):
        return self

    def blends(self, geometry, height, width):
        return geometry.edge is None and max(height, width) > self.side

    def for_testing(self, geometry, height, width):
        return Whole().automatic(geometry, height, width)  # crops are for training

    def sides(self, height, width):
        return min(self.side, height), min(self.side, width)

    def areas(self, height, width):
        return height * width / self.side ** 2

    def context(self, geometry, length):
        return geometry.around(length, length)

    def parts(self, source, forward, geometry, batch=1):
        if geometry.edge is None:
            yield from blended_parts(source, forward, geometry, self.side, batch)
        else:
            yield from exact_parts(source, forward, geometry, self.side, self.side, batch)


@dataclass(frozen=True)
class Reference(Whole):
    """Four quadrants of a 512 x 512 px image, each mirrored at its edges: `--tile reference`."""
    for_prediction, inputs_per_image = "reference", 4

    def __str__(self):
        return "reference"

    def check_size(self, path, height, width):
        if (height, width) != (REFERENCE_SIDE, REFERENCE_SIDE):
            raise DataError(f"{path}: {height} x {width} px, but --tile reference is made for "
                            f"{REFERENCE_SIDE} x {REFERENCE_SIDE} px; use --tile full")

    def automatic(self, geometry, height, width):
        return self

    def input_sides(self, geometry, height, width):
        return geometry.reference_input, geometry.reference_input

    def net_inputs(self, geometry, image, corner, height, width):
        return reference_blocks(image, geometry)

    def on_canvas(self, logits, height, width, concatenate):
        return stitch_reference(logits, concatenate)

    def parts(self, source, forward, geometry, batch=1):
        logits = forward(reference_blocks(source, geometry))
        yield Part(0, 0, stitch_reference(logits, np.concatenate)[0])


def tiling(text):
    """A flag type: 'full' -> Whole, 'reference' -> Reference, a side in pixels -> Tiles."""
    named = {"full": Whole(), "reference": Reference()}
    return named[text] if text in named else Tiles(number(int, 16)(text))


def overlap_tile(image, forward, geometry, tile=Whole()):
    """The logits (K, H, W) float32 of a whole image (C, H, W), by any tiling; see Whole.parts."""
    logits = None
    for top, left, part in tile.parts(image, forward, geometry):
        if logits is None:
            logits = np.empty((len(part), *image.shape[-2:]), np.float32)
        logits[:, top:top + part.shape[1], left:left + part.shape[2]] = part
    return logits


# ------------------------------------------------------------------------------------ the picture
def draw_padding(image, geometry, path):
    """Write the picture of an image, (H, W) or (H, W, C) values, before and after its padding."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    height, width = planes.shape[-2:]
    after = pad_for(geometry, planes, height, width)
    top, left = (geometry.before(length) for length in (height, width))
    with figure(path, 1, 2, (10, 5.4), dpi=110) as ((first, second),):
        for axis, pixels, title in ((first, planes, "image"), (second, after, "input")):
            shown = show_pixels(as_pixels(pixels), find_shades(image))
            axis.imshow(shown, cmap="gray", interpolation="nearest")
            axis.set_title(f"{title}: {pixels.shape[-2]} x {pixels.shape[-1]} px")
            axis.set_axis_off()
        first.set(xlim=(-left - 0.5, after.shape[-1] - left - 0.5),
                  ylim=(after.shape[-2] - top - 0.5, -top - 0.5))
        from matplotlib.patches import Rectangle  # imported late, as all of Matplotlib
        second.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False,
                                   edgecolor="#ffd400", linewidth=1.5))


def build_parser():
    parser = Parser("Write a picture of an image before and after U-Net's mirror padding.")
    parser.add_argument("--image", required=True, type=Path, help="image file")
    parser.add_argument("--output", type=picture,
                        help="picture to write (default: <image>_mirrored.png, here)")
    parser.add_argument("--pad_size", type=number(int, 0, 4096),
                        help="pixels added to each axis, half on each side (default: U-Net's)")
    parser.add_argument("--n_channels", type=number(int, 1, MOST_CHANNELS + 1),
                        help="channels of an image whose file has as many pages (default: a page "
                             "is an image)")
    return parser


def main():
    args = build_parser().parse_args()
    image, geometry = read_image(args.image, stored_channels(args.n_channels)), UNET_BILINEAR
    if args.pad_size is not None:
        geometry = Geometry(args.pad_size, 1, 0, 1, None, 0)
    output = args.output or Path(f"{args.image.stem}_mirrored.png")
    make_folder(output.parent)
    draw_padding(image, geometry, output)
    print(f"{output}: {args.image.name} before and after mirror padding")


if __name__ == "__main__":
    sys.exit(run(main))
