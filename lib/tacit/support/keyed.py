"""Numbers and hashes fixed by what they are for, the same on every machine (unlike ``hash``)."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fraction(*parts: object) -> float:
    """A number in [0, 1), uniform over keys and fixed by ``parts``."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
