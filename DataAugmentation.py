r"""Write warped copies of training pairs beside the originals: elastic deformation, affine map.

    python DataAugmentation.py --img_path "./data/ISBC2012/train/imgs" \
        --mask_path "./data/ISBC2012/train/labels" \
        --sum 2 --alpha_lv 2.0 --sigma_lv 0.08 --alpha_affine_lv 0.08
    python DataAugmentation.py --preview warp.png      # draws one pair; writes nothing else
    python DataAugmentation.py --clean                 # removes every copy

`cell.png` gets the copies `cell-0.png`, `cell-1.png`, ... in both folders, or `.tif` files where
PNG cannot hold the values.  One field warps an image and its label.  The image is interpolated with
cubic splines.  The label takes the value of the nearest pixel, so that no new class appears.

`augmentation_manifest.jsonl` in the image folder lists every copy with the SHA-256 of its content,
before the copy is written.  A file counts as a copy only while its content has a listed hash.  A
new run replaces the copies, `--clean` removes them, and neither changes any other file.

Elastic deformation: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks
Applied to Visual Document Analysis", ICDAR 2003, section 2.  `--method grid`: Ronneberger, Fischer
and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
section 3.1.
"""
import contextlib
import io
import os
import shlex
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from command.bars import progress_bar
from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, number, picture
from command.names import stem_of, without_ome
from command.processes import process_pool
from datasets.copies import Manifest
from datasets.label_kinds import looks_numbered
from datasets.pairs import check_folders_differ, make_preview_folder, read_pair
from images.channels import MOST_CHANNELS
from images.composite import find_shades, show_pixels
from images.figures import figure
from images.formats import list_images, pixels_bytes, pixels_suffix
from images.warp import gaussian_smooth, spline_weights, spread_vectors, warp_image, warp_label
from masks.colours import colour_objects
from Transforms import GRID_SIGMA, GRID_SIZE


# ----------------------------------------------------------------------------- coordinate fields
def random_affine(shape, amount, rng):
    """A^-1 of a random affine map A, which moves three points by up to `amount` px on each axis.

    Returns float64 (3, 2): `[row, column, 1] @ matrix` is the place where the pixel comes from.
    """
    center, reach = np.array(shape) // 2, max(1, min(shape) // 3)
    points = center + reach * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + rng.uniform(-amount, amount, points.shape)
    return np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)


def elastic_field(shape, alpha, sigma, alpha_affine, rng):
    """Where each pixel comes from: out(x) = in(A^-1(x + d(x))), Simard et al. 2003, section 2.

    d is uniform noise from -1 to 1 for each pixel and axis, smoothed by a Gaussian of `sigma` px,
    times `alpha` px.  A moves three points by up to `alpha_affine` px along each axis.
    Returns float64 (2, H, W): rows and columns, in px.
    """
    matrix = random_affine(shape, alpha_affine, rng)
    moves = gaussian_smooth(rng.uniform(-1, 1, (2, *shape)), sigma)
    rows, columns = np.indices(shape) + alpha * moves
    return np.stack([matrix[0, axis] * rows + matrix[1, axis] * columns + matrix[2, axis]
                     for axis in (0, 1)])


def grid_field(shape, rng, sigma=GRID_SIGMA):
    """Where each pixel comes from: out(x) = in(x + d(x)), Ronneberger et al. 2015, section 3.1.

    d has a 3 x 3 grid of Gaussian vectors (standard deviation `sigma` px) from corner to corner of
    the image.  Bicubic splines interpolate between them.
    Returns float64 (2, H, W): rows and columns, in px.
    """
    vectors = rng.normal(0, sigma, (2, GRID_SIZE, GRID_SIZE))
    rows, columns = (spline_weights(length, GRID_SIZE) for length in shape)
    return np.indices(shape) + spread_vectors(vectors, rows, columns)


# ---------------------------------------------------------------------------------------- warping
def make_field(shape, rng, method="elastic", alpha_lv=2.0, sigma_lv=0.08, alpha_affine_lv=0.08):
    """The field of a method, "elastic" or "grid": float64 (2, H, W).

    A level is a multiple of the image's width.  "grid" does not use the levels.
    """
    if method == "grid":
        return grid_field(shape, rng)
    width = shape[1]
    return elastic_field(shape, alpha_lv * width, sigma_lv * width, alpha_affine_lv * width, rng)


