"""Lets the tests import the modules of the repository's root from wherever pytest is started; Jittor as a fixture."""
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# the tests' nets are tiny: threads that wait actively for the next piece would fight other processes for the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


# a shell's background job begins with Ctrl-C ignored, and so would the commands that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def jt():
    from Runtime import jt
    jt.set_global_seed(0)
    return jt


@pytest.fixture(scope="module")
def build(jt):
    from Model import build_model
    return build_model
