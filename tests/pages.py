"""Pages whose commands are run as they stand, in a copy of the repository: page and test cannot drift apart."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import processes

ROOT = Path(__file__).parents[1]
LEFT_OUT = {ROOT: {".git", ".venv", ".cache", ".mypy_cache"}, ROOT / "outputs": {"models", "smoke"}}
NAME = "90_my_finding"  # what the pages call a notebook that is yet to be written; its number is free


def copy_repository(target, *, history=False):
    """The repository in ``target``: the same weights, an empty cache, and this interpreter as ``.venv/bin/python``.

    With ``history``, its commits too, and one more of whatever is not committed here.
    """

    def ignore(folder, names):
        results = {n for n in names if n in ("__pycache__", ".ipynb_checkpoints")}
        results |= {n for n in names if n.endswith((".egg-info", "-custom")) or n.startswith(".staging-")}
        return results | LEFT_OUT.get(Path(folder), set())

    shutil.copytree(ROOT, target, ignore=ignore)
    (target / "outputs/models").symlink_to(ROOT / "outputs/models")
    python = target / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    if history:
        shutil.copytree(ROOT / ".git", target / ".git")
        perform(target, "git add --all -- . ':!outputs/models'; git commit --quiet --allow-empty --message copied")
    return target


def free_name(root):
    """``NAME``, whose number no notebook has: the pages' commands run as they stand."""
    assert not any((root / "notebooks").glob(f"{NAME[:2]}_*"))
    return NAME


def blocks(page, language):
    """What stands in a page's fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def find_row(text, title):
    """The cells, after the first, of a finding's row in a printed table of findings."""
    [row] = re.findall(rf"^\| {re.escape(title)} \|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]


def commands(text):
    """The arguments of every ``python -m tacit ...`` in a page's code, in fenced blocks and in lines."""
    fence = r"^```\w*\n(.*?)^```$"
    fenced = [line for block in re.findall(fence, text, re.M | re.S) for line in block.replace("\\\n", " ").split("\n")]
    spans = [
        " ".join(span.split("\n")) for span in re.findall(r"`([^`]+)`", re.sub(fence, "", text, flags=re.M | re.S))
    ]
    arguments = []
    for code in [*fenced, *spans]:
        for rest in re.split(r"-m tacit\b(?!\.)", code)[1:]:
            words = shlex.shlex(rest, posix=True, punctuation_chars=True)  # ; && | > are words of their own
            words.whitespace_split = True
            words = list(words)
            end = next((i for i, word in enumerate(words) if set(word) <= set("();<>|&")), len(words))
            arguments.append(words[:end])
    return arguments


def perform(root, command, *, cache=None, timeout=600):
    """Run a block of shell commands in the copy, stopping at the first that fails; returns what they printed.

    With ``cache``, trained models and generations are looked for, and kept, in that folder instead of the copy's own.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TACIT_", "PYTEST_"))}
    environment |= {"PYTHONPATH": str(root / "lib"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / ".cache/hf")}
    environment |= {"TACIT_CACHE": str(cache)} if cache else {}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "A", f"GIT_{who}_EMAIL": "a@example.org"}
    environment |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = processes.run(
        ["sh", "-e", "-c", command], cwd=root, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout
