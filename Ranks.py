"""Data-parallel training: `mpirun -np N python Main.py ...` starts N processes, the ranks, and deals each batch out to them.

Gradients and BatchNorm's sums go through Jittor's own MPI operators (on GPUs: NCCL), so that N ranks compute what one process
computes with the same batch.  The first rank alone prepares data, writes files and speaks.  Without mpirun, or with one
rank, everything here is the identity, and no MPI is looked for.  docs/scaling.md has the arithmetic.
"""
import contextlib
import io
import os
import pickle
import signal
import sys
import time
import traceback

import numpy as np

import Runtime
from Common import run

# Open MPI tells its processes so, and Jittor knows no other MPI
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))
LAUNCHER = ["mpirun", "-np", str(size)] if size > 1 else []  # the words before a command
PATIENCE = 5  # seconds after the first rank, in which mpirun ends the others, that these keep an error of theirs back

_dealt = None      # of the batch at hand: samples on this rank, those of them that count, samples on all ranks
_agreed_time = 0.0


# --------------------------------------------------------------------------------------------------------- one batch's sums
def deal(indices):
    """(this rank's part of a batch's indices, how many of them count): as many on every rank.

    Where they do not go round, some ranks get one more that counts nowhere: with the same shapes everywhere, Jittor runs
    the ranks' messages in the same order.
    """
    own = list(indices[rank::size])
    return own + list(indices[:-(-len(indices) // size) - len(own)]), len(own)


def begin_step(total):
    """Before a training step on a batch that has so many samples on all ranks."""
    global _dealt
    part, counting = deal(range(total))
    _dealt = len(part), counting, total


def sample_mean(values):
    """The mean of a Var (n, C) over the samples of all ranks, (C,), with its gradient; n: a multiple of `deal`'s."""
    if size == 1:
        return values.mean(0)
    samples, counting, total = _dealt
    counts = np.repeat(np.arange(samples) < counting, len(values) // samples)
    weights = Runtime.start().array((counts / all_samples(len(values))).astype(np.float32))
    return all_sum((values * weights.broadcast(values, [1])).sum(0))


def all_samples(count):
    """How many samples all ranks have where this one has `count`, quadrants among them."""
    return count if size == 1 else count * _dealt[2] // _dealt[0]


def all_sum(var):
    """The sum of a Var over all ranks, with its gradient."""
    return var if size == 1 else var.mpi_all_reduce("add")


# ------------------------------------------------------------------------------------------------------ what all must know
def begin(model):
    """Give all ranks the first one's model and time."""
    if size > 1:
        model.mpi_param_broadcast()
        Runtime.start().sync_all(True)  # now: what a rank runs later may not meet another message of another rank
        agree()


def agree(*numbers):
    """The means of numbers over all ranks, a list; brings `monotonic` up to date.  All ranks have to call it."""
    global _agreed_time
    if size == 1:
        return list(numbers)
    every = Runtime.start().array64(np.array([*numbers, time.monotonic()], np.float64))
    *means, _agreed_time = every.mpi_all_reduce("mean").numpy().tolist()
    return means


def monotonic():
    """`time.monotonic()`, in seconds; with several ranks as it was when they last agreed, the same for all."""
    return _agreed_time if size > 1 else time.monotonic()


def shared(value, source=0):
    """The rank `source`'s value, for all ranks, which all have to call this."""
    if size == 1:
        return value
    broadcast = Runtime.start().mpi.broadcast
    content = np.frombuffer(pickle.dumps(value), np.uint8).copy()
    length = np.array([len(content)], np.int64)
    broadcast(length, source)
    if rank != source:
        content = np.zeros(length[0], np.uint8)
    broadcast(content, source)
    return pickle.loads(content.tobytes())


def gathered(value):
    """Every rank's value, in order of rank, for all ranks."""
    return [shared(value, source) for source in range(size)]


# ------------------------------------------------------------------------------------------------------------ the processes
def wait_for_first():
    """On another rank than the first: wait until that has ended, and mpirun with it this one."""
    while True:
        time.sleep(60)


def command(main):
    """`Common.run(main)`, for a command that mpirun may have started once for each rank; returns the exit code.

    The others say nothing but an error that the first rank has not: mpirun ends them when that ends with an error.
    """
    if size == 1:
        return run(main)
    said = io.StringIO()
    with contextlib.ExitStack() as muted:
        if rank:
            muted.enter_context(contextlib.redirect_stdout(said))
            muted.enter_context(contextlib.redirect_stderr(said))
        try:
            code = run(main)
        except SystemExit as end:
            code = end.code
        except BaseException:  # noqa: BLE001 - an end by MPI's own means would wait for ranks that wait for this one
            traceback.print_exc()
            code = 1
    if code:
        if rank and code != 130:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(PATIENCE)
            print(f"rank {rank}: {said.getvalue().strip()}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