def augment_pair(image, label, rng, method="elastic", **levels):
    """(image, label), warped by one random field.

    image: (H, W) or (H, W, C); label: (H, W); method, levels: as for `make_field`.
    """
    field = make_field(label.shape, rng, method, **levels)
    return warp_image(image, field), warp_label(label, field)


def random_stream(seed, name, copy):
    """The random generator of one copy of the image of this name; each copy has its own."""
    return np.random.default_rng([seed, zlib.crc32(os.fsencode(name)), copy])


def find_suffixes(n_channels, pair):
    """The suffixes of the copies of a pair, [of the image, of the label]; errors as `read_pair`."""
    return [pixels_suffix(pixels) for pixels in read_pair(pair, n_channels)]


def make_copy(seed, n_channels, options, task):
    """One copy of a pair: [bytes of the image's file, bytes of the label's].

    task: ((image path, label path), number of the copy); options: of `augment_pair`.
    """
    pair, copy = task
    with contextlib.redirect_stderr(io.StringIO()):  # find_suffixes has remarked on odd files
        image, label = read_pair(pair, n_channels)
    rng = random_stream(seed, pair[0].stem, copy)
    return [pixels_bytes(pixels) for pixels in augment_pair(image, label, rng, **options)]


# ------------------------------------------------------------------------------------ the command
def plan_copies(suffixes, copies, own):
    """The paths of all copies: {(pair, number): (image path, label path)}.

    suffixes: {pair: what `find_suffixes` gives}.  own: paths of earlier copies, which may be
    replaced.  Raises DataError where another file has the name of a copy.
    """
    taken = [list_images(path.parent, ignore=own) for path in next(iter(suffixes))]
    outputs = {}
    for pair in suffixes:
        for k in range(copies):
            paths = tuple(path.with_name(f"{without_ome(path.stem)}-{k}{suffix}")
                          for path, suffix in zip(pair, suffixes[pair]))
            for path, stems in zip(paths, taken):
                blocker = stems.get(stem_of(path))
                if not blocker and os.path.lexists(path) and path not in own:
                    blocker = path
                if blocker:
                    raise DataError(f"{blocker}: in the way of a copy of {pair[0].name}, and not "
                                    "made here or changed since; move or rename it (and its "
                                    "partner)")
            outputs[pair, k] = paths
    return outputs


def write_copies(options, levels, manifest, own, pairs):
    """Check everything, then replace the copies of earlier runs, `own`, by those of this run."""
    for folder in manifest.folders.values():
        make_folder(folder)  # the folder exists: this checks that it is writable
    start = time.perf_counter()
    with process_pool(min(options.workers, len(pairs) * options.sum)) as pool_map:
        found = pool_map(partial(find_suffixes, options.n_channels), pairs)
        outputs = plan_copies(dict(zip(pairs, found)), options.sum, own)
        for path in own.difference(*outputs.values()):
            path.unlink()
        results = pool_map(partial(make_copy, options.seed, options.n_channels, levels), outputs)
        every = progress_bar(outputs.values(), unit="pair", leave=True)
        for paths, contents in zip(every, results):
            manifest.write_files(paths, contents)
    seconds = (time.perf_counter() - start) / len(outputs)
    print(f"{len(outputs)} pairs written to {options.img_path} and {options.mask_path}, "
          f"{seconds:.3f} s per pair; to remove them: python {shlex.join(sys.argv[:1])} "
          f"--img_path {shlex.quote(str(options.img_path))} "
          f"--mask_path {shlex.quote(str(options.mask_path))} --clean")


def remove_copies(manifest):
    """Remove the copies of earlier runs, then the manifest."""
    own = manifest.own_files()
    for path in own:
        path.unlink()
    manifest.path.unlink(missing_ok=True)
    print(f"{len(own)} augmented files removed from {manifest.folders['image']} "
          f"and {manifest.folders['label']}")
    for path in sorted(manifest.listed_files()):
        print(f"{path}: left, for it was changed since it was made here", file=sys.stderr)


