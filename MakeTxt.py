"""List the image/label pairs of a data set, one path per line, for training and testing.

    python MakeTxt.py --Data_directory ./data/ISBC2012 --Datatxt_directory ./DataTxt

Reads `<Data_directory>/{train,test}/{imgs,labels}`, writes `train_image.txt`, `train_label.txt`, `test_image.txt` and
`test_label.txt`.  Line k of an image list belongs to line k of its label list: pairs are matched by file name, so that
`a.tif` may have the label `a.png`, and a file without a partner is an error.  Paths are written as they were given:
relative ones hold for the folder from which the command was run.

The lists are replaced only when both splits are sound.  Nothing is ever deleted.
"""
import re
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from Common import DataError, Parser, atomic_write, make_folder, pair_by_name, run

SPLITS = ("train", "test")
HELP = ("`python MakeData.py sample` makes ./data/sample (then --Data_directory ./data/sample), `python MakeData.py folders` "
        "splits images of your own into train and test, data/README.md says how such a folder is laid out")


def find_pairs(data_directory):
    """The pairs of a data set: {"train": [(image_path, label_path), ...], "test": [...]}, each sorted by name.

    Raises DataError where a folder is missing or empty, a file has no partner, or a name would not fit on one line.
    """
    data_directory = Path(data_directory)
    folders = [data_directory / split / kind for split in SPLITS for kind in ("", "imgs", "labels")]
    for folder in (data_directory, *folders):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {HELP}")
    pairs = {split: pair_by_name(data_directory / split / "imgs", data_directory / split / "labels")
             for split in SPLITS}
    for path in (path for split in SPLITS for pair in pairs[split] for path in pair):
        if "\n" in str(path):
            raise DataError(f"{str(path)!r}: a line break in the name; rename it")
    return pairs


def make_lists(data_directory, datatxt_directory):
    """Write the four lists of a data set; returns {"train": [(image_path, label_path), ...], "test": [...]}.

    Raises DataError as `find_pairs` does, or where the folder of the lists cannot be written; the lists that were there
    before then stay as they were.
    """
    pairs = find_pairs(data_directory)
    datatxt_directory = make_folder(datatxt_directory)
    with ExitStack() as stack:  # all four are written before the first one takes its name
        for split in SPLITS:
            for kind, paths in zip(("image", "label"), zip(*pairs[split])):
                temporary = stack.enter_context(atomic_write(datatxt_directory / f"{split}_{kind}.txt"))
                lines = "".join(f"{path.as_posix()}\n" for path in paths)
                temporary.write_bytes(lines.encode("utf-8", "surrogateescape"))
    return pairs


def read_list(datatxt_directory, split):
    """The pairs that `make_lists` wrote for "train" or "test": [(image_path, label_path), ...].

    Raises DataError where a list is missing or empty, the two differ in length, or a file is not there any more.
    """
    columns = []
    for kind in ("image", "label"):
        path = Path(datatxt_directory) / f"{split}_{kind}.txt"
        if not path.is_file():
            raise DataError(f"{path}: no such list; write it with `python MakeTxt.py`")
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        columns.append([Path(line.rstrip("\r")) for line in lines if line.strip()])
        for listed in columns[-1]:
            if not listed.is_file():
                raise DataError(f"{listed}: listed in {path} but not there; renew the lists with `python MakeTxt.py`")
    images, labels = columns
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(labels)} labels for {len(images)} images; "
                        "renew the lists with `python MakeTxt.py`")
    if not images:
        raise DataError(f"{path}: an empty list; renew the lists with `python MakeTxt.py`")
    return list(zip(images, labels))


def group_of(path, pattern):
    """What the first group of the expression `pattern` matches in a file's stem; the stem itself without a pattern."""
    if pattern is None:
        return path.stem
    match = re.search(pattern, path.stem)
    if not match or match[1] is None:
        raise DataError(f"{path}: --group {pattern} does not match its name; change the expression")
    return match[1]


def split_groups(groups, fraction, seed):
    """The groups that are held out: a set of names.

    groups: the group of each pair.  They are taken in a seeded order, as many as bring their share of the pairs nearest to
    `fraction`; at least one, and not all.
    """
    sizes = Counter(groups)
    names = sorted(sizes)
    order = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    shares = np.cumsum([sizes[name] for name in order])[:-1] / len(groups)
    return set(order[:1 + int(np.argmin(np.abs(shares - fraction)))])


def main():
    """Read the flags, write the lists, say how many pairs they hold."""
    parser = Parser("List the image/label pairs of a data set, matched by file name.")
    parser.add_argument("--Data_directory", type=Path, default="./data/ISBC2012", help="holds {train,test}/{imgs,labels}")
    parser.add_argument("--Datatxt_directory", type=Path, default="./DataTxt", help="folder of the four lists")
    options = parser.parse_args()
    pairs = make_lists(options.Data_directory, options.Datatxt_directory)
    print(f"{len(pairs['train'])} training pairs, {len(pairs['test'])} test pairs listed in {options.Datatxt_directory}")


if __name__ == "__main__":
    sys.exit(run(main))
