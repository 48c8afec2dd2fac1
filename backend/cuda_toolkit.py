"""Which CUDA toolkit Jittor can use here: an nvcc, and the libraries that go with it.

`find_toolkits` looks at files.  It runs nothing but `nvcc --dryrun`, and that only for an nvcc
that is a script.  docs/gpu.md says what is looked for and in which order.
"""
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SOURCE = "nvcc_path"                    # the file of a home that names the nvcc behind its own
INSTALL = "pip install -r requirements/gpu.txt"
NEWEST_MAJOR = 13                       # the CUDA of requirements/gpu.txt
FIRST_DRIVER = {12: 525, 13: 580}       # the oldest driver for a major version of CUDA
FIRST_CAPABILITY = {12: 50, 13: 75}     # the oldest cards that it compiles for
DEFINED_VERSION = re.compile(r"^#define (?:CUDART_VERSION|CUDNN_MAJOR)\s+(\d+)", re.M)


class Component(NamedTuple):
    """A part of CUDA that Jittor compiles against."""
    name: str      # for people
    header: str
    library: str   # lib<library>.so
    wheel: str     # its folder in site-packages/nvidia, where it has one of its own


RUNTIME = Component("CUDA's runtime", "cuda_runtime_api.h", "cudart", "cuda_runtime")
CUBLAS = Component("cuBLAS", "cublas_v2.h", "cublas", "cublas")
CURAND = Component("cuRAND", "curand.h", "curand", "curand")
CUDNN = Component("cuDNN", "cudnn.h", "cudnn", "cudnn")
NCCL = Component("NCCL", "nccl.h", "nccl", "nccl")     # for several GPUs alone
NVRTC = Component("NVRTC", "nvrtc.h", "nvrtc", "cuda_nvrtc")  # which cuDNN 9 loads where it is


class ToolkitPart(NamedTuple):
    """Where a part lies."""
    include: Path  # the folder of its header
    lib: Path


class Places(NamedTuple):
    """Where this machine may keep CUDA."""
    nvcc_path: str | None  # the environment variable
    cache: Path            # Jittor's, with its own bundle of CUDA
    site: tuple            # folders of Python's packages, as Paths
    path: str              # PATH
    root: Path


class Toolkit(NamedTuple):
    """A complete CUDA toolkit."""
    nvcc: Path
    top: Path      # the folder that nvcc calls its own
    version: int   # 13000 for 13.0
    cudnn: int     # its major version
    parts: dict    # {Component: ToolkitPart}; without NCCL and NVRTC where they are not installed


class Found(NamedTuple):
    """The usable toolkits, the preferred one first, or why there is none."""
    toolkits: tuple
    cause: str  # why the first that is here cannot be used, and what to do


def this_machine():
    """The Places of this process."""
    home, nvcc = os.environ.get("JITTOR_HOME", Path.home()), os.environ.get("nvcc_path")
    if nvcc:  # as this project sets it for Jittor: the processes that it starts see it too
        source = Path(nvcc).parent.parent / SOURCE
        nvcc = source.read_text("utf-8").strip() if source.is_file() else os.path.abspath(nvcc)
    return Places(nvcc, Path(home, ".cache", "jittor"),
                  tuple(Path(folder) for folder in sys.path if folder),
                  os.environ.get("PATH", ""), Path("/"))


def find_toolkits(places, driver):
    """Found: every toolkit that is complete and fits the Driver and its cards."""
    toolkits, causes = [], []
    for nvcc in _compilers(places):
        toolkit, cause = _examine(nvcc, places, driver)
        if not toolkit:
            causes.append(cause)
        elif toolkit.top not in [other.top for other in toolkits]:  # else a link or a script
            toolkits.append(toolkit)
    if places.nvcc_path and not toolkits and not causes:
        causes = [f"nvcc_path: no file {places.nvcc_path}"]
    causes.append(f"no CUDA toolkit (nvcc) found; {_name_remedy(driver)}")
    return Found(tuple(toolkits), "" if toolkits else causes[0])


def cuda_name(version):
    """'13.0' for 13000."""
    return f"{version // 1000}.{version % 1000 // 10}"


# --------------------------------------------------------------------------------------- compilers
def _compilers(places):
    """The nvcc files that are here, the preferred one first, each once."""
    if places.nvcc_path:
        found = [Path(places.nvcc_path)]
    else:
        found = sorted(places.cache.glob("jtcuda/*/bin/nvcc"), reverse=True)
        for site in places.site:
            found += sorted(site.glob("nvidia/cu*/bin/nvcc"), reverse=True)
        in_path = shutil.which("nvcc", path=places.path)
        found += [Path(in_path)] if in_path else []
        found += [places.root / "usr/local/cuda/bin/nvcc", places.root / "opt/cuda/bin/nvcc",
                  places.root / "usr/bin/nvcc"]
    return dict.fromkeys(path for path in found if path.is_file())


def _top(nvcc):
    """The folder of the toolkit of an nvcc, which may be a link or a script that calls another."""
    top = nvcc.resolve().parent.parent
    if _header(top, RUNTIME):
        return top
    try:
        done = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True,
                              text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return top
    said = re.search(r"^#\$ TOP=(.+)$", done.stderr, re.M)
    return Path(said.group(1).strip()).resolve() if said else top


