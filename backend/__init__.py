"""Jittor here: its start, ranks, operators and kernels, optimisers, the layer table."""
