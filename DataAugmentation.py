"""Write warped copies of training pairs beside the originals: elastic deformation and a random affine map.

    python DataAugmentation.py --img_path "./data/ISBC2012/train/imgs" --mask_path "./data/ISBC2012/train/labels"         --sum 2 --alpha_lv 2.0 --sigma_lv 0.08 --alpha_affine_lv 0.08
    python DataAugmentation.py --preview warp.png        # look at one pair first; writes nothing else
    python DataAugmentation.py --clean                   # take every copy away again

`cell.png` gets `cell-0.png`, `cell-1.png`, ... in both folders.  An image and its label are warped by the same field:
the image with cubic splines, the label with the nearest pixel, so that no class appears that was not there.

`augmentation_manifest.jsonl` in the image folder lists every file made here with the SHA-256 of its content, and lists
it before the file appears.  A file is ours only while its content has a listed hash: a new run replaces ours, `--clean`
removes ours, and neither touches anything else.

Elastic deformation: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied to Visual
Document Analysis", ICDAR 2003, section 2.  `--method grid`: Ronneberger, Fischer and Brox, "U-Net: Convolutional
Networks for Biomedical Image Segmentation", MICCAI 2015, section 3.1.
"""
import contextlib
import io
import os
import shlex
import sys
import time
import zlib
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast
from tqdm import tqdm

from command.errors import DataError, run
from command.files import atomic_write, make_folder
from command.flags import Parser, number, picture
from command.processes import process_pool
from datasets.copies import Manifest
from datasets.pairs import check_pair
from images.figures import use_agg
from images.formats import list_images, png_bytes, read_image, read_label
from images.warp import spline_weights, spread_vectors as spread
from Transforms import GRID_SIGMA, GRID_SIZE


# --------------------------------------------------------------------------------------------------- coordinate fields
@lru_cache(maxsize=8)
def gaussian_response(length, sigma):
    """The factor by which a Gaussian filter scales each of the `length` DCT-II frequencies: float64 (length,)."""
    radius = int(4 * sigma + 0.5)  # where scipy.ndimage.gaussian_filter cuts its kernel
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    kernel = np.bincount(offsets % (2 * length), kernel / kernel.sum(), 2 * length)
    return scipy.fft.rfft(kernel).real[:length]


def gaussian_smooth(noise, sigma):
    """`scipy.ndimage.gaussian_filter(channel, sigma, mode="reflect")` of each channel of a float64 (C, H, W) array.

    Repeating the border pixel is the symmetry of the DCT-II, which turns the filter into a product: equal to rounding,
    ten times as fast for the broad Gaussians needed here, and free of threads, so that the bytes never vary.
    """
    response = np.multiply.outer(*(gaussian_response(length, sigma) for length in noise.shape[1:]))
    return scipy.fft.idctn(scipy.fft.dctn(noise, axes=(1, 2)) * response, axes=(1, 2))


def random_affine(shape, amount, rng):
    """The inverse A^-1 of the affine map that moves three points by up to `amount` pixels along each axis.

    Returns float64 (3, 2): `[row, column, 1] @ matrix` is the place where the pixel comes from.
    """
    center, reach = np.array(shape) // 2, max(1, min(shape) // 3)
    points = center + reach * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + rng.uniform(-amount, amount, points.shape)
    return np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)


def elastic_field(shape, alpha, sigma, alpha_affine, rng):
    """Where each pixel of a warped image comes from: out(x) = in(A^-1(x + d(x))) (Simard et al. 2003, section 2).

    d is uniform(-1, 1) noise per pixel and axis, smoothed by a Gaussian of `sigma` pixels, times `alpha` pixels; A is
    the affine map of three points, each moved by uniform(-alpha_affine, alpha_affine) pixels along each axis.
    Returns float64 (2, H, W): row and column coordinates.
    """
    matrix = random_affine(shape, alpha_affine, rng)
    rows, columns = np.indices(shape) + alpha * gaussian_smooth(rng.uniform(-1, 1, (2, *shape)), sigma)
    return np.stack([matrix[0, axis] * rows + matrix[1, axis] * columns + matrix[2, axis] for axis in (0, 1)])


def grid_field(shape, rng, sigma=GRID_SIGMA):
    """Where each pixel of a warped image comes from: out(x) = in(x + d(x)) (Ronneberger et al. 2015, section 3.1).

    d interpolates a 3 x 3 grid of Gaussian vectors (standard deviation `sigma` pixels), from corner to corner of the
    image, with bicubic splines.  Returns float64 (2, H, W): row and column coordinates.
    """
    vectors = rng.normal(0, sigma, (2, GRID_SIZE, GRID_SIZE))
    return np.indices(shape) + spread(vectors, *(spline_weights(length, GRID_SIZE) for length in shape))


