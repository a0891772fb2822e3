"""Executing notebooks with papermill: checked parameters, staged outputs, a manifest, one table."""

from __future__ import annotations

import difflib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock

from tacit.running.metrics import describe_result, find_result, paper_beside, read_metrics, write_metrics
from tacit.running.parameters import complete_parameters, notebook_parameters, read_params, read_yaml
from tacit.running.tables import replace_between, table_row
from tacit.support import paths, provenance
from tacit.support.errors import TacitError

Say = Callable[[str], None]
Planned = tuple[Path, dict[str, Any], str]  # a notebook, its complete parameters, its folder of outputs/


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks called ``names`` (with or without ``.ipynb``, or their number), each once, or all, in order.

    Raises TacitError for a name that no notebook has.
    """
    everything = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    if not names:
        return everything
    chosen = []
    for name in names:
        stem = Path(name).stem if name.endswith(".ipynb") else name
        number = stem.zfill(2) if stem.isdigit() else stem
        hits = [p for p in everything if p.stem == stem or p.stem.split("_")[0] == number]
        if not hits:
            raise TacitError(f"no notebook {name!r}: there are {', '.join(p.stem for p in everything)}")
        chosen += hits
    return list(dict.fromkeys(chosen))


def choose_notebooks(names: Sequence[str], *, profile: str) -> list[Path]:
    """``find_notebooks``; without ``names``, every notebook that the profile has parameters for (all, where it has none)."""
    chosen = find_notebooks(names)
    if names:
        return chosen
    return [path for path in chosen if (paths.PARAMS / profile / f"{path.stem}.yaml").exists()] or chosen


def plan(notebooks: Sequence[Path], *, profile: str, overrides: dict[str, str]) -> list[tuple[Path, dict[str, Any]]]:
    """Every notebook with its complete, checked parameters; raises TacitError before anything runs.

    An override goes to each notebook that has the parameter; one that no notebook has is an error.
    """
    parsed = {}
    for name, text in overrides.items():
        try:
            parsed[name] = read_yaml(text)
        except ValueError:
            raise TacitError(f"-p {name}: {text!r} is not a YAML value") from None
    planned, known = [], set()
    for path in notebooks:
        declared = notebook_parameters(path)
        known |= set(declared)
        here = {name: value for name, value in parsed.items() if name in declared}
        where = f"params/{profile}/{path.stem}.yaml" + (" with -p" if here else "")
        planned.append((path, complete_parameters(path, read_params(profile, path.stem) | here, where=where)))
    refuse_unknown(parsed, known)
    return planned


def refuse_unknown(overrides: Collection[str], known: Collection[str]) -> None:
    """Raise TacitError, naming a near one of the ``known`` parameters, for the first override that is none of them."""
    unknown = next((name for name in overrides if name not in known), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, sorted(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TacitError(f"unknown parameter {unknown!r}: none of the chosen notebooks has it{hint}")


@contextmanager
def _staging(profile: str):
    """A folder beside the outputs; what is left in it at the end is thrown away."""
    target = paths.OUTPUTS / profile
    try:
        target.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=target))
    except OSError as error:
        raise TacitError(
            f"cannot write to outputs/{profile}: {error.strerror}; make the folder writable or free some space"
        ) from None
    before = os.environ.get("TACIT_STAGING")
    os.environ["TACIT_STAGING"] = str(folder)
    try:
        yield folder
    finally:
        os.environ.pop("TACIT_STAGING")
        if before is not None:
            os.environ["TACIT_STAGING"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _execute(source: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook to ``executed``; raises TacitError unless every code cell completed."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it logs as an error it also raises
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=source.parent,
            # Its warning on local sockets, and its traceback when Ctrl-C ends it, say nothing to a reader.
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except KeyboardInterrupt:  # its unfinished tasks find the kernel dead, and nobody is left to retrieve that
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except papermill.PapermillExecutionError as error:
        last = [line for line in str(error).splitlines() if line.strip()][-1]
        raise TacitError(f"{source.name} failed in cell {error.exec_count}: {last}") from error
    except OSError as error:
        raise TacitError(f"{source.name} could not be executed: {error}") from error
    except Exception as error:  # a dead kernel, a missing kernelspec, a protocol error: many kinds, one meaning
        raise TacitError(f"{source.name} could not be executed: {type(error).__name__}: {error}") from error
    cells = [c for c in nbformat.read(executed, as_version=4).cells if c.cell_type == "code"]
    undone = [i for i, c in enumerate(cells, start=1) if c.metadata.get("papermill", {}).get("status") != "completed"]
    if undone:
        raise TacitError(
            f"{source.name} stopped before its end: code cell {undone[0]} of {len(cells)} did not complete (does a cell call sys.exit?)"
        )


def _clean(executed: Path, source: Path) -> None:
    """Take machine paths and run times out of an executed notebook's metadata."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata["papermill"] = {"input_path": source.relative_to(paths.ROOT).as_posix()}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, executed)


