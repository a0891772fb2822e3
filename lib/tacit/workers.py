"""Shards decoded by several processes or machines: Ray Data schedules them and restarts a worker that dies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch

from tacit.errors import TacitError


class ShardWorker:
    """One process of Ray's: it loads the pair once, decodes whole shards and writes them itself."""

    def __init__(self, options: Mapping[str, Any], write: Callable[[int, list], None], threads: int):
        from tacit.synthesis import make_decoder

        if threads:
            torch.set_num_threads(threads)
        self.write, self.error = write, ""
        try:
            self.decode = make_decoder(**options)
        except TacitError as error:  # Ray would take it for a broken worker and wrap it in its own
            self.error = str(error)

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, list]:
        """Decode and write the shard of a batch of one: its ``index`` and ``rows`` as JSON; returns the counts."""
        made: list[dict[str, Any]] = []
        try:
            if not self.error:
                made = self.decode([tuple(row) for row in json.loads(batch["rows"][0])])
                self.write(int(batch["index"][0]), made)
        except TacitError as error:
            self.error = str(error)
        tokens = sum(row["response_tokens"] for row in made)
        return {"rows": [len(made)], "tokens": [tokens], "error": [self.error]}


@contextmanager
def _cluster(address: str | None, *, workers: int):
    """Ray, at ``address`` or started here and stopped at the end, as quiet as it can be; a running one is used as it is."""
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
    folder = None
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths are limited to about 100 characters
        options |= {"address": "local", "num_cpus": workers + 1, "include_dashboard": False, "_temp_dir": folder}
    try:
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
            what = (str(error) or type(error).__name__).splitlines()[0]
            raise TacitError(f"cannot reach or start Ray ({what}): check ray_address, or use 1 worker") from error
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def decode_in_parallel(
    todo: Mapping[int, Sequence],
    write: Callable[[int, list], None],
    options: Mapping[str, Any],
    *,
    workers: int,
    address: str | None,
    tick: Callable[[int, int], None],
) -> None:
    """Decode and write the shards ``todo`` (index -> rows) with ``workers`` processes, each with its share of threads or GPUs.

    ``write`` puts down a shard, ``options`` are those of ``synthesis.make_decoder``. A worker that dies is started again and its
    shards are decoded anew, any number of times. Raises TacitError without Ray, and for what a worker could not do.
    """
    items = [{"index": index, "rows": json.dumps(rows)} for index, rows in todo.items()]
    threads = 0 if address else max(1, torch.get_num_threads() // workers)
    with _cluster(address, workers=workers) as ray:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # Ray Data's own defaults start a dead worker again and repeat its tasks without limit; these are for loading the pair:
        context.max_consecutive_actor_init_deaths = 3 * workers
        gpus = ray.cluster_resources().get("GPU", 0)
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardWorker,
            fn_constructor_args=[options, write, threads],
            batch_size=1,
            concurrency=min(workers, len(items)),
            num_cpus=1,
            num_gpus=1 / ceil(workers / gpus) if gpus else 0,
        )
        for record in done.iter_rows():
            if record["error"]:
                raise TacitError(record["error"])
            tick(record["rows"], record["tokens"])
