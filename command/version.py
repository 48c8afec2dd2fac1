"""The version of this project, and what `--version` says beside it."""
import contextlib
from importlib import metadata

from command.hardware import ask_driver, processor_name

VERSION = "1.0.0"  # CITATION.cff names it too


def describe_version(command):
    """A command's version, Jittor's, NumPy's and the machine's devices, in one line.

    Jittor is not imported.  Whether a run can use a GPU is for `python Model.py --doctor` to say.
    """
    parts = [f"{command} {VERSION}"]
    for name, package in (("Jittor", "jittor"), ("NumPy", "numpy")):
        parts.append(f"{name} {package_version(package) or 'not installed'}")
    return ", ".join([*parts, f"device: {describe_devices()}"])


def describe_devices():
    """The machine's devices: 'CPU (AMD EPYC 7B13, 2 cores)', then its GPUs where it has some."""
    driver, _ = ask_driver()
    names = [card.name for card in driver.cards] if driver else []
    return ", ".join([f"CPU ({processor_name()})", *(f"GPU ({name})" for name in names)])


def package_version(name):
    """The version of a Python package, or ""."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return ""
