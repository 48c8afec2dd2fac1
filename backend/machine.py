"""What this machine has: a compiler, CUDA, memory.  Nothing here imports Jittor."""
import contextlib
import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from command.errors import DataError

NO_DEVICE = 100        # CUDA_ERROR_NO_DEVICE
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


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


# ------------------------------------------------------------------------------------- its driver
class Card(NamedTuple):
    """A GPU."""
    name: str
    capability: int  # 90 for compute capability 9.0


class Driver(NamedTuple):
    """NVIDIA's driver, and the GPUs that this process may use."""
    version: int   # the newest CUDA that it knows: 13000 for 13.0
    cards: tuple


class DriverAnswer(NamedTuple):
    """What the driver says: itself, or why there is none to use."""
    driver: Driver | None
    cause: str


def ask_driver():
    """The DriverAnswer of NVIDIA's driver.  Without one that takes no time."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return DriverAnswer(None, "no NVIDIA driver (libcuda.so.1) found")
    error = cuda.cuInit(0)
    if error == NO_DEVICE:
        return DriverAnswer(None, "no NVIDIA GPU found")
    if error:
        return DriverAnswer(None, f"the NVIDIA driver does not answer (CUDA's error {error}); "
                            "after an update of the driver restart the machine")
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if not count.value:
        return DriverAnswer(None, "no NVIDIA GPU found")
    cards = tuple(_card(cuda, k) for k in range(count.value))
    return DriverAnswer(Driver(version.value, cards), "")


def _card(cuda, number):
    device, value = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), number)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    digits = []
    for attribute in CAPABILITY:
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        digits.append(value.value)
    return Card(name.value.decode(errors="replace"), 10 * digits[0] + digits[1])


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


def processor_name():
    """The processor, for people: 'AMD EPYC 7B13, 2 cores'."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = count_cores()
    return f"{model}, {cores} {'core' if cores == 1 else 'cores'}"


def count_cores():
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
