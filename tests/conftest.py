"""Lets the tests import the modules of the repository's root from wherever pytest is started."""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# the tests' nets are tiny: threads that wait actively for the next piece would fight other processes for the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config):
    config.addinivalue_line("markers", "jittor: imports Jittor, which needs a compiler (leave out: -m 'not jittor')")
