"""Hard use of the runner, in processes of its own: Ctrl-C, kills, two runs at once, full disks, other surroundings."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import processes
import psutil
import pytest
import yaml
from filelock import FileLock
from nbformat.v4 import new_notebook
from tacit.experiments import cache
from tacit.running import execution
from tacit.running.metrics import read_metrics, write_metrics
from tacit.running.staging import promote
from tacit.running.tables import replace_between
from tacit.support import paths
from tacit.support.errors import TacitError
from toys import write_notebook

REPOSITORY = Path(execution.__file__).parents[3]
PARAMETERS = 'n: int = 3  # which\nmeeting: str = ""  # a folder\noutput: str = "outputs/toy"  # where'
# A model in the making that never ends, in the cache and in a kernel; it says which processes these are.
ENDLESS = """
import json, os, pathlib, time
from tacit.experiments import cache

def make(folder):
    (folder / "half").write_text("x")
    said = pathlib.Path(meeting) / f"{n}.partial"
    said.write_text(json.dumps([os.getpid(), os.getppid()]))
    said.rename(said.with_suffix(".json"))
    time.sleep(600)

cache.cached_folder({"n": n}, make)
"""
# Two kernels that wait for each other, want the same entry of the cache, and sign everything that they write.
SIGNED = """
import os, pathlib, time
from tacit.experiments import cache
from tacit.running import metrics
from tacit.support import paths

me, here = str(os.getpid()), pathlib.Path(meeting)

def make():
    (here / f"made by {me}").touch()
    time.sleep(0.5)
    return me

def wait(n, what):
    (here / f"{what} {me}").touch()
    started = time.monotonic()
    while len(list(here.glob(f"{what} *"))) < n:
        assert time.monotonic() - started < 200, "the other run is not there"
        time.sleep(0.01)

wait(2, "begun")
maker = cache.cached_json({"a": 1}, make)
folder = paths.output_folder(output)
(folder / "n1.png").write_text(me)
metrics.write_metrics(folder / "n1.json", {
    "finding": "A finding", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"}, "paper": [],
    "results": [{"arm": "a", "metric": "m", "value": 0.5, "low": 0.0, "high": 1.0, "n_seeds": 1, "n_prompts": n}],
    "figures": ["n1.png"], "details": {"me": me, "maker": maker},
})
print(me)
wait(2, "ended")
"""


# Enough time, after a kernel's end, for what looks after living kernels (once a second) to find it dead.
SLOW_END = """
import asyncio
from jupyter_client import AsyncKernelManager

clean = AsyncKernelManager.cleanup_resources

async def clean_slowly(self, restart=False):
    await asyncio.sleep(2.2)
    await clean(self, restart)

