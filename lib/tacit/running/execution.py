"""Executing one notebook with papermill: staged outputs, a manifest, and a failed run's notebook kept for reading."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from tacit.running.answers import fill_answer
from tacit.running.metrics import read_metrics, write_metrics
from tacit.running.staging import deepen_links, promote, stage
from tacit.support import paths, provenance
from tacit.support.errors import TacitError

# What a kernel runs: IPython's, with this library first on the path, and without configuration and start-up files.
KERNEL = f"""import sys
sys.path = [{str(paths.LIBRARY.parent)!r}, *filter(None, sys.path)]
from ipykernel.kernelapp import IPKernelApp
IPKernelApp.load_config_file = IPKernelApp._run_startup_files = lambda self, **options: None
IPKernelApp.launch_instance()"""


class OwnKernel(AsyncKernelManager):
    """Starts kernels of this interpreter, whatever is installed as ``python3`` and stands in IPython's profiles."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command of a kernel, whose profile is a new one in the staging folder."""
        own = {"IPYTHONDIR": "$TACIT_STAGING/ipython", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        command = [sys.executable, "-c", KERNEL, "-f", "{connection_file}", "--IPKernelApp.exec_PYTHONSTARTUP=False"]
        local = {"kernel_provisioner": {"provisioner_name": "local-provisioner"}, "supported_encryption": ["curve"]}
        return KernelSpec(argv=command, env=own, language="python", metadata=local)


def _execute(source: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook to ``executed``; raises TacitError unless every code cell completed."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it logs as an error it also raises
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=parameters,
            kernel_name="python3",
            kernel_manager_class=OwnKernel,
            language="python",
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
        which = f"code cell {undone[0]} of {len(cells)} did not complete (does a cell call sys.exit?)"
        raise TacitError(f"{source.name} stopped before its end: {which}")


def _finish(executed: Path, source: Path, record: dict[str, Any], *, folder: str) -> None:
    """Take machine paths and run times out of an executed notebook, and put its answer into its box.

    Its links are made right for ``outputs/<folder>/``.
    """
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata["papermill"] = {"input_path": source.relative_to(paths.ROOT).as_posix()}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "markdown":
            cell.source = deepen_links(cell.source, folder=folder)
    fill_answer(notebook, record)
    nbformat.write(notebook, executed)


def make_manifest(source: Path, parameters: dict[str, Any], *, profile: str) -> dict[str, Any]:
    """What a run is about to execute: parameters, code, versions, seeds. Its kernel adds its device (``made_by``)."""
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


def run_notebook(source: Path, parameters: dict[str, Any], *, profile: str, folder: str) -> dict[str, Any]:
    """Execute one notebook and promote its outputs to ``outputs/<folder>/``; returns its metrics record.

    Nothing there changes unless every cell completed and the metrics are valid; the notebook of a failed
    run is kept in the cache folder for reading. Raises TacitError for any failure.
    """
    started = time.monotonic()
    manifest = make_manifest(source, parameters, profile=profile)  # before: edits during the run are not what ran
    with stage(folder) as staging:
        executed = staging / source.name
        try:
            _execute(source, executed, parameters)
            if not (staging / f"{source.stem}.json").exists():
                raise TacitError(f"{source.name} wrote no metrics: its last cells must call metrics.write_metrics")
            record = read_metrics(staging / f"{source.stem}.json")
            absent = [name for name in record["figures"] if not (staging / name).is_file()]
            if absent:
                raise TacitError(f"{source.name} names the figure {absent[0]} but did not write it")
            _finish(executed, source, record, folder=folder)
            # The kernel's own account counts: lib/ may have been edited before it began, and it has its own threads.
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
