"""GGUF files, llama.cpp's format: which file of a folder is read, and what is wrong with one that cannot be.

transformers dequantizes the weights and rebuilds the tokenizer; it needs the package ``gguf`` (extra ``smollm2``).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tacit.support.errors import TacitError, first_line


def find_gguf(folder: Path) -> Path | None:
    """The one GGUF file of a folder that holds no ``config.json``; None where there is none, and for other folders.

    Raises TacitError where there are several: a folder is one model.
    """
    if not folder.is_dir() or (folder / "config.json").is_file():
        return None
    files = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        remedy = "give each model a folder of its own, as one file (llama.cpp's gguf-split --merge joins parts)"
        raise TacitError(f"{folder} holds several GGUF files ({names}): {remedy}")
    return files[0] if files else None


def gguf_options(source: str) -> dict[str, str]:
    """What transformers' ``from_pretrained`` must be told about a folder: ``gguf_file``, or nothing for others.

    Raises TacitError as ``find_gguf`` and ``check_gguf`` do.
    """
    path = find_gguf(Path(source))
    if path is None:
        return {}
    check_gguf(path)
    return {"gguf_file": path.name}


def check_gguf(path: Path) -> None:
    """Raise TacitError unless ``path`` is a whole GGUF file with a tokenizer, whose weights can be dequantized."""
    if importlib.util.find_spec("gguf") is None:
        raise TacitError(f"reading {path} needs the package gguf: pip install -e '.[smollm2]'")
    import gguf

    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise TacitError(f"{path} is no GGUF file: it does not begin with the letters GGUF")
        reader = gguf.GGUFReader(path)
        for tensor in reader.tensors:  # one row of each: is its quantization known?
            gguf.dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], tensor.tensor_type)
    except NotImplementedError:
        what = f"weights of the quantization {tensor.tensor_type.name} (tensor {tensor.name})"
        raise TacitError(f"{path}: {what} cannot be read") from None
    except OSError as error:
        raise TacitError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise TacitError(f"{path} is damaged or cut off: {type(error).__name__}: {first_line(error)}") from None
    if "tokenizer.ggml.tokens" not in reader.fields:
        raise TacitError(f"{path} has no tokenizer: use a file that llama.cpp made for generation")
