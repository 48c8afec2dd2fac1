"""Data-parallel training: `mpirun -np N python Main.py ...` starts N processes, the ranks.

Each batch is dealt out to them.  Gradients and BatchNorm's sums go through Jittor's own MPI
operators (on GPUs: NCCL): N ranks compute what one process computes with the same batch.  The
first rank alone prepares data, writes files and speaks.  Without mpirun, or with one rank,
everything here is the identity and no MPI is looked for.  docs/scaling.md has the arithmetic.
"""
import contextlib
import io
import os
import pickle
import signal
import sys
import time
import traceback
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from backend.start import import_jittor
from command.errors import run

PATIENCE_FOR_FIRST = 5  # seconds for which other ranks keep an error back: the first says it


def rank():
    """This process's number, from 0: Open MPI tells it, and Jittor knows no other MPI."""
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))


def size():
    """How many processes train together; 1 without mpirun."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))


def size_here():
    """How many of these processes share this machine's memory."""
    return int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", size()))


def launcher():
    """The words before a command that starts as many ranks: [] for one."""
    return ["mpirun", "-np", str(size())] if size() > 1 else []


# ------------------------------------------------------------------------------ one batch's sums
class Share(NamedTuple):
    """What a rank has of the batch of a step."""
    samples: int   # on this rank
    counting: int  # of these: the others are padding, with weight 0
    total: int     # on all ranks, padding apart


_share = ContextVar("share")  # no default: outside of a step, several ranks have no shares


def deal(indices):
    """(this rank's part of a batch's indices, how many of them count): as many on every rank.

    Where they do not go round, some ranks get one more as padding.  With the same shapes
    everywhere, Jittor runs the ranks' messages in the same order.
    """
    own = list(indices[rank()::size()])
    return own + list(indices[:-(-len(indices) // size()) - len(own)]), len(own)


@contextlib.contextmanager
def step(total):
    """`with step(total):` the forward pass of a training step with `total` samples on all ranks."""
    part, counting = deal(range(total))
    token = _share.set(Share(len(part), counting, total))
    try:
        yield
    finally:
        _share.reset(token)


def sample_mean(values):
    """The mean of a Var (n, C) over the samples of all ranks, (C,), with its gradient.

    n: a multiple of the samples that `deal` gave this rank.
    """
    if size() == 1:
        return values.mean(0)
    share = _share.get()
    counts = np.repeat(np.arange(share.samples) < share.counting, len(values) // share.samples)
    weights = import_jittor().array((counts / all_samples(len(values))).astype(np.float32))
    return all_sum((values * weights.broadcast(values, [1])).sum(0))


def all_samples(count):
    """How many samples all ranks have where this one has `count`, quadrants among them."""
    if size() == 1:
        return count
    share = _share.get()
    return count * share.total // share.samples


def all_sum(var):
    """The sum of a Var over all ranks, with its gradient."""
    return var if size() == 1 else var.mpi_all_reduce("add")


# --------------------------------------------------------------------------- what all must know
def share_model(model):
    """Give all ranks the first one's model."""
    if size() > 1:
        model.mpi_param_broadcast()
        import_jittor().sync_all(True)  # now: no later message of a rank may meet this one


def means(*numbers):
    """The means of numbers over all ranks, a list.  All ranks have to call it."""
    if size() == 1:
        return list(numbers)
    every = import_jittor().array64(np.array(numbers, np.float64))
    return every.mpi_all_reduce("mean").numpy().tolist()


def shared(value, source=0):
    """The rank `source`'s value, for all ranks, which all have to call this."""
    if size() == 1:
        return value
    broadcast = import_jittor().mpi.broadcast
    content = np.frombuffer(pickle.dumps(value), np.uint8).copy()
    length = np.array([len(content)], np.int64)
    broadcast(length, source)
    if rank() != source:
        content = np.zeros(length[0], np.uint8)
    broadcast(content, source)
    return pickle.loads(content.tobytes())


def gathered(value):
    """Every rank's value, in order of rank, for all ranks."""
    return [shared(value, source) for source in range(size())]


# ---------------------------------------------------------------------------------- the processes
def wait_for_first():
    """On another rank than the first: wait until that has ended, and mpirun with it this one."""
    while True:
        time.sleep(60)


def run_rank(main):
    """`command.errors.run(main)` for a command that mpirun may have started once for each rank.

    Returns the exit code.  The other ranks say nothing but an error that the first one has not:
    mpirun ends them when that ends with an error.
    """
    if size() == 1:
        return run(main)
    said = io.StringIO()
    with contextlib.ExitStack() as muted:
        if rank():
            muted.enter_context(contextlib.redirect_stdout(said))
            muted.enter_context(contextlib.redirect_stderr(said))
        try:
            code = run(main)
        except SystemExit as end:
            code = end.code
        except BaseException:  # noqa: BLE001 - MPI's own end would wait for ranks that wait for it
            traceback.print_exc()
            code = 1
    if code:
        if rank() and code != 130:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(PATIENCE_FOR_FIRST)
            print(f"rank {rank()}: {said.getvalue().strip()}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
