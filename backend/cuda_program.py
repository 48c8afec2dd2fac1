"""The first proof of CUDA: a small program is compiled, linked and loaded as Jittor would do it."""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from backend.raw_import import first_cause

PATIENCE_WITH_NVCC = 600  # seconds
NEWEST_ARCH = ((11080, 90), (11010, 86), (11000, 80), (0, 75))  # (CUDA, the last that Jittor knows)
REMEDIES = (  # (in the compiler's message, what to do)
    (r"gcc versions later than (\d+)", r"install g++-\1 and set cc_path=g++-\1"),
    (r"unsupported GNU version", "install an older g++ and set cc_path to it"),
    (r"cicc: not found|nvvm", "pip install -r requirements/gpu.txt"),
    (r"no kernel image|unsupported toolchain|PTX", "update the NVIDIA driver"),
    (r"out of memory", "end what else uses the GPU"))
PROOF = """#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <curand.h>
#include <npp.h>
static __global__ void set(float *x, int clock) { *x = NPP_MAX_32S - clock; }
extern "C" const char *prove() {
    cudaDeviceProp card;
    if (cudaError_t error = cudaGetDeviceProperties(&card, 0)) return cudaGetErrorString(error);
    float *x;
    if (cudaError_t error = cudaMalloc(&x, sizeof *x)) return cudaGetErrorString(error);
    set<<<1, 1>>>(x, card.clockRate + card.computeMode);
    if (cudaError_t error = cudaGetLastError()) return cudaGetErrorString(error);
    if (cudaError_t error = cudaDeviceSynchronize()) return cudaGetErrorString(error);
    cublasHandle_t blas;
    if (cublasCreate(&blas)) return "cuBLAS does not start";
    curandGenerator_t random;
    if (curandCreateGenerator(&random, CURAND_RNG_PSEUDO_DEFAULT)) return "cuRAND does not start";
    cudnnHandle_t dnn;
    if (cudnnStatus_t error = cudnnCreate(&dnn)) return cudnnGetErrorString(error);
    size_t version = cudnnGetVersion();
    if (version / (version < 90000 ? 1000 : 10000) != CUDNN_MAJOR)
        return "cuDNN's header and its library have different versions";
    return "";
}
"""
LOAD = ("import ctypes, sys\nlibrary = ctypes.CDLL(sys.argv[1])\n"
        "library.prove.restype = ctypes.c_char_p\nprint(library.prove().decode())")


def ptx_flag(version, cards):
    """The flag of nvcc that embeds PTX, where Jittor compiles for no card as new as one here.

    The driver compiles PTX for such a card.  "" where all cards have code of their own.
    """
    newest = _newest_arch(version)
    if all(card.capability <= newest for card in cards):
        return ""
    return f"-code=compute_{min(min(card.capability, newest) for card in cards)}"


def _newest_arch(version):
    return next(arch for cuda, arch in NEWEST_ARCH if version >= cuda)


def compile_program(home, toolkit, driver):
    """Compile, link and load PROOF with Jittor's flags: "" or the cause and what to do."""
    archs = sorted({min(card.capability, _newest_arch(toolkit.version)) for card in driver.cards})
    compiler = os.environ.get("cc_path") or "g++"
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "proof.cu"), Path(folder, "proof.so")
        source.write_text(PROOF)
        flags = [f"-arch=compute_{archs[0]}", *(f"-code=sm_{arch}" for arch in archs),
                 ptx_flag(toolkit.version, driver.cards), "-std=c++14", "--use_fast_math", "-w",
                 "-Xcompiler", "-fPIC", "-shared", "--cudart=shared", f"-ccbin={compiler}",
                 f"-I{home / 'include'}", f"-L{home / 'lib64'}", "-Xlinker",
                 f"-rpath={home / 'lib64'}", "-lcudart", "-lcublas", "-lcurand", "-lcudnn"]
        for command in ([home / "bin" / "nvcc", source, *filter(None, flags), "-o", library],
                        [sys.executable, "-c", LOAD, library]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, cwd=folder,
                                      timeout=PATIENCE_WITH_NVCC)
            except (OSError, subprocess.SubprocessError) as error:
                return _add_remedy(toolkit, str(error))
            if done.returncode:
                said = done.stderr + done.stdout
                return _add_remedy(toolkit, said or f"exit code {done.returncode}")
    said = done.stdout.strip()
    return _add_remedy(toolkit, said) if said else ""


def _add_remedy(toolkit, message):
    """A compiler's message in one line: the cause and what to do."""
    cause = first_cause(message)
    remedy = "docs/gpu.md says what is needed"
    for pattern, advice in REMEDIES:
        found = re.search(pattern, message)
        if found:
            remedy = found.expand(advice)
            break
    return f"{toolkit.nvcc} makes no program that runs: {cause}; {remedy}"
