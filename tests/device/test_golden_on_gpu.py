"""The golden numbers that PyTorch computed, on a GPU: the tests of tests/test_golden.py."""
from test_golden import test_the_numbers_are_pytorchs

__all__ = ["test_the_numbers_are_pytorchs"]