def draw_warped(pair, path, options, levels):
    """Draw a pair before and after: the image, the image under a grid, the label.

    A label that looks numbered has each object in a colour of its own.
    pair: the paths of image and label.  "After" is copy number 0 with these options and levels.
    """
    image, label = read_pair(pair, options.n_channels)
    field = make_field(label.shape, random_stream(options.seed, pair[0].stem, 0), **levels)
    (height, width), shades = label.shape, find_shades(image)
    lines = np.arange(-16, 33) * max(height, width) / 16  # also in the mirrored border
    colours = "gray" if len(np.unique(label)) < 3 else "viridis"
    are_objects = looks_numbered(pair[1])

    def draw_row(row, when, shown, classes, coordinates):
        for axis, what in zip(row, ("image", "image and grid", "label")):
            axis.set_title(f"{what}, {when}", fontsize=10)
            axis.set_axis_off()
        for axis in row[:2]:
            axis.imshow(show_pixels(shown, shades), cmap="gray", vmin=0, vmax=255)
        if min(height, width) > 1:  # an image of one line has no contours
            for places in coordinates:
                row[1].contour(places, levels=lines, colors="tab:orange", linewidths=0.9)
        if are_objects:
            classes = colour_objects(classes)
        row[2].imshow(classes, cmap=colours, interpolation="nearest",
                      vmin=label.min(), vmax=label.max())

    with figure(path, 2, 3, (9, 6.6 * height / width), dpi=150) as axes:
        draw_row(axes[0], "before", image, label, np.indices(label.shape))
        draw_row(axes[1], "after", warp_image(image, field), warp_label(label, field), field)


def build_parser():
    parser = Parser("Write warped copies of training pairs (elastic deformation and a random "
                    "affine map).")
    add = parser.add_argument
    add("--img_path", type=Path, default="./data/ISBC2012/train/imgs", help="folder of the images")
    add("--mask_path", type=Path, default="./data/ISBC2012/train/labels",
        help="folder of the labels")
    add("--sum", type=number(int, 1), default=2, help="number of copies of each pair")
    add("--alpha_lv", type=number(float, 0, 1000), default=2.0,
        help="strength of the elastic field, as a multiple of the image's width")
    add("--sigma_lv", type=number(float, 0, 10), default=0.08,
        help="smoothness of the elastic field: sigma of its Gaussian, as a multiple of the "
             "image's width")
    add("--alpha_affine_lv", type=number(float, 0, 1), default=0.08,
        help="how far each of the affine map's three points moves at most, as a multiple of the "
             "image's width")
    add("--method", choices=("elastic", "grid"), default="elastic",
        help="elastic: Simard et al.; grid: the U-Net paper's 3 x 3 grid, without the three levels")
    add("--seed", type=number(int, 0), default=0,
        help="the same seed gives the same files, with any --workers")
    add("--n_channels", type=number(int, 1, MOST_CHANNELS + 1),
        help="channels of images whose files have as many pages (default: a page is an image)")
    add("--workers", type=number(int, 1, 62), default=min(4, os.cpu_count() or 1),
        help="number of processes")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--preview", type=picture,
                         help="only draw the first pair before and after, into this file")
    instead.add_argument("--clean", action="store_true",
                         help="only remove what earlier runs wrote")
    return parser


def main():
    """Read the flags, find the pairs, write (or preview, or remove) their copies."""
    options = build_parser().parse_args()
    levels = {name: getattr(options, name)
              for name in ("method", "alpha_lv", "sigma_lv", "alpha_affine_lv")}
    folders = options.img_path, options.mask_path
    check_folders_differ(*folders, "--img_path and --mask_path")
    manifest = Manifest(*folders)
    if options.clean:
        return remove_copies(manifest)
    own = manifest.own_files()
    pairs = manifest.original_pairs(own)
    if not options.preview:
        return write_copies(options, levels, manifest, own, pairs)
    make_preview_folder(options.preview, pairs[0])
    draw_warped(pairs[0], options.preview, options, levels)
    print(f"{options.preview}: {pairs[0][0].name} before and after")


if __name__ == "__main__":
    sys.exit(run(main))
