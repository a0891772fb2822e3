"""Where things lie.

What belongs to the repository is anchored on this file. One rule holds for every relative path that a person gives, in
an option, a parameter or a variable: it counts from the folder where the command was given (``here``); what is to be
read and is not there is looked for from the repository's root, or in the cache (``resolve``).
"""

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


def here() -> Path:
    """The folder where the command was given. A notebook's kernel, which runs elsewhere, is told by ``TACIT_HERE``."""
    return Path(os.environ.get("TACIT_HERE") or Path.cwd())


def cache_root() -> Path:
    """The cache of trained models and generations: ``$TACIT_CACHE``, or ``.cache`` in the repository."""
    return here() / (os.environ.get("TACIT_CACHE") or ROOT / ".cache")


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
    """A path to read: absolute, or from ``here``, or, where nothing is there, from the repository's root.

    What is not ``here`` and begins with ``.cache`` is looked for in ``cache_root``, wherever that is. Raises TacitError
    for a name that no file can have.
    """
    try:
        near, far = _candidates(path)
        return near if near.exists() else far
    except (OSError, ValueError) as error:  # too long, or a null character
        raise TacitError(
            f"no file can be called {str(path)!r:.80}: {getattr(error, 'strerror', None) or error}"
        ) from None


def searched(path: str | Path) -> str:
    """Where ``resolve`` looked for a path, for an error message."""
    return " and ".join(dict.fromkeys(map(str, _candidates(path))))


def _candidates(path: str | Path) -> tuple[Path, Path]:
    parts = Path(path).parts
    return here() / path, cache_root().joinpath(*parts[1:]) if parts[:1] == (".cache",) else ROOT / path


def output_folder(output: str) -> Path:
    """Where a notebook writes: its ``output`` parameter, or during a run the runner's staging folder. Makes it."""
    folder = Path(os.environ.get("TACIT_STAGING") or ROOT / output)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
