"""A folder of links and small headers that makes any CUDA toolkit look as Jittor 1.3.11 wants it.

Jittor takes one folder with bin/nvcc, include/ and lib64/.  Wheels, Debian's packages and a cuDNN
beside the toolkit lie in several.  CUDA 13 and cuDNN 9 also lack names that Jittor uses.
"""
import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from backend.cuda_toolkit import CUBLAS, CUDNN, CURAND, NCCL, NVRTC, RUNTIME, SOURCE

LINKED = {RUNTIME: ("*", ("libcudart.so*", "libcudadevrt.a")),  # (headers, libraries)
          CUBLAS: ("cublas*", ("libcublas.so*", "libcublasLt.so*")),
          CURAND: ("curand*", ("libcurand.so*",)),
          CUDNN: ("cudnn*", ("libcudnn*.so*",)),
          NCCL: ("nccl*", ("libnccl.so*",)),
          NVRTC: ("nvrtc*", ("libnvrtc*.so*",))}
CUDNN_8 = {f"libcudnn_{part}_{use}.so": f"libcudnn_{part}.so"  # names that cuDNN 9 has given up
           for part in ("ops", "cnn") for use in ("infer", "train")}

# Of NPP, which a toolkit has and the wheels have not, Jittor reads these alone.
NPP_H = """#pragma once
#include <limits.h>
#define NPP_MIN_32U 0
#define NPP_MAX_32U UINT_MAX
#define NPP_MIN_32S INT_MIN
#define NPP_MAX_32S INT_MAX
#define NPP_MIN_64U 0
#define NPP_MAX_64U ULLONG_MAX
#define NPP_MIN_64S LLONG_MIN
#define NPP_MAX_64S LLONG_MAX
"""
# Two fields of cudaDeviceProp that CUDA 13 has dropped.  Jittor reads them only to choose among
# several cards.
DRIVER_TYPES_H = """#pragma once
#include "{real}"
#define computeMode integrated
#define clockRate major
"""
CUDNN_H = """#pragma once
#include "{real}"
#ifdef __cplusplus
""" + "".join(
    f"template <class... A> static inline cudnnStatus_t {name}(A...)"
    " {{ return CUDNN_STATUS_NOT_SUPPORTED; }}\n"
    for name in ("cudnnSetRNNDescriptor_v6", "cudnnGetRNNParamsSize", "cudnnGetRNNWorkspaceSize",
                 "cudnnGetRNNTrainingReserveSize", "cudnnGetRNNLinLayerMatrixParams",
                 "cudnnGetRNNLinLayerBiasParams")) + "#endif\n"


def build_home(toolkit, folder):
    """The home of a Toolkit below `folder`: built where it is missing or its sources have changed.

    Its name is a digest of all that it links, so that an old one is never changed.  Two processes
    may build at the same time.
    """
    links, headers = _links(toolkit), _headers(toolkit)
    home = folder / _digest(toolkit.nvcc, links, headers)
    if home.is_dir():
        return home
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        for name in ("bin", "include", "lib64"):
            (new / name).mkdir()
        nvcc = new / "bin" / "nvcc"
        nvcc.write_text(f'#!/bin/sh\nexec "{toolkit.nvcc}" "$@"\n')  # no link: its path tells nvcc
        nvcc.chmod(0o755)
        (new / "version").write_text(f"{toolkit.version}\n")
        (new / SOURCE).write_text(f"{toolkit.nvcc}\n")
        for name, target in links.items():
            (new / name).symlink_to(target)
        for name, content in headers.items():
            (new / name).write_text(content)
        new.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster
            new.rename(home)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return home


def version_of(home):
    """The version of a home's CUDA: 13000 for 13.0."""
    return int((home / "version").read_text("ascii"))


def _links(toolkit):
    """{path in the home: what it points to}."""
    links = {}
    for wanted, part in toolkit.parts.items():
        headers, libraries = LINKED[wanted]
        if wanted == NCCL or not _is_systems(part.include):
            for path in filter(Path.exists, sorted(part.include.glob(headers))):
                links.setdefault(f"include/{path.name}", str(path))
        for pattern in libraries:
            for path in filter(Path.exists, sorted(part.lib.glob(pattern))):
                links[f"lib64/{path.name}"] = str(path)
                if ".so." in path.name:  # wheels have no libcudart.so, only a libcudart.so.13
                    links.setdefault(f"lib64/{path.name.split('.so.')[0]}.so", path.name)
    include = toolkit.top / "include"  # of the compiler, where the runtime lies elsewhere
    if (include / "crt").is_dir() and not _is_systems(include):
        for path in filter(Path.exists, sorted(include.glob("*"))):
            links.setdefault(f"include/{path.name}", str(path))
    if toolkit.cudnn >= 9:
        links |= {f"lib64/{name}": target for name, target in CUDNN_8.items()}
    for name in _headers(toolkit):
        links.pop(name, None)
    return links


def _headers(toolkit):
    """{path in the home: content} of the headers of our own."""
    runtime, cudnn = (toolkit.parts[wanted].include for wanted in (RUNTIME, CUDNN))
    headers = {}
    if not (runtime / "npp.h").is_file():
        headers["include/npp.h"] = NPP_H
    if toolkit.version >= 13000:
        headers["include/driver_types.h"] = DRIVER_TYPES_H.format(real=runtime / "driver_types.h")
    if toolkit.cudnn >= 9:
        headers["include/cudnn.h"] = CUDNN_H.format(real=cudnn / "cudnn.h")
    return headers


def _is_systems(include):
    """Whether a compiler looks into a folder by itself; links would change its search's order."""
    return include.name == "include" and include.parent.name == "usr" or (
        include.parent.name == "include" and include.parent.parent.name == "usr")


def _digest(nvcc, links, headers):
    """A name for a home, from its links, the size and time of their targets, and its headers."""
    parts = [_stamp(nvcc)]
    for name, target in sorted(links.items()):
        parts += [name, _stamp(target) if os.path.isabs(target) else target]
    parts += [text for item in sorted(headers.items()) for text in item]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _stamp(path):
    stat = os.stat(path)
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"
