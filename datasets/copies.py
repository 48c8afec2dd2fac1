"""The manifest of DataAugmentation.py: which files it made, and which of them are unchanged."""
import hashlib
import json
import os
import re
from pathlib import Path

from command.errors import DataError
from command.files import atomic_write, parse_json
from command.names import canonical_path, find_file
from datasets.pairs import pair_by_name

MANIFEST = "augmentation_manifest.jsonl"
COPY_SUFFIXES = (".png", ".tif")  # the second for what PNG does not hold
OUTPUT_NAME = re.compile(r"[^./\\\0][^/\\\0]*-[0-9]+\.(png|tif)")  # no folder in it, no hidden file


def original_of(copy):
    """The stem of the file that a copy was made of: "cell" for `copy`, its stem "cell-0"."""
    return copy.rpartition("-")[0]


class Manifest:
    """The files that DataAugmentation.py made in two folders, as JSON lines.

    A line is {"folder": "image" or "label", "file": a name, "sha256": of the file's bytes}.

    path: of the manifest, in the image folder; folders: {"image": Path, "label": Path};
    hashes: {canonical_path of a file: the set of all hashes that it ever had}.
    """

    def __init__(self, image_folder, label_folder):
        """Read the manifest, if there is one.  Raises DataError for a damaged line."""
        self.path = Path(image_folder) / MANIFEST
        self.folders = {"image": Path(image_folder), "label": Path(label_folder)}
        self.hashes = {}
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        lines = text.splitlines()
        for count, line in enumerate(lines, start=1):
            try:
                entry = parse_json(line)
            except ValueError:
                if count == len(lines):  # a kill cut it off, before the file itself was written
                    lines.pop()
                    break
                raise DataError(f"{self.path}: line {count} is damaged; delete this line") from None
            self._add(entry, count)
        self.sound_text = "".join(line + "\n" for line in lines)
        self.damaged = text != self.sound_text

    def _add(self, entry, count):
        """Take over the entry of line `count`."""
        try:
            folder, name = self.folders[entry["folder"]], entry["file"]
            digest = entry["sha256"]
            if not OUTPUT_NAME.fullmatch(name):
                raise ValueError(name)
            self.hashes.setdefault(canonical_path(folder / name), set()).add(digest)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{self.path}: line {count} names no file made here; "
                            "delete this line") from None

    def lists(self, path):
        """Whether a file of this path was made here, changed since or not."""
        return canonical_path(path) in self.hashes

    def listed_files(self):
        """The paths of the files that are there and were made here, changed since or not: a set."""
        return {path for folder in self.folders.values() if self.hashes and folder.is_dir()
                for path in folder.iterdir() if self.lists(path) and path.is_file()}

    def own_files(self):
        """The paths of the files that are still as they were made: a set."""
        return {path for path in self.listed_files()
                if hashlib.sha256(path.read_bytes()).hexdigest()
                in self.hashes[canonical_path(path)]}

    def original_pairs(self, own):
        """The (image, label) paths that were not made here: a list sorted by name.

        own: what `own_files` gives.  Raises DataError where one file of a copied pair was changed
        and the other one was not, and as `pair_by_name`.
        """
        for partner in sorted(own):
            is_image = partner.parent == self.folders["image"]
            folder = self.folders["label" if is_image else "image"]
            for suffix in COPY_SUFFIXES:
                path = find_file(folder / f"{partner.stem}{suffix}")
                if path.exists() and path not in own:
                    raise DataError(f"{path}: changed since it was made here, its partner "
                                    f"{partner} was not; move it away or rename both")
        return pair_by_name(*self.folders.values(), ignore=own)

    def write_files(self, paths, contents):
        """Write an image and a label, given by their paths and their bytes.

        The manifest lists them, on disk, before they appear: a kill leaves no file unlisted.
        """
        lines = ""
        for kind, path, content in zip(self.folders, paths, contents):
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self.hashes.get(canonical_path(path), ()):
                line = {"folder": kind, "file": path.name, "sha256": digest}
                lines += json.dumps(line) + "\n"
        if self.damaged:
            with atomic_write(self.path) as temporary:
                temporary.write_text(self.sound_text)
            self.damaged = False
        if lines:
            with open(self.path, "a") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        for path, content in zip(paths, contents):
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