def make_manifest(source: Path, parameters: dict[str, Any], *, profile: str) -> dict[str, Any]:
    """What a run is about to execute: parameters, code, versions, seeds. What computes adds its device (``metrics.made_by``)."""
    return {
        "profile": profile,
        "parameters": parameters,
        "seeds": parameters.get("seeds", []),
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "notebook": source.name,
        "notebook_sha256": provenance.file_hash(source),
        "library_sha256": provenance.library_hash(),
        "packages": provenance.packages(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def promote(staging: Path, target: Path) -> None:
    """Move every file of ``staging`` into ``target``, all or none: a full disk or an interrupt puts back what was there.

    Of two runs that promote to the same folder at once one waits, so that a notebook, its metrics and its figures are
    always those of one run. Raises OSError.
    """
    files = sorted(path for path in staging.iterdir() if path.is_file())
    with FileLock(target.parent / f".{target.name}.lock"):
        earlier = Path(tempfile.mkdtemp(dir=staging))
        for path in files:
            if (target / path.name).exists():
                shutil.copy2(target / path.name, earlier)
        try:
            for path in files:
                os.replace(path, target / path.name)
        except BaseException:
            for path in files:
                if (earlier / path.name).exists():
                    os.replace(earlier / path.name, target / path.name)
                elif not path.exists():  # moved, and new there
                    (target / path.name).unlink(missing_ok=True)
            raise


def run_notebook(source: Path, parameters: dict[str, Any], *, profile: str, folder: str) -> dict[str, Any]:
    """Execute one notebook and promote its outputs to ``outputs/<folder>/``; returns its metrics record.

    Nothing there changes unless every cell completed and the metrics are valid; the notebook of a failed
    run is kept in the cache folder for reading. Raises TacitError for any failure.
    """
    started = time.monotonic()
    manifest = make_manifest(source, parameters, profile=profile)  # before: edits during the run are not what ran
    with _staging(folder) as staging:
        executed = staging / source.name
        try:
            _execute(source, executed, parameters)
            if not (staging / f"{source.stem}.json").exists():
                raise TacitError(f"{source.name} wrote no metrics: its last cells must call metrics.write_metrics")
            record = read_metrics(staging / f"{source.stem}.json")
            absent = [name for name in record["figures"] if not (staging / name).is_file()]
            if absent:
                raise TacitError(f"{source.name} names the figure {absent[0]} but did not write it")
            _clean(executed, source)
            # The kernel's own account goes before this process's: lib/ may have been edited since, and threads are each one's.
            record["manifest"] = manifest | record["manifest"] | {"wall_seconds": round(time.monotonic() - started, 1)}
            write_metrics(staging / f"{source.stem}.json", record)
        except (TacitError, OSError) as error:
            with suppress(OSError):  # a full disk must not hide the failure itself
                failed = paths.cache_root() / "failed"
                failed.mkdir(parents=True, exist_ok=True)
                shutil.copy(executed, failed / source.name)
            if isinstance(error, TacitError):
                raise
            raise TacitError(f"cannot write the outputs of {source.name}: {error}") from error
        try:
            promote(staging, paths.OUTPUTS / folder)
        except OSError as error:
            raise TacitError(f"cannot move the outputs of {source.name} into outputs/{folder}: {error}") from error
    return record


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


def _prepare_worker(threads: int) -> None:
    """Give the kernels of this process ``threads`` threads each, so that jobs do not fight over the cores; end it with its parent."""
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
def _handled(handler: Any, *signals: signal.Signals):
    """These signals get another handler meanwhile; one that is ignored stays so (nohup)."""
    before = {s: signal.signal(s, handler) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        for s, handler_before in before.items():
            signal.signal(s, handler_before)


def _results(planned: Sequence[Planned], *, profile: str, jobs: int) -> Iterator[tuple[int, TacitError | None, float]]:
    """Run the planned notebooks, ``jobs`` at a time, and yield each one's place among them as it ends, its failure and its seconds."""
    if jobs == 1:
        for i, (path, parameters, folder) in enumerate(planned):
            yield i, *_outcome(path, parameters, profile=profile, folder=folder)
        return
    # The longest first: the last to end is then a short one, and a model that two notebooks share is made by one of them.
    order = sorted(range(len(planned)), key=lambda i: -(expected_seconds(planned[i][0], profile) or float("inf")))
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()  # of who calls this
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Processes started here ignore what a terminal sends to them too: it is for this one to end them.
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGHUP):
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
                yield (
                    running[future],
                    TacitError(f"its process ended before it did: {type(error).__name__}: {error}"),
                    0.0,
                )
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
    """Run notebooks with their parameters into their folders of ``outputs/``, ``jobs`` at a time, and say how far it is.

    Returns the places in ``planned`` of those that failed. Raises TacitError for fewer jobs than one. SIGTERM and SIGHUP (a
    scheduler, a closed terminal) end it as Ctrl-C does: kernels, workers and staging folders go with it.
    """
    if jobs < 1:
        raise TacitError(f"--jobs must be at least 1, not {jobs}")
    paths.make_cache_root()  # a kernel would find it out in the midst of a notebook
    waiting = {i: expected_seconds(path, profile) for i, (path, _, _) in enumerate(planned)}
    jobs, failed = min(jobs, len(planned)), []
    say(f"{len(planned)} notebooks, {jobs} at a time{_time_left(waiting.values(), jobs)}")
    with (
        _handled(_stop, signal.SIGTERM, signal.SIGHUP),
        closing(_results(planned, profile=profile, jobs=jobs)) as results,
    ):
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


def run(names: Sequence[str], *, profile: str, overrides: dict[str, str], jobs: int = 1, say: Say = print) -> int:
    """Run notebooks with a profile's parameters, ``jobs`` at a time, and print the table; returns how many failed.

    A run with ``overrides`` writes to ``outputs/<profile>-custom``: what a profile's folder holds is always
    the result of the profile's own parameters. Without ``names``, every notebook that the profile has parameters for.
    """
    folder = f"{profile}-custom" if overrides else profile
    planned = [
        (path, parameters, folder)
        for path, parameters in plan(choose_notebooks(names, profile=profile), profile=profile, overrides=overrides)
    ]
    failed = [planned[i][0].stem for i in run_planned(planned, profile=profile, jobs=jobs, say=say)]
    say("")
    say(table([path.stem for path, _, _ in planned], profile=folder, failed=failed))
    smoke = "; the parameters of smoke show that everything runs, and their verdicts mean nothing"
    say(f"\noutputs/{folder}/ has the executed notebooks, metrics and figures{smoke if profile == 'smoke' else ''}")
    return len(failed)


def _time_left(guesses: Collection[float | None], jobs: int) -> str:
    if None in guesses:
        return "; time left not known yet"
    return f"; about {minutes(max(sum(guesses) / jobs, *guesses, 0))} left"


def table(stems: Sequence[str], *, profile: str, failed: Collection[str] = ()) -> str:
    """A Markdown table of the findings whose metrics lie in ``outputs/<profile>/``; ``failed`` runs are marked.

    A paper's value of another metric than the main number's stands in brackets, with the metric's and the arm's name.
    """
    rows = ["| finding | claim holds | main number, 95% interval | paper |", "|---|---|---|---|"]
    for stem in stems:
        path = paths.OUTPUTS / profile / f"{stem}.json"
        if not path.exists():
            rows.append(f"| {stem} | no result yet | | |")
            continue
        try:
            record = read_metrics(path)
        except TacitError as error:
            rows.append(f"| {stem} | unreadable: {error} | | |")
            continue
        arm, metric = record["headline"]["arm"], record["headline"]["metric"]
        main = describe_result(find_result(record, arm=arm, metric=metric))
        beside = paper_beside(record)
        same = all((p["arm"], p["metric"]) == (arm, metric) for p in beside)
        paper = "; ".join(f"{p['value']:.3f}" if same else f"{p['arm']} {p['value']:.3f}" for p in beside)
        if not same:
            paper = f"({beside[0]['metric']}: {paper})"
        holds = ("yes" if record["claim_holds"] else "no") + (
            " (an earlier result: this run failed)" if stem in failed else ""
        )
        rows.append(table_row([record["finding"], holds, main, paper]))
    return "\n".join(rows)


def write_table(readme: Path, *, profile: str) -> None:
    """Replace what stands between the table markers of ``readme`` by the table of ``profile``."""
    stems = [path.stem for path in find_notebooks([])]
    replace_between(readme, f"<!-- table:{profile} -->", "<!-- /table -->", table(stems, profile=profile))
