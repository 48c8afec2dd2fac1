"""Every package that pip would install has one version.

requirements.txt or requirements/ name it, or requirements/constraints.txt as a dependency.
"""
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def requirements(name):
    """The Requirements of a file, with those of the files that it includes."""
    path = ROOT / name
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from requirements(path.parent / line[3:])
        elif line:
            yield Requirement(line)


def is_cuda(name):
    """Whether a package comes with PyTorch's CUDA build alone, where its CPU build is enough."""
    return name.startswith(("nvidia-", "cuda-", "triton"))


def test_everything_is_pinned():
    chosen = [*requirements("requirements/dev.txt"), *requirements("requirements/gpu.txt"),
              *requirements("requirements/rivals.txt")]
    pinned = {canonicalize_name(each.name)
              for each in (*chosen, *requirements("requirements/constraints.txt"))}
    assert all(re.fullmatch(r"==[0-9.]+(post[0-9]+)?", str(each.specifier))
               for each in (*chosen, *requirements("requirements/constraints.txt")))
    waiting, seen = [canonicalize_name(each.name) for each in chosen], set()
    while waiting:
        name = waiting.pop()
        assert name in pinned, f"{name}: no version in requirements.txt or requirements/"
        seen.add(name)
        try:
            needed = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # of another machine
            continue
        waiting += {canonicalize_name(each.name) for each in needed
                    if (each.marker is None or each.marker.evaluate({"extra": ""}))
                    and not (name == "torch" and is_cuda(each.name))} - seen
