"""Every notebook runs end to end at its smoke parameters, through the runner; three of them twice, to the same numbers."""

from pathlib import Path

import pytest
from tacit.running import runner
from tacit.running.metrics import read_metrics
from tacit.support import paths

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
TWICE = ("00_micro_world", "02_response_ranking", "10_knowledge_following")  # tuned; likelihoods; sampled contrasts


def smoke(stem, root, monkeypatch, capsys):
    """The metrics and the figures of one run from nothing, into folders of its own."""
    monkeypatch.setattr(paths, "OUTPUTS", root / "outputs")
    monkeypatch.setenv("TACIT_CACHE", str(root / "cache"))
    failures = runner.run([stem], profile="smoke", overrides={})
    assert failures == 0, capsys.readouterr().out
    record = read_metrics(root / "outputs/smoke" / f"{stem}.json")
    figures = {name: (root / "outputs/smoke" / name).read_bytes() for name in record["figures"]}
    assert all(len(image) > 1_000 for image in figures.values())
    assert record["manifest"]["wall_seconds"] < 90  # what a reader waits for "Run All", here beside another test
    return record, figures


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke(path, tmp_path, monkeypatch, capsys):
    record, figures = smoke(path.stem, tmp_path / "first", monkeypatch, capsys)
    if path.stem in TWICE:
        again, same = smoke(path.stem, tmp_path / "second", monkeypatch, capsys)
        for manifest in (record["manifest"], again["manifest"]):
            # times, and a checkout that may be edited meanwhile
            for name in ("started", "wall_seconds", "commit", "dirty"):
                del manifest[name]
        assert again == record
        assert same == figures
