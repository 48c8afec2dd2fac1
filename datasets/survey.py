"""What is known of each file of a data set."""
import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from command.files import atomic_write, parse_json
from datasets.label_values import classes_in, count_label_values
from datasets.pairs import check_pairs
from images.channels import has_colours
from images.formats import image_size, read_image
from images.values import Statistics, load_image


class Facts(NamedTuple):
    """What is to be known of a training set, and of the test set's labels."""
    n_channels: int
    n_classes: int     # by the labels to train with
    test_classes: int  # by those to test with
    height: int  # px, of the highest and of the widest image
    width: int


def facts_of(pairs, test_labels, ignore_label, datatxt_directory):
    """The Facts of [(image path, label path)] and of the paths of test labels.

    They are kept in `dataset_facts.json` until a file changes.  Raises DataError for a bad file.
    """
    path = Path(datatxt_directory) / "dataset_facts.json"
    key = files_key([*(file for pair in pairs for file in pair), *test_labels], ignore_label)
    with suppress(KeyError, TypeError, ValueError):  # damaged
        kept = read_kept(path, key) or {}
        return Facts(*(int(kept[name]) for name in Facts._fields))
    check_pairs(pairs, "full")
    images, labels = zip(*pairs)
    bar = tqdm(images, "colours", unit="image", delay=1, leave=False, disable=None)
    n_channels = 3 if any(has_colours(read_image(image)) for image in bar) else 1
    classes = (classes_in(count_label_values(paths, ignore_label)) for paths in (labels, test_labels))
    facts = Facts(n_channels, *classes, *map(max, zip(*map(image_size, images))))
    keep(path, key, **facts._asdict())
    return facts


def files_key(paths, *settings):
    """A digest of files, by name, size and time of change, and of settings."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()


def read_kept(path, key):
    """What `keep` wrote, a dict, or None where there is nothing of this key."""
    try:
        kept = parse_json(path.read_text())
        return kept if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there yet, or damaged: it is made anew


def keep(path, key, **values):
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"key": key, **values}, indent=1))


def dataset_statistics(pairs, n_channels, datatxt_directory):
    """Statistics of the training images, kept in `dataset_stats.json` until the list or one of its files changes."""
    path = Path(datatxt_directory) / "dataset_stats.json"
    key = files_key([image for image, _ in pairs], n_channels)
    with suppress(KeyError, TypeError, ValueError):  # damaged
        kept = read_kept(path, key) or {}
        return Statistics(tuple(map(float, kept["mean"])), tuple(map(float, kept["std"])), int(kept["bits"]))
    images = (load_image(image, n_channels) for image, _ in tqdm(pairs, "mean and std", unit="image", disable=None))
    statistics = replace(compute_statistics(images), bits=8 * read_image(pairs[0][0]).itemsize)
    keep(path, key, images=len(pairs), **asdict(statistics))
    return statistics


def content_digest(pairs, datatxt_directory):
    """A digest of the names and contents of all files, kept in `dataset_digest.json` until one of them changes."""
    path, files = Path(datatxt_directory) / "dataset_digest.json", [file for pair in pairs for file in pair]
    key = files_key(files)
    kept = (read_kept(path, key) or {}).get("digest")
    if isinstance(kept, str):
        return kept
    contents = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    keep(path, key, digest=digest)
    return digest


def compute_statistics(images):
    """Mean and std per channel over all pixels of (C, H, W) arrays, in one pass; a constant channel gets std 1."""
    count, total, squares = 0, 0.0, 0.0
    for image in images:
        values = image.reshape(len(image), -1).astype(np.float64)
        count += values.shape[1]
        total = total + values.sum(axis=1)
        squares = squares + (values ** 2).sum(axis=1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean ** 2, 0))
    return Statistics(tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist()))
