"""The processor and the GPUs of this machine."""
import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import NamedTuple

NO_DEVICE = 100        # CUDA_ERROR_NO_DEVICE
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


# ---------------------------------------------------------------------------------- the processor
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


# --------------------------------------------------------------------------------------- the GPUs
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
