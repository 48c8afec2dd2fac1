"""The lists of a data set's pairs in DataTxt/."""
from contextlib import ExitStack
from pathlib import Path

from command.errors import DataError
from command.files import atomic_write, make_folder
from datasets.pairs import SPLITS, find_pairs


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
