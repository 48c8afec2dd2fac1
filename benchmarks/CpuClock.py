"""Main.py with the CPU time of its process as its clock; `Ablation.py` runs it.

    python benchmarks/CpuClock.py ...           # the flags of Main.py
"""
import runpy
import time
from pathlib import Path

import Root  # noqa: F401 - puts the repository's root on the path

if __name__ == "__main__":
    time.monotonic = time.process_time
    runpy.run_path(str(Path(__file__).resolve().parent.parent / "Main.py"), run_name="__main__")
