"""Tests on a GPU: `python -m pytest tests/device`, as `make gpu-check` calls them.

Plain `pytest` does not collect them.  Where Jittor does not start on a GPU, they fail.
"""
import pytest


@pytest.fixture(scope="session", autouse=True)
def gpu():
    """Jittor on the GPU of this machine, in full float32."""
    from backend.start import import_jittor
    return import_jittor("cuda", exact=True)
