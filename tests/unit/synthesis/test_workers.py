"""Workers, in this process: the same rows, every error explained with its shard, deaths counted."""

import contextlib
import os
import socket
import sys
from types import SimpleNamespace

import pytest
from synthesis_runs import INSTRUCTIONS, OPTIONS, RayHere, run, whole_run
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.synthesis import decoder, shards, workers
from tacit.synthesis.engine import synthesize
from tacit.synthesis.settings import Settings
from tacit.synthesis.shards import Shards
from tacit.synthesis.workers import decode_in_parallel


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    return whole_run(pair, tmp_path_factory)


def test_an_error_in_a_worker_is_the_same_error(pair, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_cluster", lambda *_, **__: contextlib.nullcontext(RayHere))
    assert run(pair, tmp_path / "fine", workers=2).to_list() == whole[1]
    other = str(paths.MODELS / "micro-base")
    with pytest.raises(TacitError, match="vocabularies differ"):
        synthesize(pair["expert"], other, INSTRUCTIONS[:3], out=tmp_path / "other", workers=2, **OPTIONS)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TacitError, match="No space left on device"):
        decode_in_parallel(
            {0: [("a", "Hi")]},
            models=pair,
            settings=Settings(max_new_tokens=2, workers=2),
            shards=Shards(tmp_path / "fine", ["a"], "b"),
            tick=lambda *_: None,
        )


PARALLEL = {"models": {}, "settings": Settings(workers=2), "shards": None, "tick": None}


def test_without_ray_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TacitError, match=r"pip install 'ray\[data\]'"):
        decode_in_parallel({0: [("a", "Hi")]}, **PARALLEL)


def failing_ray(monkeypatch, error):
    """Ray that ``init`` cannot reach or start; somebody listens at every address."""

    def init(**options):
        assert options["address"] != "far:6379" or "num_cpus" not in options
        raise error

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None, data=None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: SimpleNamespace(close=lambda: None))


def message(address):
    with pytest.raises(TacitError) as error:
        decode_in_parallel({0: [("a", "Hi")]}, **PARALLEL | {"settings": Settings(workers=2, ray_address=address)})
    return str(error.value)


