"""Tacit: instruction following that a pretrained model already holds, seen, re-run and extended."""

__version__ = "0.1.0"
