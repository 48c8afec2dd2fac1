"""The gate's parts in its cache folder, and a process on the stand-in.

`python tests/gpu/gate.py` ends with exit code 0 where `make gpu-gate` has installed them.
"""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STORE = ("from backend import cuda_proof, kernel_choice; "
         "cuda_proof.store_proof(dict.fromkeys(kernel_choice.CUDA_KERNEL_NAMES, ''))")


def cache_folder():
    """Where `make gpu-gate` keeps what it installs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "unet-jittor" / "gpu-gate"


class Gate:
    """The parts of the gate in its cache folder.

    Its two layouts are 'wheels' (site) and 'toolkit'.
    """

    def __init__(self, folder):
        self.folder = folder
        self.site = folder / "site"          # site-packages: CUDA 13, cuDNN 9, NCCL
        self.cuda12 = folder / "cuda12"      # site-packages: CUDA 12 without nvcc, cuDNN 8
        self.compiler = folder / "compiler"  # Debian's CUDA 12.4
        self.toolkit = folder / "toolkit"    # of these two: a system's toolkit, with cuDNN 8
        self.driver = folder / "driver"      # libcuda.so.1
        self.mark = folder / "installed"     # made last; it says what was installed

    def home(self, layout):
        """HOME of the processes of one layout: what Jittor has compiled for it."""
        return self.folder / f"home-{layout}"

    def environment(self, layout, devices):
        """The environment variables of a process that finds one layout and some devices."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("CUDA", "nvcc", "UNET_JITTOR"))}
        found = {"wheels": {"PYTHONPATH": f"{ROOT}:{self.site}"},
                 "toolkit": {"PYTHONPATH": str(ROOT),
                             "nvcc_path": str(self.toolkit / "bin" / "nvcc")}}[layout]
        tools = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}"  # mpicc of the environment
        return {**kept, **found, "PATH": tools, "HOME": str(self.home(layout)),
                "LD_LIBRARY_PATH": str(self.driver), "STAND_IN_DEVICES": str(devices)}

    def run(self, script, *flags, cwd, layout="wheels", devices=1, through=(), is_proved=True):
        """Run one of the project's scripts to its end; returns the CompletedProcess.

        through: a command that runs the rest of its command line.  is_proved: whether CUDA and our
        kernels count as proved, which the stand-in cannot do; else nothing is known of them.
        """
        environment = self.environment(layout, devices)
        self.home(layout).mkdir(parents=True, exist_ok=True)
        for proof in self.home(layout).glob(".cache/jittor/unet-cuda/proof-*.json"):
            proof.unlink()
        if is_proved:
            subprocess.run([sys.executable, "-c", STORE], cwd=ROOT, env=environment, check=True)
        command = [*through, sys.executable, ROOT / script, *flags]
        return subprocess.run([str(word) for word in command], cwd=cwd, text=True, timeout=3000,
                              env=environment, capture_output=True)


if __name__ == "__main__":
    sys.exit(not Gate(cache_folder()).mark.is_file())