def test_an_unreachable_cluster_is_explained(monkeypatch):
    failing_ray(monkeypatch, ConnectionError("Failed to connect"))
    unreachable = "cannot reach Ray at far:6379 ({}): check ray_address, or use 1 worker"
    assert message("far:6379") == unreachable.format("ConnectionError: Failed to connect")
    assert "far:port (ValueError: Port could not be cast" in message("far:port")
    asked = []

    def refuse(at, *, timeout):
        asked.append(at)
        raise ConnectionRefusedError("nobody there")

    failing_ray(monkeypatch, AssertionError("asked Ray, which tries for a quarter of an hour"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert message("far:6379") == unreachable.format("ConnectionRefusedError: nobody there")
    assert "check ray_address" in message("ray://[::1]:10001")
    assert asked == [("far", 6379), ("::1", 10001)]


def test_a_failed_authentication_is_named_with_the_variables_to_set(monkeypatch):
    monkeypatch.setitem(sys.modules, "rfc3987_syntax", None)  # see ray_nodes.quick_imports
    from ray.exceptions import AuthenticationError  # before Ray is replaced

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    refused = RuntimeError(
        "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n"
        "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect."
    )
    outer = ConnectionError("Failed to connect to Ray cluster at far:6379")
    outer.__cause__ = refused
    failing_ray(monkeypatch, outer)
    assert message("far:6379") == (
        "cannot reach Ray at far:6379: authentication failed (the cluster asks for a token that this process did not "
        "give): set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file of the cluster's token"
    )
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of yesterday")
    assert message("far:6379").endswith(" and unset RAY_AUTH_TOKEN, which Ray takes instead of a file")
    failing_ray(monkeypatch, RuntimeError("StatusCode.UNAUTHENTICATED"))
    assert "authentication failed (the cluster asks for a token" in message("ray://far:10001")
    unreadable = "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /no/token"
    failing_ray(monkeypatch, AuthenticationError(unreadable))
    assert f"at far:6379: authentication failed ({unreadable}): set RAY_AUTH_MODE=token" in message("far:6379")
    here = f"cannot start Ray: authentication failed ({unreadable}): set RAY_AUTH_TOKEN_PATH to a file with any token"
    assert message(None).startswith(here)


def test_what_keeps_ray_from_starting_here_is_explained(monkeypatch):
    failing_ray(monkeypatch, Exception("The current node timed out during startup.\nmore"))
    busy = "cannot start Ray (Exception: The current node timed out during startup.): try again, or use 1 worker"
    assert message(None) == busy
    failing_ray(monkeypatch, PermissionError(13, "Permission denied", "~/.ray/auth_token"))
    assert "'~/.ray/auth_token'): set RAY_AUTH_TOKEN_PATH" in message(None)
    assert "or set RAY_AUTH_MODE=disabled" in message(None)


class Died(BaseException):
    """What ends a worker's process, in this one."""


BATCH = {"index": [1], "rows": ['[["a", "Hi"]]']}


def worker(out, *, most=3):
    return workers.ShardWorker({}, Settings(), Shards(out, ["a", "b"], "run"), 0, most)


def test_a_shard_whose_worker_always_dies_is_given_up_by_name(tmp_path, monkeypatch):
    deaths = []

    def decode(rows):
        deaths.append(rows)
        raise Died

    monkeypatch.setattr(workers, "Decoder", lambda *_: decode)
    with shards.hold(tmp_path / "out"):
        for _ in range(3):
            with pytest.raises(Died):
                worker(tmp_path / "out")(BATCH)
        record = worker(tmp_path / "out")(BATCH)
    assert len(deaths) == 3
    assert record["rows"] == [0]
    assert "train-00001-of-00002.parquet: the worker that made it died, 3" in record["error"][0]
    monkeypatch.setattr(workers, "Decoder", lambda *_: lambda rows: [{"response_tokens": 5}])
    monkeypatch.setattr(workers, "write_rows", lambda *_: None)
    with shards.hold(tmp_path / "out"):  # a new run tries anew, and deaths count only until a shard is made
        for _ in range(5):
            assert worker(tmp_path / "out")(BATCH) == {"rows": [1], "tokens": [5], "error": [""], "trace": [""]}


def test_workers_that_die_while_they_load_are_given_up(tmp_path, monkeypatch):
    def load(*_):
        raise Died

    monkeypatch.setattr(workers, "Decoder", load)
    with shards.hold(tmp_path / "out"):
        for _ in range(6):
            with pytest.raises(Died):
                worker(tmp_path / "out", most=6)
        assert "died 6 times" in worker(tmp_path / "out", most=6)(BATCH)["error"][0]


def test_any_error_in_a_worker_is_explained_with_its_shard(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_cluster", lambda *_, **__: contextlib.nullcontext(RayHere))

    def fail(*_, **__):
        raise RuntimeError("out of memory\nat length")

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "generate_responses", fail)
        with pytest.raises(
            TacitError, match=r"making train-00000-of-00003\.parquet failed: RuntimeError: out of memory"
        ) as e:
            run(pair, tmp_path / "out", workers=2)
        assert "\n" not in str(e.value) and "in fail" in e.value.__notes__[0]
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "load_pair", fail)
        with pytest.raises(TacitError, match=r"loading the pair failed: RuntimeError: out of memory\n"):
            run(pair, tmp_path / "out", workers=2)
    monkeypatch.setattr(RayHere.data, "map_batches", lambda *_, **__: SimpleNamespace(iter_rows=fail))
    with pytest.raises(TacitError, match=r"Ray failed \(RuntimeError: out of memory\): finished shards are kept"):
        run(pair, tmp_path / "out", workers=2)