def _examine(nvcc, places, driver):
    """(the Toolkit of an nvcc, "") or (None, why it cannot be used and what to do)."""
    top = _top(nvcc)
    runtime = _find(RUNTIME, [top, *_tops_of_runtime(nvcc, places)])
    if not runtime:
        return None, f"{nvcc}: {_missing(RUNTIME)}; {_name_remedy(driver)}"
    version = _version(runtime.include / RUNTIME.header)
    cause = _misfit(nvcc, version, driver)
    if cause:
        return None, cause
    major = version // 1000
    parts = {RUNTIME: runtime}
    for wanted in (CUBLAS, CURAND, CUDNN, NCCL, NVRTC):
        part = _find(wanted, [top, *_wheels(wanted, major, places), places.root / "usr/local/cuda",
                              places.root / "usr"], major)
        if part:
            parts[wanted] = part
        elif wanted not in (NCCL, NVRTC):
            return None, f"{nvcc}: {_missing(wanted)}; {_name_remedy(driver, wanted, major)}"
    cudnn = parts[CUDNN].include
    number = _version(cudnn / "cudnn_version.h") or _version(cudnn / "cudnn.h")
    return Toolkit(nvcc, top, version, number, parts), ""


def _tops_of_runtime(nvcc, places):
    """Where else the runtime of the same version may lie.

    The packages of Debian and Ubuntu put it into /usr.  An environment with an nvcc of its own may
    share the system's packages of Python, with the runtime that PyTorch has brought.
    """
    usr, resolved = (places.root / "usr").resolve(), nvcc.resolve()
    if usr in resolved.parents and usr / "local" not in resolved.parents:
        return [usr]
    if resolved.parent.parent.parent.name == "nvidia":
        return [site / "nvidia" / resolved.parent.parent.name for site in places.site]
    return []


# -------------------------------------------------------------------------------------- their parts
def _find(wanted, tops, major=0):
    """The first ToolkitPart below some folders that has both header and library."""
    for top in tops:
        include, lib = _header(top, wanted), _library(top, wanted, major)
        if include and lib:
            return ToolkitPart(include, lib)
    return None


def _header(top, wanted):
    folders = (top / "include", top / f"targets/{platform.machine()}-linux/include",
               top / f"include/{platform.machine()}-linux-gnu")
    return next((folder for folder in folders if (folder / wanted.header).is_file()), None)


def _library(top, wanted, major):
    folders = (top / "lib64", top / "lib", top / f"targets/{platform.machine()}-linux/lib",
               top / f"lib/{platform.machine()}-linux-gnu")
    return next((folder for folder in folders if _has_library(folder, wanted, major)), None)


def _has_library(folder, wanted, major):
    """Whether a folder has a library, for this major version of CUDA if its name tells."""
    name = f"lib{wanted.library}.so"
    numbers = {path.name[len(name):].split(".")[1] for path in folder.glob(f"{name}.*")}
    if wanted == CUBLAS and numbers:
        return str(major) in numbers
    return bool(numbers) or (folder / name).is_file()


def _wheels(wanted, major, places):
    """The folders of NVIDIA's wheels that may hold a part for a major version of CUDA."""
    for site in places.site:
        if _is_for_another_cuda(site, wanted, major):
            continue
        yield site / f"nvidia/cu{major}"
        yield site / "nvidia" / wanted.wheel


def _is_for_another_cuda(site, wanted, major):
    """cuDNN's and NCCL's wheels say which CUDA they are for in their names alone."""
    names = [path.name for path in site.glob(f"nvidia_{wanted.wheel}_cu*.dist-info")]
    return bool(names) and not any(
        name.startswith(f"nvidia_{wanted.wheel}_cu{major}-") for name in names)


def _version(header):
    """The version that a header defines; 0 if none."""
    found = DEFINED_VERSION.search(header.read_text("latin-1")) if header.is_file() else None
    return int(found.group(1)) if found else 0


# -------------------------------------------------------------------------- what to say and to do
def _misfit(nvcc, version, driver):
    """Why a toolkit does not fit the driver and its cards; "" if it does."""
    major = version // 1000
    if major > driver.version // 1000:
        return (f"{nvcc} is of CUDA {cuda_name(version)}, but the NVIDIA driver knows CUDA "
                f"{cuda_name(driver.version)} at most; "
                f"update the driver to {FIRST_DRIVER.get(major, 'a newer one')} or newer")
    for card in driver.cards:
        if card.capability < FIRST_CAPABILITY.get(major, 0):
            return (f"CUDA {cuda_name(version)} ({nvcc}) does not compile for {card.name}, which "
                    f"is too old; install CUDA 12 and cuDNN for it (docs/gpu.md)")
    return ""


def _missing(wanted):
    return f"{wanted.name} is not installed ({wanted.header}, lib{wanted.library}.so)"


def _name_remedy(driver, wanted=None, major=NEWEST_MAJOR):
    """What to do where something is missing."""
    if driver.version // 1000 >= NEWEST_MAJOR:
        return INSTALL
    either = (f"either update the driver to {FIRST_DRIVER[NEWEST_MAJOR]} or newer and {INSTALL}, "
              "or install ")
    if wanted:
        return f"{either}{wanted.name} for CUDA {major} (docs/gpu.md)"
    return f"{either}CUDA 12 and cuDNN (docs/gpu.md)"
