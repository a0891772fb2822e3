"""The cache across processes: an edit of the tooling retrains nothing, an edit of the training does."""

import os
import shutil
import sys

import processes
from tacit.support import paths

ASK = """
from pathlib import Path
import tacit
from tacit.experiments.cache import cached_json
assert Path(tacit.__file__).is_relative_to({copy!r}), tacit.__file__
cached_json({{"what": "a trained model"}}, lambda: print("made"))
"""


def test_an_edit_of_the_site_hits_and_an_edit_of_the_training_misses(tmp_path):
    """A process a time, each of which imports a copy of the library as it stands then."""
    copy = shutil.copytree(paths.LIBRARY, tmp_path / "lib" / "tacit", ignore=shutil.ignore_patterns("__pycache__"))

    def ask():
        environment = os.environ | {"PYTHONPATH": str(copy.parent), "TACIT_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-c", ASK.format(copy=str(copy))]
        done = processes.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def edit(name):
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write("# an edit\n")

    assert ask() == "made"
    for name in ("running/site.py", "running/runner.py", "__main__.py"):
        edit(name)
    assert ask() == ""
    edit("training/finetuning.py")
    assert ask() == "made"
