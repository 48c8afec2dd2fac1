"""The first NVIDIA GPU, as its driver describes it.  Nothing here imports Jittor or needs CUDA."""
import contextlib
import ctypes
import os
import subprocess
from typing import NamedTuple, Optional

MAJOR, MINOR = 75, 76  # CUdevice_attribute: compute capability
AMPERE = 8             # the first major capability with TF32


class GraphicsCard(NamedTuple):
    """A GPU and its driver."""
    name: str        # "NVIDIA H100 80GB HBM3"; "GPU" where nvidia-smi does not say it
    memory: int      # bytes
    capability: tuple  # (major, minor)
    driver: str      # its version: "580.65.06", or "" where nvidia-smi does not say it
    cuda: str        # the newest CUDA that it can run: "13.0"

    @property
    def has_tf32(self):
        """Whether convolutions run in TF32 unless that is forbidden."""
        forbidden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
        return self.capability[0] >= AMPERE and not forbidden

    def __str__(self):
        major, minor = self.capability
        return (f"{self.name}, {self.memory / 2 ** 30:.0f} GiB, compute capability {major}.{minor}")


def find_graphics_card() -> Optional[GraphicsCard]:
    """The first GPU, or None where there is none, or no driver that answers."""
    device, size, count = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
    version, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    for number, kind in ((major, MAJOR), (minor, MINOR)):
        driver.cuDeviceGetAttribute(ctypes.byref(number), kind, device)
    name, of_driver = "GPU", ""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version",
                                 "--format=csv,noheader"], timeout=20, capture_output=True,
                                text=True, check=True)
        name, of_driver = map(str.strip, answer.stdout.splitlines()[0].split(","))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return GraphicsCard(name, size.value, (major.value, minor.value), of_driver, cuda)
