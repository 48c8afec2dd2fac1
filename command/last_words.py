"""What a process that is killed still says."""
import contextlib
import os
import signal
import subprocess
import sys

# The helper of `last_words`.  Its arguments: the text, and for a rank of mpirun its launcher's
# process number: under this name only one helper speaks.
LISTENER = """import os, socket, sys, time
text, *launcher = sys.argv[1:]
if not sys.stdin.read():
    with socket.socket(socket.AF_UNIX) as name:
        try:
            for number in launcher:
                name.bind("\\0unet-jittor-" + number)
        except OSError:
            sys.exit()
        print(text, file=sys.stderr, flush=True)
        os.closerange(0, 3)
        time.sleep(5 * len(launcher))
"""


@contextlib.contextmanager
def last_words(text, is_rank=False):
    """Print `text` to stderr if this process is killed inside the `with`.

    A helper process notices the end and says it.  The kernel kills a process that takes too much
    memory, and Jittor's own allocator lets it crash: neither leaves it time to speak.
    is_rank: mpirun started this process.  Of its ranks the first one that is killed speaks, and
    mpirun then kills the others.
    """
    launcher = [str(os.getppid())] if is_rank else []
    # blocked until a Ctrl-C cannot be taken for a kill
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with subprocess.Popen([sys.executable, "-S", "-c", LISTENER, text, *launcher], text=True,
                          stdin=subprocess.PIPE, start_new_session=True) as helper:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield
        finally:
            helper.communicate("still here")
