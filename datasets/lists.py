"""The lists of a data set's pairs in DataTxt/, and whether a person has edited them.

`train_image.txt`, `train_label.txt`, `test_image.txt` and `test_label.txt` hold a path per line.
`lists.json` beside them holds the digest of what was last written: a list that differs from it was
edited by a person, and is honoured.
"""
import hashlib
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from command.errors import DataError
from command.files import atomic_write, make_folder, parse_json, take_turns
from command.names import find_file, stem_of
from datasets.pairs import SPLITS, find_pairs

KINDS = ("image", "label")
DIGESTS = "lists.json"
RENEW = "renew the lists with `python MakeTxt.py`"


class SplitPairs(NamedTuple):
    """What to train and to test on, [(image path, label path)] each."""
    train: list
    test: list
    remarks: list  # lines for people, such as: which lists were edited


def make_lists(data_directory, datatxt_directory):
    """Write the four lists of a data set; returns its pairs as `find_pairs` does.

    Raises DataError as that does, or where the folder of the lists cannot be written.  The lists
    that were there before then stay as they were.
    """
    pairs = find_pairs(data_directory)
    folder = make_folder(datatxt_directory)
    with take_turns(folder):
        write_lists(pairs, folder)
    return pairs


def write_lists(pairs, folder):
    """Write the lists of {split: [(image path, label path)]}."""
    contents = {}
    for split in pairs:
        for kind, paths in zip(KINDS, zip(*pairs[split])):
            lines = "".join(f"{path.as_posix()}\n" for path in paths)
            contents[f"{split}_{kind}.txt"] = lines.encode("utf-8", "surrogateescape")
    known = read_digests(folder)
    for name, content in contents.items():
        earlier = [digest for digest in known.get(name, []) if digest != digest_of(content)]
        known[name] = [digest_of(content), *earlier[:1]]
    with ExitStack() as stack:  # all are written before the first one takes its name
        for name, content in contents.items():
            stack.enter_context(atomic_write(folder / name)).write_bytes(content)
        # It takes its name first.  It knows the lists before these too: whenever the process is
        # killed, no list of its own looks edited.
        stack.enter_context(atomic_write(folder / DIGESTS)).write_text(json.dumps(known, indent=1))


def current_pairs(data_directory, datatxt_directory):
    """The SplitPairs to train on: of lists that a person edited as they are, others renewed.

    Raises DataError as `find_pairs` and `read_list` do, and for an edited list that names files
    outside `data_directory` or two files of one name.
    """
    found = find_pairs(data_directory)
    folder = make_folder(datatxt_directory)
    with take_turns(folder):  # else a list that another command is writing looks edited
        return renew_lists(found, data_directory, folder)


def renew_lists(found, data_directory, folder):
    """What `current_pairs` returns; found: as of `find_pairs`."""
    remarks, known = [], read_digests(folder)
    edited = [split for split in SPLITS if is_edited(split, folder, known)]
    for split in edited:
        listed = read_list(folder, split)
        check_inside(listed, data_directory, folder)
        check_names(listed, folder)
        remarks.append(f"{folder}/{split}_*.txt was edited: {len(listed)} pairs are listed, "
                       f"{len(found[split])} are in the folder; `python MakeTxt.py` renews it")
        found[split] = listed
    write_lists({split: found[split] for split in SPLITS if split not in edited}, folder)
    return SplitPairs(found["train"], found["test"], remarks)


def is_edited(split, folder, known):
    """Whether a list of this split differs from what was written; `known`: of `read_digests`."""
    for kind in KINDS:
        path = folder / f"{split}_{kind}.txt"
        if path.name in known and path.is_file():
            if digest_of(path.read_bytes()) not in known[path.name]:
                return True
    return False


def check_inside(pairs, data_directory, folder):
    """Raise DataError where a listed file lies outside the data set."""
    inside = Path(os.path.abspath(data_directory))
    for path in (path for pair in pairs for path in pair):
        if not Path(os.path.abspath(path)).is_relative_to(inside):
            raise DataError(f"{folder}: an edited list names {path}, outside {data_directory}; "
                            "give another --Datatxt_directory, or renew the lists with "
                            "`python MakeTxt.py`")


def check_names(pairs, folder):
    """Raise DataError where two listed files share a stem: weight maps and predictions have it."""
    for paths in zip(*pairs):
        named = {}
        for path in paths:
            other = named.setdefault(stem_of(path), path)
            if other != path:
                raise DataError(f"{folder}: an edited list names {other} and {path}, of one name; "
                                "leave one of the two out")


def read_list(datatxt_directory, split):
    """The pairs that are listed for "train" or "test": [(image path, label path), ...].

    Raises DataError where a list is missing or empty, the two differ in length, or a file is not
    there any more.
    """
    columns = []
    for kind in KINDS:
        path = Path(datatxt_directory) / f"{split}_{kind}.txt"
        if not path.is_file():
            raise DataError(f"{path}: no such list; write it with `python MakeTxt.py`")
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        columns.append([find_file(line.rstrip("\r")) for line in lines if line.strip()])
        for listed in columns[-1]:
            if not listed.is_file():
                raise DataError(f"{listed}: listed in {path} but not there; {RENEW}")
    images, labels = columns
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(labels)} labels for {len(images)} images; {RENEW}")
    if not images:
        raise DataError(f"{path}: an empty list; {RENEW}")
    return list(zip(images, labels))


def read_digests(folder):
    """The digests of each list's last two contents, {file name: [digests]}; {} without any."""
    with suppress(OSError, ValueError):
        known = parse_json((folder / DIGESTS).read_text())
        if type(known) is dict and all(type(each) is list for each in known.values()):
            return known
    return {}


def digest_of(content):
    return hashlib.sha256(content).hexdigest()
