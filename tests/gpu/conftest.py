"""The gate: skipped as a whole where `make gpu-gate` has not installed what it needs."""
import fcntl
from pathlib import Path

import pytest
from gate import Gate, cache_folder


def pytest_collection_modifyitems(items):
    if not Gate(cache_folder()).mark.is_file():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no wheels of NVIDIA's: make gpu-gate"))


@pytest.fixture(scope="session")
def gate():
    """The Gate of this machine, for one session at a time."""
    found = Gate(cache_folder())
    with open(found.mark, "r+") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        yield found
