"""A synthesis killed anywhere, in a process of its own: run again it makes the same rows, and no half of it is seen."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import processes
import psutil
import pytest
import ray_nodes
import torch
from synthesis_runs import (
    EXACT,
    INSTRUCTIONS,
    MANY,
    check_mended,
    command,
    contents,
    instructions_file,
    load,
    recorded,
    run,
    wait_for,
    whole_run,
)
from tacit.__main__ import main
from tacit.support.errors import TacitError
from tacit.synthesis import shards

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tacit.synthesis.engine", "synthesis_runs"])


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    return whole_run(pair, tmp_path_factory)


def child(pair, out, rows, options, at):
    """A run in a process of its own that kills itself before it changes files the time ``at``; with None it counts.

    Counted are the beginning of a file, renames and removals; between two of them lies all that a kill could meet.
    """
    torch.set_num_threads(1)
    count, read = 0, Path.open

    def counted(act):
        def wrapper(*arguments, **named):
            nonlocal count
            if act is not read or "xb" in arguments:
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return act(*arguments, **named)

        return wrapper

    for module, name in (
        (os, "replace"),
        (os, "rename"),
        (os, "mkdir"),
        (os, "unlink"),
        (shutil, "rmtree"),
        (Path, "open"),
    ):
        setattr(module, name, counted(getattr(module, name)))
    Path(f"{out}.began").touch()
    run(pair, out, rows, **options)
    Path(f"{out}.count").write_text(str(count))


def start(pair, out, rows=INSTRUCTIONS, *, at=None, **options):
    process = FORK.Process(target=child, args=(pair, out, rows, options, at))
    process.start()
    return process


def check_what_is_seen(out, rows):
    """``load_dataset`` sees all rows or fails."""
    if not (out / "data").exists():
        with pytest.raises((FileNotFoundError, datasets.exceptions.DatasetNotFoundError)):
            load(out)
    else:
        assert load(out).to_list() == rows


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["fresh", "damaged"])
def test_a_run_killed_at_any_file_operation_is_taken_up(pair, tmp_path, damaged):
    rows, options = INSTRUCTIONS[:4], {"max_new_tokens": 4, "shard_size": 2}
    reference = tmp_path / "reference"
    expected = run(pair, reference, rows, **options).to_list()

    def begin(out, at):
        if damaged:
            shutil.copytree(reference, out)
            (out / "data/train-00001-of-00002.parquet").unlink()
        process = start(pair, out, rows, at=at, **options)
        process.join()
        return process.exitcode

    assert begin(tmp_path / "whole", None) == 0
    n = int((tmp_path / "whole.count").read_text())
    assert n > 12
    for at in range(n):
        out = tmp_path / f"killed {at}"
        assert begin(out, at) == -signal.SIGKILL, at
        if not damaged or not (out / "data").exists() or len(list((out / "data").iterdir())) == 2:
            check_what_is_seen(out, expected)
        assert run(pair, out, rows, **options).to_list() == expected, at
        assert contents(out) == contents(reference), at
        assert not list(out.rglob("*.tmp")), at


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_gives_the_same_bytes(pair, tmp_path):
    rows = MANY

    def begin(out):
        process = start(pair, out, rows)
        wait_for(lambda: Path(f"{out}.began").exists() or not process.is_alive())
        return process, time.monotonic()

    process, began = begin(tmp_path / "uninterrupted")
    process.join()
    duration = time.monotonic() - began
    expected = run(pair, tmp_path / "uninterrupted", rows).to_list()
    assert [row["id"] for row in expected] == [row["id"] for row in rows]
    moments, records = random.Random(7), []
    for number in range(10):
        out = tmp_path / f"killed {number}"
        process, _ = begin(out)
        process.join(timeout=moments.uniform(0, duration))
        if process.is_alive():
            process.kill()
            process.join()
            records.append(recorded(out))
        if out.exists():
            check_what_is_seen(out, expected)
        assert run(pair, out, rows).to_list() == expected
        assert contents(out) == contents(tmp_path / "uninterrupted")
        assert not list(out.rglob("*.tmp"))
    assert len(records) >= 5
    print("shards of 16 recorded at each kill:", records)


def hold_still(out, release):
    with shards.hold(out):
        Path(f"{out}.held").touch()
        release.wait(60)


def test_a_second_process_is_refused_while_the_first_is_at_work(pair, whole, tmp_path):
    out, release = tmp_path / "out", FORK.Event()
    process = FORK.Process(target=hold_still, args=(out, release))
    process.start()
    wait_for(Path(f"{out}.held").exists)
    with pytest.raises(TacitError, match="another process is at work in"):
        run(pair, out)
    release.set()
    process.join()
    check_mended(pair, out, whole)


@pytest.mark.slow
def test_the_command_killed_and_run_again(pair, tmp_path, capsys):
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(pair, whole, MANY)
    arguments = command(pair, out, instructions_file(tmp_path, MANY))
    with processes.start([sys.executable, "-m", "tacit", *arguments], stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: recorded(out) >= 2 or process.poll() is not None)
        process.kill()
    assert recorded(out) < 16
    assert not (out / "data").exists()
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "78 rows are in" in output and "tokens/s" in output
    assert contents(out) == contents(whole)
    shutil.rmtree(out)
    assert main([*arguments, "--quiet", "--no-mask", "--beta", "0", "--log-ratios", "tokens", "--no-contrast-end"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert "tokens" in load(out).column_names


def ray_workers():
    """The worker processes of Ray below this one."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ShardWorker" in " ".join(process.cmdline()):
                workers.append(process)
        except psutil.Error:
            continue
    return workers


def ray_starts():
    """Does Ray itself start a node here? A part of it must start in 15 s, which a busy machine can miss."""
    code = "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_the_same_rows(pair, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ray_nodes.quick_imports(tmp_path / "quick"))
    out, killed, lines, over = tmp_path / "out", [], [], threading.Event()
    expected = run(pair, tmp_path / "alone", MANY).to_list()

    def kill():
        workers = []
        while not recorded(out) and not over.wait(0.005):
            workers = workers if len(workers) == 2 else ray_workers()
        if workers:
            workers[0].kill()
            killed.append(recorded(out))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        rows = run(pair, out, MANY, shard_size=1, workers=2, say=lines.append)
    except TacitError as error:
        if "cannot start Ray" not in str(error) or ray_starts():
            raise
        pytest.skip("Ray starts no node here within its own limit, without any code of ours")
    finally:
        over.set()
    killer.join(10)
    print("shards of 78 recorded when a worker was killed:", killed)
    assert len(killed) == 1 and killed[0] < len(MANY)
    assert [[row[c] for c in EXACT] for row in rows.to_list()] == [[row[c] for c in EXACT] for row in expected]
    assert len(list((out / "data").iterdir())) == len(MANY)
    assert lines[-2].startswith("78/78 rows")
    wait_for(lambda: not ray_workers())
    assert "Traceback" not in capfd.readouterr().err