AsyncKernelManager.cleanup_resources = clean_slowly
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the library, whose paths are its own, in a folder with a space and an umlaut in its name."""
    root = tmp_path / "ä project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "lib", root / "lib", ignore=ignored)
    for folder in ("notebooks", "params/toy", "outputs/toy", "meeting"):
        (root / folder).mkdir(parents=True)
    return root


def add_notebook(root, stem, source, *, n=1, profile="toy"):
    write_notebook(root / f"notebooks/{stem}.ipynb", source, parameters=PARAMETERS)
    values = {"n": n, "meeting": str(root / "meeting"), "output": "outputs/toy"}
    text = yaml.safe_dump(values, allow_unicode=True)
    (root / f"params/{profile}/{stem}.yaml").write_text(text, encoding="utf-8")


@pytest.fixture
def start():
    """``begin`` or, with ``by``, another of its kind; what a failed test leaves behind is ended."""
    begun = []

    def start(*arguments, by=begin, **environment):
        begun.append(by(*arguments, **environment))
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() in (None, -signal.SIGKILL):  # killed itself, it may have left others of its group
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def begin(root, *arguments, **environment):
    """``python -m tacit`` in a session of its own, so that a signal to its group goes where a terminal sends Ctrl-C."""
    return begin_command(root, [sys.executable, "-m", "tacit", *arguments], **environment)


def begin_command(root, command, **environment):
    """Any command that runs the library of ``root``, in a session of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TACIT_", "MAKE"))}
    return processes.start(
        command, cwd=root, start_new_session=True, text=True,
        env=inherited | {"PYTHONPATH": str(root / "lib")} | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process, seconds=240):
    """Exit status, standard output and standard error."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def await_files(process, folder, n, seconds=120):
    started = time.monotonic()
    while len(found := sorted(folder.glob("*.json"))) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < seconds, "the notebooks do not run"
        time.sleep(0.05)
    return [json.loads(path.read_text()) for path in found]


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_end(pids, seconds=30):
    started = time.monotonic()
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() - started < seconds, f"processes that nobody ended: {left}"
        time.sleep(0.1)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "to", "sent"),
    [
        (2, os.killpg, signal.SIGINT),  # as a terminal sends Ctrl-C
        (1, os.kill, signal.SIGTERM),  # as a scheduler ends a job
        (2, os.killpg, signal.SIGHUP),  # as a terminal that is closed
    ],
)
def test_what_ends_a_run_leaves_earlier_outputs_and_nothing_else(project, start, jobs, to, sent):
    for i in range(1, jobs + 2):  # one more than run at a time: it must not begin
        add_notebook(project, f"n{i}", ENDLESS, n=i)
        (project / f"outputs/toy/n{i}.json").write_text("earlier")
    before = content(project / "outputs")
    process = start(project, "run", "--profile", "toy", "--jobs", str(jobs))
    pids = [pid for pair in await_files(process, project / "meeting", jobs) for pid in pair]
    to(process.pid, sent)
    status, _, err = finished(process, 60)
    assert status == 130, err
    assert err.strip() == "stopped; finished notebooks, shards and the cache are kept"
    assert not [pid for pid in pids if alive(pid)]
    assert content(project / "outputs") == before
    assert not list(project.rglob(".staging-*"))
    assert list((project / ".cache/entries").iterdir()) == []
    assert len(list((project / "meeting").iterdir())) == jobs


@pytest.fixture
def made(project):
    """``project`` with the repository's Makefile and an environment that is this interpreter."""
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        shutil.copy(REPOSITORY / name, project)
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (project / ".venv/stamp").touch()  # newer than the lock: nothing is installed
    (project / "params/toy").rename(project / "params/micro")
    return project


