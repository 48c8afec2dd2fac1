"""Install what the gate needs into its cache folder, once: `make gpu-gate` begins with it.

NVIDIA's wheels become made-up layouts: a site-packages of CUDA 13 and cuDNN 9, and a toolkit of the
system of CUDA 12 and cuDNN 8.  Headers and compilers are NVIDIA's.  The libraries are the
stand-in's.
"""
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from gate import ROOT, Gate, cache_folder
from stand_in import build_driver, build_libraries, record_symbols

from backend.cuda_home import NPP_H

# PyPI has no nvcc of CUDA 12.  Debian's is 87 MB.
DEBIANS_COMPILER = "nvidia-cuda-toolkit=12.4.131~12.4.1-2"
PROGRAMS = ("cudafe++", "fatbinary", "nvlink", "ptxas", "bin2c")
PROFILE = """TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64"
"""


def install_wheels(folder, requirements):
    """Install NVIDIA's wheels of a file with pip, without their libraries, where they are not."""
    if folder.is_dir():
        return
    unpacked = Path(f"{folder}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    lines = [line.split(" ")[0] for line in requirements.read_text().splitlines()]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
                    "--disable-pip-version-check", "--target", unpacked,
                    *(line for line in lines if line.startswith("nvidia-"))], check=True)
    record_symbols(unpacked)
    unpacked.rename(folder)


def unpack_compiler(folder):
    """Unpack Debian's nvcc 12.4, because PyPI has none.  Nothing is installed on the system."""
    if folder.is_dir():
        return
    work = Path(f"{folder}.unpacked")
    shutil.rmtree(work, ignore_errors=True)
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    (work / "sources.list").write_text("deb http://deb.debian.org/debian trixie non-free\n")
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={work}/sources.list",
           "-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={work}/lists",
           "-o", f"Dir::Cache={work}/cache"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", DEBIANS_COMPILER], check=True, cwd=work)
    package, = work.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, work / "files"], check=True)
    (work / "files").rename(folder)
    shutil.rmtree(work)


def borrow_libraries(gate):
    """Give CUDA 12 cuBLAS and cuRAND of CUDA 13, whose functions are the same: no 0.4 GB more."""
    theirs = gate.site / "nvidia" / "cu13"
    for name, library, borrowed in (("cublas", "cublas", "cublas.so.13"),
                                    ("cublas", "cublasLt", "cublasLt.so.13"),
                                    ("curand", "curand", "curand.so.10")):
        ours = gate.cuda12 / "nvidia" / name
        for folder in ("include", "lib"):
            (ours / folder).mkdir(parents=True, exist_ok=True)
        for header in theirs.glob(f"include/{library}*.h"):
            _link_once(header, ours / "include" / header.name)
        _link_once(theirs / "lib" / f"lib{borrowed}.symbols",
                   ours / "lib" / f"lib{borrowed.replace('.13', '.12')}.symbols")


def lay_toolkit(gate):
    """Lay a toolkit as NVIDIA's installer does, in bin, include and lib64, with cuDNN 8."""
    if gate.toolkit.is_dir():
        return
    folder = Path(f"{gate.toolkit}.new")
    shutil.rmtree(folder, ignore_errors=True)
    programs = gate.compiler / "usr" / "lib" / "nvidia-cuda-toolkit"
    shutil.copytree(programs / "bin", folder / "bin", copy_function=os.link,
                    ignore=shutil.ignore_patterns("g++", "gcc", "nvcc.profile"))
    for name in PROGRAMS:
        os.link(gate.compiler / "usr" / "bin" / name, folder / "bin" / name)
    (folder / "bin" / "nvcc.profile").write_text(PROFILE)
    shutil.copytree(programs / "libdevice", folder / "nvvm" / "libdevice", copy_function=os.link)
    for headers in sorted(gate.cuda12.glob("nvidia/*/include")):
        shutil.copytree(headers, folder / "include", copy_function=_link_once, dirs_exist_ok=True)
    (folder / "include" / "npp.h").write_text(NPP_H)  # not in wheels
    (folder / "lib64").mkdir()
    for symbols in gate.cuda12.glob("nvidia/*/lib/*.symbols"):
        library = symbols.with_suffix("")
        (folder / "lib64" / library.name).symlink_to(library)
        (folder / "lib64" / f"{library.name.split('.so.')[0]}.so").symlink_to(library.name)
    subprocess.run(["ar", "rcs", folder / "lib64" / "libcudadevrt.a"], check=True)  # not in wheels
    folder.rename(gate.toolkit)


def _link_once(source, target):
    if not os.path.exists(target):
        os.link(source, target)


def main():
    gate = Gate(cache_folder())
    lists = [ROOT / "requirements" / "gpu.txt", ROOT / "tests" / "gpu" / "toolkit.txt"]
    wanted = [DEBIANS_COMPILER, *(file.read_text() for file in lists)]
    key = hashlib.sha256("".join(wanted).encode()).hexdigest()
    if gate.mark.is_file() and gate.mark.read_text() != key:
        for folder in (gate.site, gate.cuda12, gate.compiler, gate.toolkit):
            shutil.rmtree(folder, ignore_errors=True)
    gate.folder.mkdir(parents=True, exist_ok=True)
    install_wheels(gate.site, lists[0])
    install_wheels(gate.cuda12, lists[1])
    borrow_libraries(gate)
    build_libraries(gate.site)
    build_libraries(gate.cuda12)
    build_driver(gate.driver, gate.site)
    if shutil.which("apt-get"):
        unpack_compiler(gate.compiler)
        lay_toolkit(gate)
    gate.mark.write_text(key)
    print(f"The gate's compilers, headers and stand-in: {gate.folder}")


if __name__ == "__main__":
    main()
