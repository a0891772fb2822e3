"""Tacit: instruction following that a pretrained language model already holds, seen, re-run and extended."""

__version__ = "0.2.0"


def __getattr__(name: str):
    """``tacit.synthesize``, imported when it is first asked for: ``import tacit`` alone loads no library."""
    if name == "synthesize":
        from tacit.synthesis.engine import synthesize

        return synthesize
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")