@pytest.mark.slow
def test_make_in_the_background_of_a_shell_ends_cleanly_at_sigterm(made, start):
    """There SIGINT is ignored, and every process inherits that."""
    jobs = 2
    for i in range(1, jobs + 1):
        add_notebook(made, f"n{i}", ENDLESS, n=i, profile="micro")
    call = processes.ignoring(["make", "findings", f"JOBS={jobs}"])
    process = start(made, call, by=begin_command)
    pids = [pid for pair in await_files(process, made / "meeting", jobs) for pid in pair]
    if sys.platform == "linux":
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(re.search(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)[1], 16) >> (signal.SIGINT - 1) & 1
    process.terminate()
    _, _, err = finished(process, 60)
    assert "stopped; finished notebooks, shards and the cache are kept" in err
    assert "Traceback" not in err
    await_end(pids)
    assert not list(made.rglob(".staging-*"))
    assert list((made / ".cache/entries").iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_says_one_line_even_when_kernels_end_slowly(project, start):
    jobs = 1
    (project / "lib/sitecustomize.py").write_text(SLOW_END)
    for i in range(1, jobs + 1):
        add_notebook(project, f"n{i}", ENDLESS, n=i)
    process = start(project, "run", "--profile", "toy", "--jobs", str(jobs))
    await_files(process, project / "meeting", jobs)
    os.killpg(process.pid, signal.SIGINT)
    status, _, err = finished(process, 60)
    assert status == 130, err
    assert err.strip() == "stopped; finished notebooks, shards and the cache are kept"


@pytest.mark.slow
def test_a_killed_runner_takes_workers_and_kernels_with_it(project, start):
    for i in (1, 2):
        add_notebook(project, f"n{i}", ENDLESS, n=i)
    process = start(project, "run", "--profile", "toy", "--jobs", "2")
    pids = [pid for pair in await_files(process, project / "meeting", 2) for pid in pair]
    process.kill()
    finished(process, 60)
    await_end(pids)
    assert content(project / "outputs") == {}


# ---------------------------------------------------------------- two at once


@pytest.mark.slow
def test_two_runs_at_once_share_the_cache_and_leave_the_outputs_of_one(project, start):
    add_notebook(project, "n1", SIGNED)
    ends = [finished(process) for process in [start(project, "run", "--profile", "toy") for _ in range(2)]]
    assert [status for status, _, _ in ends] == [0, 0], ends
    said = sorted(path.name for path in (project / "meeting").iterdir())
    assert [name.split()[0] for name in said] == ["begun", "begun", "ended", "ended", "made"]
    record = read_metrics(project / "outputs/toy/n1.json")
    me = record["details"]["me"]
    assert record["details"]["maker"] == said[-1].split()[-1]
    assert (project / "outputs/toy/n1.png").read_text() == me
    executed = nbformat.read(project / "outputs/toy/n1.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == me
    assert sorted(path.name for path in (project / "outputs/toy").iterdir()) == ["n1.ipynb", "n1.json", "n1.png"]
    assert len(list((project / ".cache/entries").iterdir())) == 1


@pytest.fixture
def staged(tmp_path):
    """A staging folder with three files and a folder of outputs that holds other versions of two of them."""
    target, staging = tmp_path / "outputs/toy", tmp_path / "outputs/toy/.staging-1"
    staging.mkdir(parents=True)
    for name in ("n1.ipynb", "n1.json", "n1.png"):
        (staging / name).write_text(f"new {name}")
    for name in ("n1.ipynb", "n1.png", "n2.json"):
        (target / name).write_text(f"old {name}")
    return staging, target


def shown(target):
    return {path.name: path.read_text() for path in target.iterdir() if path.is_file()}


def test_promotion_waits_for_another(staged):
    staging, target = staged
    before = shown(target)
    thread = threading.Thread(target=promote, args=(staging, target))
    with FileLock(target.parent / ".toy.lock"):
        thread.start()
        time.sleep(0.3)
        assert shown(target) == before
    thread.join(10)
    assert shown(target) == {name: f"new {name}" for name in ("n1.ipynb", "n1.json", "n1.png")} | {
        "n2.json": "old n2.json"
    }


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_promotion_is_of_all_files_or_none(staged, monkeypatch, failure, step):
    staging, target = staged
    before, replace, steps = shown(target), os.replace, []

    def fail(source, to):
        steps.append(to)
        if len(steps) == step:
            raise failure
        replace(source, to)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(failure)):
        promote(staging, target)
    assert shown(target) == before
    assert len(steps) >= step


# ---------------------------------------------------------------- disks


def fill_disk(patch, part):
    """Writing a text stops half-way, as on a full disk, for files whose name holds ``part``."""
    write = Path.write_text

    def half(path, text, **settings):
        if part not in path.name:
            return write(path, text, **settings)
        write(path, text[: len(text) // 2], **settings)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(Path, "write_text", half)


def test_a_full_disk_leaves_the_earlier_metrics_and_page(tmp_path, monkeypatch):
    row = {"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}
    record = {
        "finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"}, "results": [row],
        "paper": [], "figures": [],
    }  # fmt: skip
    write_metrics(tmp_path / "m.json", record)
    (tmp_path / "README.md").write_text("<a>\nold\n<b>")
    before = content(tmp_path)
    fill_disk(monkeypatch, "")
    with pytest.raises(OSError, match="No space left"):
        write_metrics(tmp_path / "m.json", record | {"claim": "another"})
    with pytest.raises(OSError, match="No space left"):
        replace_between(tmp_path / "README.md", "<a>", "<b>", "new")
    assert content(tmp_path) == before


@pytest.mark.parametrize("part", ["value.json", "entry.json"])
def test_a_full_disk_leaves_no_entry_in_the_cache(tmp_path, monkeypatch, part):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        fill_disk(patch, part)
        with pytest.raises(OSError, match="No space left"):
            cache.cached_json({"a": 1}, lambda: "made")
    assert list((tmp_path / "entries").iterdir()) == []
    assert cache.cached_json({"a": 1}, lambda: "again") == "again"


def test_what_a_killed_maker_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    cache.cached_json({"a": 1}, lambda: "made")
    (entry,) = (tmp_path / "entries").iterdir()
    left = entry.with_name(f".making-{entry.name}")
    entry.rename(left)  # as when the process was killed before its last rename
    (left / "content/half").write_text("x")
    assert cache.cached_json({"a": 1}, lambda: "again") == "again"
    assert [path.name for path in (tmp_path / "entries").iterdir()] == [entry.name]
    assert [path.name for path in (entry / "content").iterdir()] == ["value.json"]


def test_a_disk_that_fills_when_the_manifest_is_added_is_said(tmp_path, monkeypatch):
    """The runner's own writing after the last cell: a message, not a traceback, and the earlier outputs."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "outputs/toy").mkdir(parents=True)
    (tmp_path / "outputs/toy/n1.json").write_text("earlier")
    nbformat.write(new_notebook(cells=[]), tmp_path / "n1.ipynb")

    def execute(source, executed, parameters):
        row = {"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}
        shutil.copy(source, executed)
        write_metrics(executed.with_suffix(".json"), {
            "finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"},
            "results": [row], "paper": [], "figures": [],
        })  # fmt: skip
        fill_disk(monkeypatch, "n1.json")

    monkeypatch.setattr(execution, "_execute", execute)
    with pytest.raises(TacitError, match=r"cannot write the outputs of n1\.ipynb.*No space left"):
        execution.run_notebook(tmp_path / "n1.ipynb", {}, profile="toy", folder="toy")
    assert content(tmp_path / "outputs") == {"toy/n1.json": b"earlier"}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "message"), [("size=16k", "No space left"), ("ro", "Read-only file system")])
def test_a_real_disk_that_is_full_or_read_only_is_said(project, start, options, message):
    add_notebook(project, "n1", "print('x' * 100_000)")
    mounted = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(project / "outputs/toy")]
    if not shutil.which("mount") or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        status, out, err = finished(start(project, "run", "--profile", "toy"))
        assert status == 1
        assert message in out
        assert "Traceback" not in out + err
        assert content(project / "outputs/toy") == {}
    finally:
        subprocess.run(["umount", str(project / "outputs/toy")], check=True)


# ---------------------------------------------------------------- surroundings

NO_NETWORK = """
import pathlib, socket

pathlib.Path(__file__).with_name("loaded").touch()
connect, find = socket.socket.connect, socket.getaddrinfo

def local(host):
    return host is None or str(host).startswith(("127.", "::1", "localhost")) or host == ""

def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not local(address[0]):
        raise OSError(101, "Network is unreachable")
    return connect(self, address)

def lost(host, *arguments, **settings):
    if not local(host):
        raise socket.gaierror(-3, "Temporary failure in name resolution")
    return find(host, *arguments, **settings)

socket.socket.connect, socket.getaddrinfo = refuse, lost
"""


def measured(start, root, **environment):
    """The record of finding 0 at its smoke parameters, run from nothing, without what names the time."""
    shutil.copy(REPOSITORY / "notebooks/00_micro_world.ipynb", root / "notebooks")
    (root / "params/smoke").mkdir()
    shutil.copy(REPOSITORY / "params/smoke/00_micro_world.yaml", root / "params/smoke")
    (root / "outputs/models").symlink_to(REPOSITORY / "outputs/models")
    status, out, err = finished(start(root, "run", "--profile", "smoke", **environment))
    assert status == 0, out + err
    record = read_metrics(root / "outputs/smoke/00_micro_world.json")
    assert {record["manifest"].pop(name) is None for name in ("started", "wall_seconds")} == {False}
    figure = (root / "outputs/smoke/00_micro_world.png").read_bytes()
    notebook = nbformat.read(root / "outputs/smoke/00_micro_world.ipynb", as_version=4)
    assert not [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    return json.dumps(record), figure


@pytest.mark.slow
def test_the_surroundings_do_not_change_a_result(project, start, tmp_path, monkeypatch):
    """Another locale, encoding, time zone, hash seed and path; no network, though the hub may be asked; no GPU."""
    plain = tmp_path / "a project"  # Python cannot name an umlaut in a locale of ASCII
    shutil.copytree(project, plain)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (plain / "site").mkdir()
    (plain / "site/sitecustomize.py").write_text(NO_NETWORK)
    other = {
        "LC_ALL": "C", "PYTHONUTF8": "0", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7",
        "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(plain / "site"), str(plain / "lib")]),
    }  # fmt: skip
    assert measured(start, plain, **other) == measured(
        start, project, HF_HUB_OFFLINE="1", LC_ALL="C.UTF-8", TZ="UTC", PYTHONHASHSEED="0", CUDA_VISIBLE_DEVICES=""
    )
    assert (plain / "site/loaded").exists()
