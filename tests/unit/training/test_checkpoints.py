"""Checkpoints written whole, and never over what is not theirs."""

import pytest
from tacit.support.errors import TacitError
from tacit.training.checkpoints import save_checkpoint


def test_a_checkpoint_is_not_written_over_what_came_meanwhile(tiny, tokenizer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(TacitError, match=r"the tuned model is in .*out\.partial"):
        save_checkpoint(tmp_path / "out", tiny, tokenizer, {}, replace=False)
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    assert (tmp_path / "out.partial" / "model.safetensors").is_file()
