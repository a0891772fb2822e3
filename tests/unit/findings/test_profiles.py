"""What the profiles of the CoDIT chapter share: its findings are about the same data and students."""

import pytest
import yaml
from tacit.support import paths

SHARED = ("expert", "amateur", "families", "constraints", "n_instructions", "epochs", "batch_size", "learning_rate")


@pytest.mark.parametrize("profile", ["micro", "full"])
@pytest.mark.parametrize("finding", ["08_existing_data", "09_chat_vector", "10_knowledge_following"])
def test_the_other_findings_use_the_cell_and_the_students_of_finding_7(profile, finding):
    first, other = (
        yaml.safe_load((paths.PARAMS / profile / f"{name}.yaml").read_text()) for name in ("07_codit", finding)
    )
    assert [other["alpha"], other["beta"]] == first["chosen"]
    assert {name: other[name] for name in SHARED} == {name: first[name] for name in SHARED}
    assert other.get("temperature", first["temperatures"][0]) in first["temperatures"]
