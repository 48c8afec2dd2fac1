"""What Jittor needs of this machine: a compiler, memory.  Nothing here imports Jittor."""
import contextlib
import ctypes
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from command.errors import DataError


# ---------------------------------------------------------------------- what Jittor compiles with
def check_home():
    """Raise DataError where Jittor's cache, below the home directory, cannot be written."""
    try:
        home = Path.home()
    except RuntimeError:
        raise DataError("HOME: no home directory; set HOME to a writable folder "
                        "(Jittor compiles into it)") from None
    for folder in {home, Path(os.environ.get("JITTOR_HOME", home))}:
        cache = folder / ".cache" / "jittor"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            probe = cache / f".write-test-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise DataError(f"{cache}: not writable ({error.strerror}), but Jittor compiles into "
                            "it; set HOME to a writable folder") from None


def check_compiler():
    """Raise DataError where g++ or Python's headers are missing."""
    compiler = os.environ.get("cc_path") or "g++"
    if not shutil.which(compiler):
        raise DataError(f"{compiler}: no such compiler, which Jittor needs; install g++ "
                        "(Debian: apt install g++)")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DataError(f"{header}: Python's headers are missing, which Jittor compiles against; "
                        f"install them (Debian: apt install python{version}-dev)")


# ------------------------------------------------------------------------------------- its memory
def free_memory():
    """Bytes of memory that this process may still take, within its container's limit."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            free.append(int(Path(limit).read_text("ascii")))
    return min(free)


def gpu_memory():
    """Bytes of memory of the first NVIDIA GPU.  Its driver is there: `ask_driver` has asked it."""
    driver, device, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return size.value


def is_out_of_memory(error):
    """Whether an exception is a MemoryError, or one of Jittor's or CUDA's allocators'."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "memory" in words or "alloc" in words
