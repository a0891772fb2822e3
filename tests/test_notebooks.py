"""Every notebook runs end to end at its smoke parameters, through the runner."""

from pathlib import Path

import pytest
from tacit import paths, runner
from tacit.metrics import read_metrics

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    failures = runner.run([path.stem], profile="smoke", overrides={})
    assert failures == 0, capsys.readouterr().out
    record = read_metrics(tmp_path / "outputs/smoke" / f"{path.stem}.json")
    assert all((tmp_path / "outputs/smoke" / name).stat().st_size > 1_000 for name in record["figures"])
