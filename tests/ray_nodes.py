"""Ray in tests: a cluster of nodes on this machine, started by the commands of docs/many_machines.md."""

import os
import socket
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import processes
import psutil
import pytest
from synthesis_runs import wait_for

RAY = str(Path(sys.executable).with_name("ray"))
ONE_OF_SEVERAL = ["--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]


def quick_imports(folder):
    """A value of PYTHONPATH with which processes import Ray in one second instead of four.

    Ray imports jsonschema, and jsonschema imports rfc3987_syntax where it is installed (Jupyter installs it), which
    compiles a grammar each time. On a busy machine a node then misses Ray's own limit of 15 s for a part of it.
    """
    folder.mkdir()
    (folder / "rfc3987_syntax.py").write_text("raise ImportError('hidden; jsonschema does without it')\n")
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def members(node):
    """The living processes of a node: those of the session that its ``ray start --block`` leads."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == node.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def has_workers(node):
    """Has this node a process that decodes shards?"""
    for process in members(node):
        with suppress(psutil.Error):
            if "ShardWorker" in " ".join(process.cmdline()):
                return True
    return False


def die(node):
    """End a node as a machine without power ends: all of its processes at once, unasked."""

    def kill_all():
        living = members(node)
        for process in living:
            with suppress(psutil.Error):
                process.kill()
        return not living

    wait_for(kill_all, seconds=30)
    node.wait(30)


def begin(name, folder, environment, *options, ending):
    """``ray start`` for one node, with a folder and a session of its own; ``ending`` will kill what is left of it."""
    log = folder / f"{name}.log"
    words = [RAY, "start", *options, *ONE_OF_SEVERAL, "--temp-dir", str(folder / name), "--block"]
    with log.open("w") as file:
        node = processes.start(words, env=environment, stdout=file, stderr=file, start_new_session=True)
    ending.callback(die, node)
    return node, log


def wait_until_started(node, log):
    """Wait for a node, and skip the test where Ray cannot start it within limits that are fixed in Ray's code."""
    wait_for(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None, seconds=180)
    if node.poll() is not None:
        output = log.read_text()
        if "timed out during startup" in output:
            pytest.skip("Ray starts no node here within its own limit, without any code of ours")
        pytest.fail(f"ray start ended with {node.returncode}: {output[-2000:]}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def cluster():
    """A head and two nodes that ask for a token: their ``address``, ``nodes`` and ``environment``."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with ExitStack() as ending:  # in /tmp, as sockets' paths are limited to about 100 characters
        folder = Path(ending.enter_context(TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)))
        plain |= {"PYTHONPATH": quick_imports(folder / "quick"), "RAY_USAGE_STATS_ENABLED": "0"}
        environment = plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "ray_token")}
        made = processes.run(
            [RAY, "get-auth-token", "--generate"], env=plain | {"HOME": str(folder)}, capture_output=True, timeout=120
        )
        assert made.returncode == 0, made.stderr
        (folder / "ray_token").write_bytes(made.stdout)
        port = free_port()
        options = ["--head", "--port", str(port), "--include-dashboard=false"]
        head = begin("head", folder, environment, *options, ending=ending)
        wait_until_started(*head)
        address = f"127.0.0.1:{port}"
        others = [begin(name, folder, environment, "--address", address, ending=ending) for name in ("one", "two")]
        for node in others:
            wait_until_started(*node)
        nodes = [node for node, _ in (head, *others)]
        yield SimpleNamespace(address=address, nodes=nodes, environment=environment)
