"""What Jittor finds before it is imported: its settings, oneDNN and python-config."""
import contextlib
import os
import sys
import sysconfig
from pathlib import Path

import numpy as np

from backend.cuda_home import version_of
from backend.cuda_program import ptx_flag
from command.hardware import ask_driver

ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"  # where Jittor 1.3.11 looks before it downloads
ONEDNN_FILES = ("lib/libmkldnn.so", "lib/libdnnl.so.2", "include/mkldnn.hpp")
QUIET = {"log_silent": "1",                # Jittor's own start-up lines
         "cache_name": "default",          # else the cache is keyed by the git branch around it
         "JPY_PARENT_PID": "",             # as in Jupyter: leave SIGINT alone
         "use_mpi": "0",                   # else Jittor compiles it wherever there is an mpicc
         "use_cutt": "0", "use_cutlass": "0", "use_nccl": "0",  # downloads that nothing here needs
         "FIX_TORCH_ERROR": "0"}           # else Jittor imports PyTorch too: seconds, and 200 MB
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # say how libgomp's threads wait for one another
SPINS = "3000"  # rounds of active waiting, below a tenth of a millisecond: docs/speed.md


def prepare_environment():
    """Set the environment variables that Jittor reads at its import, and show it oneDNN."""
    let_threads_sleep()
    link_onednn()
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # kept by NumPy; after Jittor's -Ofast it would warn of subnormals
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    _point_to_python_config()


def let_threads_sleep():
    """Have a thread that waits for others sleep soon, and leave its core to other programs.

    What the environment says already stays.  libgomp reads this once, when it is loaded, and then
    it waits for 300,000 rounds where nothing is said.  Here Jittor is the first to load it.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def use_home(home, several=False):
    """Name the CUDA home that Jittor is to use, or None.  several: whether as one of many ranks."""
    if home is None:
        os.environ["nvcc_path"] = ""
        # Jittor's compiling threads race: they were seen to crash, and to hang
        os.environ.setdefault("use_parallel_op_compiler", "1")
        return
    os.environ["nvcc_path"] = str(home / "bin" / "nvcc")
    flag = ptx_flag(version_of(home), ask_driver().driver.cards)
    flags = os.environ.get("nvcc_flags", "")
    if flag not in flags:
        os.environ["nvcc_flags"] = f"{flags} {flag} "
    if several and os.environ["use_nccl"] == "0":
        os.environ |= {"use_nccl": "1", "nccl_include_path": str(home / "include"),
                       "nccl_lib_path": str(home / "lib64")}


def _point_to_python_config():
    """Name the python-config of the running Python.

    Jittor looks beside the environment's python, then in /usr/bin.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = sysconfig.get_config_var("BINDIR") or sys.base_prefix
    config = Path(folder) / f"python{version}-config"
    if config.is_file():
        os.environ.setdefault("python_config_path", str(config))


def link_onednn():
    """Show Jittor the environment's oneDNN (from PyPI) where it would look for its own download."""
    home = os.environ.get("JITTOR_HOME", Path.home())
    target = Path(home, ".cache", "jittor", "mkl", ONEDNN_FOLDER)
    if has_onednn(target):
        return
    for prefix in map(Path, (sys.prefix, sys.base_prefix, Path.home() / ".local")):
        if has_onednn(prefix):
            target.mkdir(parents=True, exist_ok=True)
            for name in ("lib", "include"):
                with contextlib.suppress(FileNotFoundError):
                    (target / name).unlink()  # a link into an environment that is gone
                (target / name).symlink_to(prefix / name)
            return
    os.environ["use_mkl"] = "0"
    print("oneDNN is not installed (pip install -r requirements.txt): convolutions will be very "
          "slow", file=sys.stderr)


def has_onednn(folder):
    """Whether a folder has what Jittor compiles and runs convolutions with."""
    return all((folder / name).is_file() for name in ONEDNN_FILES)
