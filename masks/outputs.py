"""Which files a prediction of images makes: planned before the first one is made."""
from pathlib import Path
from typing import NamedTuple

from command.errors import DataError, describe_failure, say_once
from command.names import canonical
from images.formats import list_images
from images.pages import LARGE, ImageFile
from images.reading import examine_file
from nets.levels import check_suits

EXTRAS = ("probabilities", "overlay", "instances")  # what can be made besides masks


class Job(NamedTuple):
    """An image file and the outputs to make of it."""
    file: ImageFile
    outputs: dict  # {kind: path}


class Plan(NamedTuple):
    """What is to be done."""
    jobs: list    # Jobs
    done: int     # files whose outputs are there already
    errors: list  # lines about files that cannot be read or predicted


def find_images(inputs, result_directory):
    """The image files that paths name, each once, in order.

    Raises DataError where two predictions would have one name.
    """
    found = {}
    for path in inputs:
        if path.is_dir():
            if path.resolve() == result_directory.resolve():
                raise DataError(f"{path}: both --Input and --Result_directory; "
                                "choose another folder for the results")
            files = list(list_images(path).values())
            if not files:
                raise DataError(f"{path}: no images here")
        elif path.exists():
            files = [path]
        else:
            raise DataError(f"{path}: no such file or folder")
        found.update((file.resolve(), file) for file in files)
    by_stem = {}
    for file in found.values():
        other = by_stem.setdefault(canonical(file.stem), file)
        if other != file:
            raise DataError(f"{file}: its predictions would be named as those of {other}; "
                            "rename one")
    return list(found.values())


def name_outputs(file, folder, extras):
    """{kind: path} of all that is asked for of an ImageFile; extras: some of EXTRAS."""
    stack = len(file.pages) > 1
    picture = ".tif" if stack else ".png"
    suffixes = {"pred": ".tif" if file.is_large else picture}
    if not file.is_large:
        kinds = {"probabilities": ("prob", ".npy"), "overlay": ("overlay", picture),
                 "instances": ("instances", ".tif")}
        suffixes.update(kinds[extra] for extra in EXTRAS if extra in extras)
    return {kind: Path(folder) / f"{file.path.stem}_{kind}{suffix}"
            for kind, suffix in suffixes.items()}


def plan_outputs(inputs, folder, extras, overwrite, ensemble):
    """The Plan for images; files that cannot be read or predicted are told at the end.

    inputs: paths of images and folders.  folder: of the outputs.  extras: some of EXTRAS.
    overwrite: whether to make anew what is there.  ensemble: the nets.ensemble.Ensemble.
    """
    jobs, done, errors = [], 0, []
    paths = find_images(inputs, folder)
    taken = {path.resolve() for path in paths}
    for path in paths:
        try:
            file = examine_file(path, ensemble.n_channels)
            for net in ensemble.nets:
                check_suits(file, net)
        except Exception as error:  # noqa: BLE001 - a damaged file may raise almost any
            errors.append(describe_failure(error, path))
            continue
        outputs = name_outputs(file, folder, extras)
        if file.is_large and extras:
            say_once(f"{path}: over {LARGE:,} pixels: only its mask is made, no probabilities, "
                     "overlay or instances")
        for output in outputs.values():
            if output.resolve() in taken:
                raise DataError(f"{output}: would overwrite an image of --Input; "
                                "choose another --Result_directory")
        if not overwrite:
            outputs = {kind: output for kind, output in outputs.items() if not output.exists()}
        if not outputs:
            done += 1
        elif file.is_large and ensemble.is_saliency:
            errors.append(f"{path}: over {LARGE:,} pixels, and U-2-Net's own protocol sees "
                          "320 x 320; make it smaller")
        else:
            jobs.append(Job(file, outputs))
    return Plan(jobs, done, errors)
