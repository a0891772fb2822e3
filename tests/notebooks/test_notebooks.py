"""Every notebook runs end to end at its smoke parameters, through the runner; some run twice, to the same numbers."""

from pathlib import Path

import pytest
from tacit.running import runner
from tacit.running.metrics import read_metrics
from tacit.support import paths, provenance

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
# Sampled contrasts, students and likelihoods. That a tuned model is the same again: tests/hard_use, with notebook 00.
TWICE = ("10_knowledge_following",)


def smoke(stem, root, monkeypatch, capsys):
    """The metrics and the figures of one run into a folder of its own."""
    monkeypatch.setattr(paths, "OUTPUTS", root / "outputs")
    failures = runner.run([stem], profile="smoke", overrides={})
    assert failures == 0, capsys.readouterr().out
    record = read_metrics(root / "outputs/smoke" / f"{stem}.json")
    figures = {name: (root / "outputs/smoke" / name).read_bytes() for name in record["figures"]}
    assert all(len(image) > 1_000 for image in figures.values())
    # What a reader waits for "Run All", here beside another test; a processor without fast bf16 is an older one.
    assert record["manifest"]["wall_seconds"] < (90 if provenance.cpu_multiplies_bf16() else 300)
    return record, figures


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke(path, tmp_path, shared_cache, monkeypatch, capsys):
    """With the session's cache, which holds what other notebooks made; the second run begins with an empty one."""
    record, figures = smoke(path.stem, tmp_path / "first", monkeypatch, capsys)
    if path.stem in TWICE:
        monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "an empty cache"))
        again, same = smoke(path.stem, tmp_path / "second", monkeypatch, capsys)
        for manifest in (record["manifest"], again["manifest"]):
            # times, and a checkout that may be edited meanwhile
            for name in ("started", "wall_seconds", "commit", "dirty"):
                del manifest[name]
        assert again == record
        assert same == figures
