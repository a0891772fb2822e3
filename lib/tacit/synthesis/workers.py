"""Shards decoded by several processes or machines: Ray Data schedules them and restarts a worker that dies."""

from __future__ import annotations

import json
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch

from tacit.support.errors import TacitError, first_line
from tacit.synthesis.decoder import Decoder
from tacit.synthesis.rows import write_rows
from tacit.synthesis.settings import Settings
from tacit.synthesis.shards import Shards, begin, end

ATTEMPTS = 3  # at one shard; whatever kills a worker so often is no accident


class ShardWorker:
    """One process of Ray's: it loads the pair once, decodes whole shards and writes them itself.

    Whatever goes wrong is returned, as Ray would take it for a broken worker and wrap it in its own. Ray repeats what
    a worker was at when its process died. The folder counts that, and a shard's repetitions end after ``ATTEMPTS``.
    """

    def __init__(self, models: Mapping[str, Any], settings: Settings, shards: Shards, threads: int, most: int):
        if threads:
            torch.set_num_threads(threads)
        self.shards = shards
        with self._explained("loading the pair"):
            if begin(shards.out, "loading") > most:
                raise TacitError(f"workers died {most} times while they loaded the pair: is there too little memory?")
            self.decode = Decoder(models, settings)
            end(shards.out, "loading")
        self.broken = self.error

    @contextmanager
    def _explained(self, what: str):
        self.error = self.trace = ""
        try:
            yield
        except TacitError as error:
            self.error = str(error)
        except Exception as error:
            self.error = f"{what} failed: {type(error).__name__}: {first_line(error)}"
            self.trace = traceback.format_exc()

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, list]:
        """Decode and write the shard of a batch of one: its ``index`` and ``rows`` as JSON; returns the counts."""
        rows: list[dict[str, Any]] = []
        index = int(batch["index"][0])
        name = self.shards.name(index)
        if not self.broken:
            with self._explained(f"making {name}"):
                if begin(self.shards.out, name) > ATTEMPTS:
                    raise TacitError(
                        f"{name}: the worker that made it died, {ATTEMPTS} times in all (of too little memory?): use a "
                        "smaller batch_size or fewer workers; finished shards are kept"
                    )
                rows = self.decode([tuple(row) for row in json.loads(batch["rows"][0])])
                write_rows(self.shards, index, rows)
                end(self.shards.out, name)
        tokens = sum(row["response_tokens"] for row in rows)
        return {"rows": [len(rows)], "tokens": [tokens], "error": [self.error], "trace": [self.trace]}


def _no_ray(error: Exception, address: str | None) -> TacitError:
    """What to do about an error of ``ray.init``. That a token was refused stands only in what the error came from."""
    doing, todo = f"cannot reach Ray at {address}", "check ray_address, or use 1 worker"
    token = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file of the cluster's token"
    if not address:
        doing, todo = "cannot start Ray", "try again, or use 1 worker"
        token = "set RAY_AUTH_TOKEN_PATH to a file with any token, or set RAY_AUTH_MODE=disabled"
    if os.environ.get("RAY_AUTH_TOKEN"):
        token += ", and unset RAY_AUTH_TOKEN, which Ray takes instead of a file"
    cause: BaseException | None = error
    while cause:
        said = f"{type(cause).__name__}: {cause}"
        if "AuthenticationError" in said or "unauthenticated" in said.lower() or "/.ray" in said:  # ~/.ray/auth_token
            why = "the cluster asks for a token that this process did not give" if address else first_line(cause)
            return TacitError(f"{doing}: authentication failed ({getattr(cause, 'message', why)}): {token}")
        cause = cause.__cause__
    return TacitError(f"{doing} ({type(error).__name__}: {first_line(error)}): {todo}")


@contextmanager
def _cluster(address: str | None, *, workers: int):
    """Ray, quiet: at ``address``, or started here and stopped at the end. One that runs here already is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else workers are started by `uv run` where we are
    try:
        import ray
        import ray.data
    except ImportError:
        raise TacitError(
            "workers above 1 need Ray: pip install 'ray[data]' (or the extra tacit[ray]); or use 1 worker"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as ending:
        if address is None:  # in /tmp, as sockets' paths are limited to about 100 characters
            folder = ending.enter_context(TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True))
            options |= {"address": "local", "num_cpus": workers + 1, "include_dashboard": False, "_temp_dir": folder}
        ending.callback(ray.shutdown)
        try:
            at = urlsplit(f"//{(address or '').rpartition('//')[2]}")
            if at.port:  # where nobody listens Ray itself would try for a quarter of an hour
                socket.create_connection((at.hostname, at.port), timeout=30).close()
            ray.init(**options)
        except Exception as error:  # of many kinds; a start that takes too long is a bare Exception
            raise _no_ray(error, address) from error
        yield ray


def _records(done: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a Ray dataset as they come; what Ray itself fails at is a TacitError."""
    try:
        yield from done.iter_rows()
    except Exception as error:  # of Ray's own kinds: no node left, an actor that cannot be started, an object lost
        why = f"{type(error).__name__}: {first_line(error):.300}"
        raise TacitError(f"Ray failed ({why}): finished shards are kept, run the same again") from error


def decode_in_parallel(
    todo: Mapping[int, Sequence],
    *,
    models: Mapping[str, Any],
    settings: Settings,
    shards: Shards,
    tick: Callable[[int, int], None],
) -> None:
    """Decode and write the shards ``todo`` (index -> rows) with ``settings.workers`` processes.

    They share threads or GPUs. ``tick`` is called here with each shard's rows and response tokens. A worker that dies
    is started again and its shards are decoded anew, each ``ATTEMPTS`` times at most. Raises TacitError without Ray,
    and for what a worker could not do, with the shard's name.
    """
    workers, address = settings.workers, settings.ray_address
    items = [{"index": index, "rows": json.dumps(rows)} for index, rows in todo.items()]
    threads = 0 if address else max(1, torch.get_num_threads() // workers)
    with _cluster(address, workers=workers) as ray:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # By default Ray Data starts a dead worker again and repeats its tasks for ever; ShardWorker has the limits.
        context.max_consecutive_actor_init_deaths = 3 * workers
        gpus = ray.cluster_resources().get("GPU", 0)
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardWorker,
            fn_constructor_args=[models, settings, shards, threads, ATTEMPTS * workers],
            batch_size=1,
            concurrency=min(workers, len(items)),
            num_cpus=1,
            num_gpus=1 / ceil(workers / gpus) if gpus else 0,
        )
        for record in _records(done):
            if record["error"]:
                error = TacitError(record["error"])
                if record["trace"]:
                    error.add_note(record["trace"])
                raise error
            tick(record["rows"], record["tokens"])
