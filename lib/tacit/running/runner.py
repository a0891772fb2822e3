"""Running planned notebooks, one or several at a time, and saying how far it is."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tacit.running.execution import run_notebook
from tacit.running.plan import choose_notebooks, plan_runs
from tacit.running.tables import findings_table
from tacit.support import paths
from tacit.support.errors import TacitError

Say = Callable[[str], None]
Planned = tuple[Path, dict[str, Any], str]  # a notebook, its complete parameters, its folder of outputs/


def expected_seconds(source: Path, profile: str) -> float | None:
    """How long the notebook took last time in this profile, from its manifest; None when unknown."""
    try:
        text = (paths.OUTPUTS / profile / f"{source.stem}.json").read_text(encoding="utf-8")
        return float(json.loads(text)["manifest"]["wall_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def minutes(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _overlook(signum: int, frame: Any) -> None:
    """Do nothing. A kernel would inherit SIG_IGN and could not be interrupted; a handler leaves it the default."""


def _prepare_worker(threads: int) -> None:
    """Give the kernels of this process ``threads`` threads each, so that they share the cores; end it with its parent.

    What a terminal sends to all processes is for the parent to act on.
    """
    for s in (signal.SIGINT, signal.SIGHUP):
        signal.signal(s, _overlook)
    os.environ["OMP_NUM_THREADS"] = str(threads)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def _stop(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: a second must not cut the cleaning short
    raise KeyboardInterrupt


def _work(path: Path, parameters: dict[str, Any], *, profile: str, folder: str) -> tuple[TacitError | None, float]:
    """``_outcome`` in a worker. SIGTERM ends the kernel, removes the staging folder, then ends the process."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _outcome(path, parameters, profile=profile, folder=folder)
    except KeyboardInterrupt:
        os._exit(130)  # not back to the pool, which would hand this process the next notebook
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Signals get other handlers meanwhile."""
    before = {s: signal.signal(s, handler) for s, handler in handlers.items()}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _ending() -> dict[signal.Signals, Any]:
    """Handlers by which Ctrl-C, a scheduler and a closed terminal end a run; what is ignored (nohup) has no effect."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _stop, signal.SIGHUP: _stop}
    return {s: _overlook if signal.getsignal(s) == signal.SIG_IGN else handler for s, handler in handlers.items()}


def _results(planned: Sequence[Planned], *, profile: str, jobs: int) -> Iterator[tuple[int, TacitError | None, float]]:
    """Run the planned notebooks, ``jobs`` at a time; yield each one's place, failure and seconds as it ends."""
    if jobs == 1:
        for i, (path, parameters, folder) in enumerate(planned):
            yield i, *_outcome(path, parameters, profile=profile, folder=folder)
        return
    # The longest first: the last to end is then a short one, and one of two notebooks makes a model that both share.
    order = sorted(range(len(planned)), key=lambda i: -(expected_seconds(planned[i][0], profile) or float("inf")))
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()  # of who calls this
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # A terminal sends its signals to the workers too. They ignore them from the start: this process ends them.
    with _handled({signal.SIGINT: signal.SIG_IGN, signal.SIGHUP: signal.SIG_IGN}):
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_worker, initargs=(threads,))
        running = {}
        for i in order:
            path, parameters, folder = planned[i]
            running[pool.submit(_work, path, parameters, profile=profile, folder=folder)] = i
    try:
        for future in as_completed(running):
            try:
                yield running[future], *future.result()
            except (BrokenProcessPool, OSError) as error:  # a worker was killed, for memory for example
                failure = TacitError(f"its process ended before it did: {type(error).__name__}: {error}")
                yield running[future], failure, 0.0
    except BaseException:  # Ctrl-C, or an error of the caller, who will not ask for the rest
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(path: Path, parameters: dict[str, Any], *, profile: str, folder: str) -> tuple[TacitError | None, float]:
    started, failure = time.monotonic(), None
    try:
        run_notebook(path, parameters, profile=profile, folder=folder)
    except TacitError as error:
        failure = error
    return failure, time.monotonic() - started


def run_planned(planned: Sequence[Planned], *, profile: str, jobs: int = 1, say: Say = print) -> list[int]:
    """Run notebooks into their folders of ``outputs/``, ``jobs`` at a time, and say how far it is.

    Returns the places in ``planned`` of those that failed. Raises TacitError for fewer jobs than one. SIGTERM and
    SIGHUP (a scheduler, a closed terminal) end it as Ctrl-C does: kernels, workers and staging folders go with it.
    """
    if jobs < 1:
        raise TacitError(f"--jobs must be at least 1, not {jobs}")
    paths.make_cache_root()  # a kernel would find it out in the midst of a notebook
    waiting = {i: expected_seconds(path, profile) for i, (path, _, _) in enumerate(planned)}
    jobs, failed = min(jobs, len(planned)), []
    say(f"{len(planned)} notebooks, {jobs} at a time{_time_left(waiting.values(), jobs)}")
    with _handled(_ending()), closing(_results(planned, profile=profile, jobs=jobs)) as results:
        for done, (i, failure, seconds) in enumerate(results, start=1):
            del waiting[i]
            path, _, folder = planned[i]
            name = ", ".join([path.stem, *folder.split("/")[1:]])
            left = _time_left(waiting.values(), jobs) if waiting else ""
            say(f"[{done}/{len(planned)}] {name}: {'FAILED' if failure else 'done'} in {minutes(seconds)}{left}")
            if failure:
                failed.append(i)
                say(f"    {failure}")
    return failed


def run(names: Sequence[str], *, profile: str, overrides: Mapping[str, str], jobs: int = 1, say: Say = print) -> int:
    """Run notebooks with a profile's parameters, ``jobs`` at a time, and print the table; returns how many failed.

    A run with ``overrides`` writes to ``outputs/<profile>-custom``: what a profile's folder holds is always
    the result of the profile's own parameters. Without ``names``, the notebooks of ``plan.choose_notebooks``.
    """
    folder = f"{profile}-custom" if overrides else profile
    notebooks = choose_notebooks(names, profile=profile, overrides=overrides)
    runs = plan_runs(notebooks, profile=profile, overrides=overrides)
    planned = [(path, parameters, folder) for path, parameters in runs]
    failed = [planned[i][0].stem for i in run_planned(planned, profile=profile, jobs=jobs, say=say)]
    say("")
    beside = "full" if profile == "micro" and (paths.OUTPUTS / "full").is_dir() else None
    say(findings_table([path.stem for path, _, _ in planned], profile=folder, failed=failed, beside=beside))
    smoke = "; the parameters of smoke show that everything runs, and their verdicts mean nothing"
    say(f"\noutputs/{folder}/ has the executed notebooks, metrics and figures{smoke if profile == 'smoke' else ''}")
    return len(failed)


def _time_left(guesses: Collection[float | None], jobs: int) -> str:
    if None in guesses:
        return "; time left not known yet"
    return f"; about {minutes(max(sum(guesses) / jobs, *guesses, 0))} left"