# ------------------------------------------------------------------------------------------------------------- warping
def warp_image(image, coordinates):
    """An image, uint8 or uint16 (H, W) or (H, W, C), taken at float (2, H, W) coordinates with cubic splines.

    Mirrored at the border; rounded and clipped to the image's dtype.  Returns the shape and dtype of `image`.
    """
    if image.ndim == 3:
        return np.stack([warp_image(channel, coordinates) for channel in np.moveaxis(image, 2, 0)], axis=2)
    coefficients = scipy.ndimage.spline_filter(image, order=3, output=np.float32, mode="mirror")
    warped = scipy.ndimage.map_coordinates(coefficients, coordinates, order=3, mode="mirror", prefilter=False)
    return np.rint(warped).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)


def warp_label(label, coordinates):
    """A label, (H, W) of any integer dtype, taken at float (2, H, W) coordinates: the nearest pixel's stored value."""
    return scipy.ndimage.map_coordinates(label, coordinates, order=0, mode="mirror")


def make_field(shape, rng, method="elastic", alpha_lv=2.0, sigma_lv=0.08, alpha_affine_lv=0.08):
    """The field of `method`, "elastic" or "grid"; each level (elastic only) times the image's width gives pixels."""
    if method == "grid":
        return grid_field(shape, rng)
    width = shape[1]
    return elastic_field(shape, alpha_lv * width, sigma_lv * width, alpha_affine_lv * width, rng)


def augment_pair(image, label, rng, method="elastic", **levels):
    """Warp an image, (H, W) or (H, W, C), and its label, (H, W), by one random field; options: `make_field`'s."""
    field = make_field(label.shape, rng, method, **levels)
    return warp_image(image, field), warp_label(label, field)


def random_stream(seed, name, copy):
    """The generator of one copy of one image: another image in the folder, or another copy, does not change it."""
    return np.random.default_rng([seed, zlib.crc32(os.fsencode(name)), copy])


def augmented_pngs(seed, options, task):
    """Warp copy number `task[1]` of pair `task[0]`: the bytes of two PNG files, image and label."""
    (image_path, label_path), copy = task
    with contextlib.redirect_stderr(io.StringIO()):  # check_pair has already remarked on odd files
        image, label = read_image(image_path), read_label(label_path)
    return [png_bytes(pixels)
            for pixels in augment_pair(image, label, random_stream(seed, image_path.stem, copy), **options)]


# --------------------------------------------------------------------------------------------------------- the command
def plan_outputs(pairs, copies, own):
    """Where each copy goes: {(pair, k): (image path, label path)}; a DataError where a file is in the way."""
    taken = [list_images(path.parent, ignore=own) for path in pairs[0]]
    outputs = {}
    for pair in pairs:
        for k in range(copies):
            paths = tuple(path.with_name(f"{path.stem}-{k}.png") for path in pair)
            for path, stems in zip(paths, taken):
                blocker = stems.get(path.stem) or (path if os.path.lexists(path) and path not in own else None)
                if blocker:
                    raise DataError(f"{blocker}: in the way of a copy of {pair[0].name}, and not made here or changed "
                                    "since; move or rename it (and its partner)")
            outputs[pair, k] = paths
    return outputs


def write_copies(options, levels, manifest, own, pairs):
    """Check everything, then replace the copies of earlier runs by those of this run."""
    outputs = plan_outputs(pairs, options.sum, own)
    for folder in manifest.folders.values():
        make_folder(folder)  # is there: tells whether it is writable
    start = time.perf_counter()
    with process_pool(min(options.workers, len(outputs))) as pool_map:
        for _ in pool_map(check_pair, pairs):
            pass
        for path in own.difference(*outputs.values()):
            path.unlink()
        results = pool_map(partial(augmented_pngs, options.seed, levels), outputs)
        for paths, contents in zip(tqdm(outputs.values(), unit="pair", disable=None), results):
            manifest.write_files(paths, contents)
    seconds = (time.perf_counter() - start) / len(outputs)
    print(f"{len(outputs)} pairs written to {options.img_path} and {options.mask_path}, {seconds:.3f} s per pair; "
          f"to remove them: python {shlex.join(sys.argv[:1])} --img_path {shlex.quote(str(options.img_path))} "
          f"--mask_path {shlex.quote(str(options.mask_path))} --clean")


