"""Tacit: instruction following that a pretrained language model already holds, seen, re-run and extended."""

import sys

__version__ = "0.2.0"
# jsonschema, which nbformat imports, would build 38 parsers with this package, for seconds, for a format not used here.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def __getattr__(name: str):
    """``tacit.synthesize``, imported when it is first asked for: ``import tacit`` alone loads no library."""
    if name == "synthesize":
        from tacit.synthesis.engine import synthesize

        return synthesize
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")
