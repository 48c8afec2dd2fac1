"""The manifest of the copies that DataAugmentation.py made."""
import hashlib
import json
import os
import re
from pathlib import Path

from command.errors import DataError
from command.files import atomic_write, parse_json
from datasets.pairs import pair_by_name

MANIFEST = "augmentation_manifest.jsonl"
OUTPUT_NAME = re.compile(r"[^./\\\0][^/\\\0]*-[0-9]+\.png")  # a plain file name: no folder, not hidden


# ------------------------------------------------------------------------------------------------------ the manifest
def original_of(copy):
    """The stem of the file that a copy made here, of the stem `copy`, was made of."""
    return copy.rpartition("-")[0]


class Manifest:
    """The files made here, as JSON lines: {"folder": "image" or "label", "file": its name, "sha256": of its bytes}."""

    def __init__(self, image_folder, label_folder):
        self.path = Path(image_folder) / MANIFEST
        self.folders = {"image": Path(image_folder), "label": Path(label_folder)}
        self.hashes = {}  # {path: every hash that a file made here under this name ever had}
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        lines = text.splitlines()
        for count, line in enumerate(lines, start=1):
            try:
                entry = parse_json(line)
            except ValueError:
                if count == len(lines):  # cut off by a kill, before the file itself was written
                    lines.pop()
                    break
                raise DataError(f"{self.path}: line {count} is damaged; delete this line") from None
            self._add(entry, count)
        self.sound_text = "".join(line + "\n" for line in lines)
        self.damaged = text != self.sound_text

    def _add(self, entry, count):
        try:
            folder, name, digest = self.folders[entry["folder"]], entry["file"], entry["sha256"]
            if not OUTPUT_NAME.fullmatch(name):
                raise ValueError(name)
            self.hashes.setdefault(folder / name, set()).add(digest)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{self.path}: line {count} names no file made here; delete this line") from None

    def own_files(self):
        """The paths of the files that are still as they were made here."""
        return {path for path, hashes in self.hashes.items()
                if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in hashes}

    def original_pairs(self, own):
        """The (image, label) paths that were not made here; a DataError where only half of a pair was changed since."""
        for partner in sorted(own):
            path = self.folders["label" if partner.parent == self.folders["image"] else "image"] / partner.name
            if path.exists() and path not in own:
                raise DataError(f"{path}: changed since it was made here, its partner {partner} was not; "
                                "move it away or rename both")
        return pair_by_name(*self.folders.values(), ignore=own)

    def write_files(self, paths, contents):
        """List an image and a label, on disk, and only then write them: a kill leaves no file that is not listed."""
        lines = ""
        for kind, path, content in zip(self.folders, paths, contents):
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self.hashes.get(path, ()):
                lines += json.dumps({"folder": kind, "file": path.name, "sha256": digest}) + "\n"
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
