"""The first NVIDIA GPU and its driver, for people.  Nothing here imports Jittor or needs CUDA."""
import contextlib
import subprocess
from typing import NamedTuple, Optional

from backend.cuda_toolkit import cuda_name
from backend.machine import gpu_memory
from command.hardware import ask_driver


class GraphicsCard(NamedTuple):
    """A GPU and its driver."""
    name: str
    memory: int        # bytes
    capability: float  # 9.0: its compute capability
    driver: str        # its version: "580.65.06", or "" where nvidia-smi does not say it
    cuda: str          # the newest CUDA that the driver knows: "13.0"

    def __str__(self):
        return (f"{self.name}, {self.memory / 2 ** 30:.0f} GiB, compute capability "
                f"{self.capability}")


def find_graphics_card() -> Optional[GraphicsCard]:
    """The first GPU, or None where there is none, or no driver that answers."""
    driver, _ = ask_driver()
    if not driver:
        return None
    version = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(question, timeout=20, capture_output=True, text=True, check=True)
        version = answer.stdout.splitlines()[0].strip()
    card = driver.cards[0]
    return GraphicsCard(card.name, gpu_memory(), card.capability / 10, version,
                        cuda_name(driver.version))