def clean(manifest):
    """Remove the files that are ours, then the manifest."""
    own = manifest.own_files()
    for path in own:
        path.unlink()
    manifest.path.unlink(missing_ok=True)
    print(f"{len(own)} augmented files removed from {manifest.folders['image']} and {manifest.folders['label']}")
    for path in sorted(manifest.hashes.keys() - own):
        if path.exists():
            print(f"{path}: left, for it was changed since it was made here", file=sys.stderr)


def draw_preview(pair, path, seed, levels):
    """Draw a pair before and after its copy number 0: the image, the image under a grid, the label."""
    image, label = read_image(pair[0]), read_label(pair[1])
    field = make_field(label.shape, random_stream(seed, pair[0].stem, 0), **levels)
    identity = np.indices(label.shape)
    height, width = label.shape
    step = max(height, width) / 16
    lines = np.arange(-16, 33) * step  # beyond the image too: a warped border shows what was mirrored
    pyplot = use_agg()
    figure, axes = pyplot.subplots(2, 3, figsize=(9, 6.6 * height / width), constrained_layout=True)
    for row, when, shown, classes, coordinates in (
            (axes[0], "before", image, label, identity),
            (axes[1], "after", warp_image(image, field), warp_label(label, field), field)):
        row[0].imshow(shown, cmap="gray", vmin=0, vmax=image.max())
        row[1].imshow(shown, cmap="gray", vmin=0, vmax=image.max())
        for axis in coordinates if min(height, width) > 1 else ():
            row[1].contour(axis, levels=lines, colors="tab:orange", linewidths=0.9)
        row[2].imshow(classes, cmap="gray" if len(np.unique(label)) < 3 else "viridis", interpolation="nearest",
                      vmin=label.min(), vmax=label.max())
        for axes_, what in zip(row, ("image", "image and grid", "label")):
            axes_.set_title(f"{what}, {when}", fontsize=10)
            axes_.set_axis_off()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def parse_arguments():
    """The command's flags."""
    parser = Parser("Write warped copies of training pairs (elastic deformation and a random affine map).")
    parser.add_argument("--img_path", type=Path, default="./data/ISBC2012/train/imgs", help="folder of the images")
    parser.add_argument("--mask_path", type=Path, default="./data/ISBC2012/train/labels", help="folder of the labels")
    parser.add_argument("--sum", type=number(int, 1), default=2, help="copies of each pair")
    parser.add_argument("--alpha_lv", type=number(float, 0, 1000), default=2.0,
                        help="strength of the elastic field, times the image's width")
    parser.add_argument("--sigma_lv", type=number(float, 0, 10), default=0.08,
                        help="smoothness of the elastic field: the Gaussian's sigma, times the image's width")
    parser.add_argument("--alpha_affine_lv", type=number(float, 0, 1), default=0.08,
                        help="how far each of the affine map's three points moves at most, times the image's width")
    parser.add_argument("--method", choices=("elastic", "grid"), default="elastic",
                        help="elastic: Simard et al.; grid: the U-Net paper's 3 x 3 grid (ignores the three levels)")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="same seed, same files, whatever --workers")
    parser.add_argument("--workers", type=number(int, 1, 62), default=min(4, os.cpu_count() or 1), help="processes")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--preview", type=picture,
                         help="only draw the first pair before and after, into this file")
    instead.add_argument("--clean", action="store_true", help="only remove what earlier runs wrote")
    return parser.parse_args()


def main():
    """Read the flags, find the pairs, write (or preview, or remove) their copies."""
    options = parse_arguments()
    levels = {name: getattr(options, name) for name in ("method", "alpha_lv", "sigma_lv", "alpha_affine_lv")}
    image_folder, label_folder = options.img_path, options.mask_path
    for folder in (image_folder, label_folder):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    if image_folder.samefile(label_folder):
        raise DataError(f"{label_folder}: both --img_path and --mask_path; keep images and labels in two folders")
    manifest = Manifest(image_folder, label_folder)
    if options.clean:
        return clean(manifest)
    own = manifest.own_files()
    pairs = manifest.original_pairs(own)
    if not options.preview:
        return write_copies(options, levels, manifest, own, pairs)
    folder = make_folder(options.preview.parent)
    if folder.samefile(image_folder) or folder.samefile(label_folder):
        raise DataError(f"{options.preview}: lies among the training pairs; choose another folder")
    check_pair(pairs[0])
    draw_preview(pairs[0], options.preview, options.seed, levels)
    print(f"{options.preview}: {pairs[0][0].name} before and after")


if __name__ == "__main__":
    sys.exit(run(main))
