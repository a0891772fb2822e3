"""Processes that tests start. They handle signals as by default, whatever the process that runs the tests inherited.

A shell that has no job control starts a command in its background with SIGINT ignored, ``nohup`` starts one with SIGHUP
ignored, and every process inherits what its parent ignores. A test that sends such a signal would wait for nothing.
"""

import signal
import subprocess
from contextlib import contextmanager


def _nothing(signum, frame):
    """A handler, unlike being ignored, is not inherited by the programs that a process starts."""


@contextmanager
def default_signals():
    """Programs started meanwhile handle SIGINT and SIGHUP as by default; this process goes on ignoring them."""
    ignored = [s for s in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(s) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, _nothing)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def start(command, **settings):
    """``subprocess.Popen``, with the default handling of signals."""
    with default_signals():
        return subprocess.Popen(command, **settings)


def run(command, **settings):
    """``subprocess.run``, with the default handling of signals."""
    with default_signals():
        return subprocess.run(command, **settings)


def ignoring(command):
    """``command``, started as a shell starts a command in its background: with SIGINT ignored."""
    return ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
