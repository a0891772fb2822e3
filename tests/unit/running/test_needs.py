"""What notebooks state that they load: strict, and of parameters that they have."""

import nbformat
import pytest
import toys
from tacit.running.needs import Needs, find_models, find_pairs, read_needs, tuned_models
from tacit.running.parameters import notebook_parameters
from tacit.support import paths
from tacit.support.errors import TacitError

NOTEBOOKS = [*sorted(paths.NOTEBOOKS.glob("*.ipynb")), paths.NOTEBOOKS / "template/finding.ipynb"]
MODELS = (
    "base",
    "bases",
    "expert",
    "amateur",
    "sibling",
    "student",
    "students",
    "teacher",
    "unready",
    "judge",
    "encoder",
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_statement_fits_its_notebooks_parameters(path):
    declared = notebook_parameters(path)
    needs = read_needs(path)
    assert needs.parameters() <= set(declared)
    assert {*MODELS, "sources", "world"} & set(declared) == set(needs.loads)  # none is forgotten
    defaults = {name: parameter.default for name, parameter in declared.items()}
    assert find_models(needs, defaults)
    assert tuned_models(needs, defaults) or not needs.tunes


@pytest.fixture
def state(tmp_path):
    """Reads a notebook with the parameters ``base``, ``seeds`` and others that states what is given."""

    def read(statement):
        path = tmp_path / "n.ipynb"
        toys.write_notebook(path)
        notebook = nbformat.read(path, as_version=4)
        if statement is not None:
            notebook.metadata["tacit"] = statement
        nbformat.write(notebook, path)
        return read_needs(path)

    return read


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (None, "missing"),
        ({"load": {}}, "load: Extra inputs"),
        ({"loads": {"base": "modle"}}, "loads.base"),
        ({"loads": {"bsae": "model"}}, "'bsae' is no parameter"),
        ({"holds": [{"what": "decoding", "models": ["base or bsae"], "dtype": "name"}]}, "'bsae' is no parameter"),
        ({"tunes": [{"model": "base", "arms": ["a"], "dtype": "name"}]}, "'n_train' is no parameter"),
        ({"tunes": [{"model": "base", "arms": ["a"], "each": 3}]}, "tunes.0.each"),
        ({"tunes": [{"model": "base", "arms": ["a"], "each": "choice", "examples": "seeds"}]}, "tunes.0: "),
    ],
)
def test_other_statements_are_refused(state, statement, words):
    with pytest.raises(TacitError, match=r"n\.ipynb, `tacit` in its metadata: ") as caught:
        state(statement)
    assert words in str(caught.value)


def test_a_statement_may_be_of_nothing(state):
    assert state({}) == Needs()


def test_two_models_that_decode_together_are_a_pair():
    held = [{"what": "decoding", "models": ["expert or base", "base"]}, {"what": "a vector", "models": ["base"] * 2}]
    needs = Needs.model_validate({"loads": {"expert": "model", "base": "model"}, "holds": held})
    assert find_pairs(needs, {"expert": "a", "base": "b"}) == [("a", "b")]
    assert find_pairs(needs, {"expert": "", "base": "b"}) == []
