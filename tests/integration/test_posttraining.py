"""The teacher: which size is taken, what is saved, and what happens when none fits."""

import json

import pandas as pd
import pytest
import torch
from tacit.models.loading import load_model
from tacit.support.errors import TacitError
from tacit.training import posttraining

OPTIONS = {
    "families": ["home", "food"],
    "constraints": ["upper", "brackets"],
    "n_validation": 4,
    "epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_new_tokens": 4,
    "seed": 1,
}


@pytest.fixture
def base(tiny, tokenizer, world, tmp_path):
    folder = tmp_path / "base"
    tiny.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "world.json").write_text(world.to_json())
    return folder


def competence(monkeypatch, shares):
    """Let validation find the given shares of constraints met, one for each size that is tried."""
    left = iter(shares)

    def score(world, prompts, responses):
        assert len(responses) == len(prompts) == OPTIONS["n_validation"]
        return pd.DataFrame({"constraints met": [next(left)], "knowledge": [0.5], "strict": [0.25]})

    monkeypatch.setattr(posttraining, "score_responses", score)


def test_the_first_size_within_the_bounds_is_saved_with_all_that_were_tried(base, tmp_path, monkeypatch):
    competence(monkeypatch, [0.2, 0.7, 0.8])
    out = posttraining.post_train(
        base=str(base), out=tmp_path / "teacher", sizes=[12, 4, 8], least=0.6, most=0.9, **OPTIONS
    )
    record = json.loads((out / "posttraining.json").read_text())
    assert [(row["examples"], row["constraints met"]) for row in record["tried"]] == [(4, 0.2), (8, 0.7)]
    assert record["families"] == OPTIONS["families"]
    assert "70%" in (out / "README.md").read_text()
    tuned, before = load_model(str(out), dtype="auto"), load_model(str(base))
    assert tuned.dtype == torch.bfloat16
    assert any(not torch.equal(a.float(), b) for a, b in zip(tuned.parameters(), before.parameters(), strict=True))
    assert (out / "world.json").read_text() == (base / "world.json").read_text()


def test_without_a_fitting_size_an_earlier_teacher_stays(base, tmp_path, monkeypatch):
    competence(monkeypatch, [0.1, 0.95])
    out = tmp_path / "teacher"
    out.mkdir()
    (out / "mine.txt").write_text("stays")
    with pytest.raises(TacitError, match=r"0\.10 with 4, 0\.95 with 8"):
        posttraining.post_train(base=str(base), out=out, sizes=[4, 8], least=0.6, most=0.9, **OPTIONS)
    assert [path.name for path in tmp_path.glob("teacher*/*")] == ["mine.txt"]
