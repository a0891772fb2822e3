"""Every notebook runs end to end at its smoke parameters, through the runner.

That a second run gives the same numbers is seen in ``tests/hard_use`` (notebook 00, and syntheses).
"""

from pathlib import Path

import pytest
from tacit.running import runner, verify
from tacit.running.metrics import read_metrics
from tacit.running.parameters import read_notebook
from tacit.support import paths, provenance

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke(path, tmp_path, shared_cache, monkeypatch, capsys):
    """With the session's cache, which holds what other notebooks made."""
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    failures = runner.run([path.stem], profile="smoke", overrides={})
    assert failures == 0, capsys.readouterr().out
    record = read_metrics(tmp_path / "outputs/smoke" / f"{path.stem}.json")
    assert all((tmp_path / "outputs/smoke" / name).stat().st_size > 1_000 for name in record["figures"])
    executed = read_notebook(tmp_path / "outputs/smoke" / path.name)
    assert verify.execution_faults(executed, name=path.stem) == []
    assert verify.answer_faults(executed, record, name=path.stem) == []
    # What a reader waits for "Run All", here beside another test; a processor without fast bf16 is an older one.
    assert record["manifest"]["wall_seconds"] < (90 if provenance.cpu_multiplies_bf16() else 300)
