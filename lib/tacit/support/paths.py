"""Where things lie in the repository: anchored on this file, never on the working directory."""

import os
import tempfile
from pathlib import Path

from tacit.support.errors import TacitError

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "lib" / "tacit"
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
OUTPUTS = ROOT / "outputs"
MODELS = OUTPUTS / "models"


def cache_root() -> Path:
    """The cache of trained models and generations: ``$TACIT_CACHE``, or ``.cache`` in the repository."""
    return Path(os.environ.get("TACIT_CACHE") or ROOT / ".cache")


def make_cache_root() -> Path:
    """Make ``cache_root`` if it is not there. Raises TacitError where it cannot be made or written to."""
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        remedy = "make it writable, or name another by the variable TACIT_CACHE"
        raise TacitError(f"cannot write to the cache {root}: {error.strerror}; {remedy}") from None
    return root


def resolve(path: str | Path) -> Path:
    """A path from a parameters file: absolute, or relative to the repository's root."""
    return Path(path) if Path(path).is_absolute() else ROOT / path


def output_folder(output: str) -> Path:
    """Where a notebook writes: its ``output`` parameter, or during a run the runner's staging folder. Makes it."""
    folder = Path(os.environ.get("TACIT_STAGING") or resolve(output))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
