"""The repository keeps its own promises: pins, profiles, sources and outputs."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import processes
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tacit.running import verify
from tacit.running.metrics import read_metrics
from tacit.running.parameters import complete_parameters, notebook_parameters, read_first_params, read_params
from tacit.running.plan import WHOLE, was_run
from tacit.support import paths, provenance

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted(p.name for p in (ROOT / "params").iterdir())
RAN = (*WHOLE, "smollm2-135m")  # whose outputs are committed; the README has tables of the last two
REAL = ("20_real_model",)  # about real models: not in micro


def locked():
    lines = (ROOT / "requirements.lock").read_text().split()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^=]+", line) for line in lines)
    return dict(line.split("==") for line in lines)


def test_lock_pyproject_and_environment_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock = {canonicalize_name(k): v for k, v in locked().items()}
    groups = project["project"]["optional-dependencies"]
    # two judges' packages conflict with versions locked here: their tests skip, or run in environments of their own
    extras = [r for name, group in groups.items() if name not in ("alpaca", "ifeval") for r in group]
    for text in project["project"]["dependencies"] + extras:
        requirement = Requirement(text)
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), text
    assert lock["torch"] == "2.13.0"
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(line for line in conda if line.startswith("python=")).removeprefix("python=")
    assert Requirement(f"python{project['project']['requires-python']}").specifier.contains(f"{python}.0")
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["image"] == f"python:{python}"
    made = re.fullmatch(r"make (\.venv/stamp)", container["postCreateCommand"])[1]
    rule = re.search(r"^\$\(VENV\)/stamp: (.*)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "VENV := .venv\n" in (ROOT / "Makefile").read_text() and made == ".venv/stamp"
    assert "requirements.lock" in rule[1].split()
    assert "-r requirements.lock" in rule[2] and "-e ." in rule[2]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_locked_version_runs_on_this_python(python):
    from importlib import metadata

    for name in locked():
        wanted = metadata.metadata(name).get("Requires-Python")
        assert wanted is None or Requirement(f"python{wanted}").specifier.contains(f"{python}.99"), (name, wanted)


def test_no_syntax_is_newer_than_the_oldest_python():
    """Of the grammar, as far as ``ast`` tells versions apart (not f-strings, which 3.12 reads in another way)."""
    for path in [*(ROOT / "lib").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "docs/conf.py"]:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                ast.parse(cell.source, feature_version=(3, 11))


def test_the_lock_is_complete():
    """Every requirement of every locked distribution that applies here is locked too, in a version it accepts."""
    from importlib import metadata

    lock = {canonicalize_name(k): v for k, v in locked().items()}
    for name in lock:
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            wanted = canonicalize_name(requirement.name)
            if wanted.startswith(("nvidia-", "cuda-", "triton")):
                continue  # torch's CUDA build pins these itself; the CPU build has none
            assert wanted in lock, f"{name} needs {wanted}, which the lock lacks"
            assert requirement.specifier.contains(lock[wanted], prereleases=True), f"{name} needs {requirement}"


def defined(source):
    """The lines of each function and class that a cell defines; a class counts as too long."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [["class"] * 99 for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return [source.splitlines()[node.lineno - 1 : node.end_lineno] for node in functions] + classes


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_sources_have_no_outputs_and_every_profile_is_complete(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert all(len(lines) <= 20 for lines in defined(cell.source)), "logic lives in lib/"
    for profile in PROFILES:
        # Which of the papers' profiles has which notebooks is test_paper_scale's to say.
        here = profile == "smoke" or (profile == "micro" and path.stem not in REAL)
        if here or (ROOT / "params" / profile / f"{path.stem}.yaml").exists():
            complete_parameters(path, read_params(profile, path.stem), where=profile)
    defaults = {name: p.default for name, p in notebook_parameters(path).items()}
    assert defaults == read_params("smoke", path.stem)
    assert all(p.meaning for p in notebook_parameters(path).values())


@pytest.mark.parametrize("profile", RAN)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_are_whole(path, profile):
    if not (paths.PARAMS / profile / f"{path.stem}.yaml").exists():
        assert profile != "micro" or path.stem in REAL
        pytest.skip(f"no parameters in {profile}")
    if profile not in WHOLE and path.stem not in REAL and not was_run(path.stem, profile=profile):
        pytest.skip(f"parameters for others to run: no outputs in {profile}")
    assert verify.output_faults(path, profile=profile) == []


@pytest.mark.parametrize("profile", RAN)
def test_verify_finds_no_fault_in_this_repository(profile):
    """`python -m tacit verify` as a user runs it; with no history here, all of it but the commits."""
    done = processes.run(
        [sys.executable, "-m", "tacit", "verify", "--profile", profile], cwd=ROOT, capture_output=True, text=True
    )
    faults = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    if provenance.commit() == "unknown" or provenance.is_shallow():
        assert [
            line for line in faults if "HEAD has no ancestor" not in line and "git does not answer" not in line
        ] == []
        pytest.skip("git or the clone's history is missing here: outputs were checked, not the commits that they name")
    assert (faults, done.returncode) == ([], 0), done.stderr


@pytest.mark.parametrize("name", ["micro-base", "micro-student", "micro-sibling"])
def test_committed_models_say_what_they_are(name):
    folder = paths.MODELS / name
    record = json.loads((folder / "pretraining.json").read_text())
    assert record["commit"] != "unknown"
    assert record["held_out_loss"] < 1.0
    assert sum(p.stat().st_size for p in folder.iterdir()) < 15e6


def test_the_teacher_is_made_from_the_base_at_partial_competence():
    from tacit.support import provenance

    folder = paths.MODELS / "micro-teacher"
    record = json.loads((folder / "posttraining.json").read_text())
    assert record["base_weights"] == provenance.file_hash(paths.MODELS / "micro-base" / "model.safetensors")
    assert record["least"] <= record["tried"][-1]["constraints met"] <= record["most"]
    for name in ("07_codit", "08_existing_data", "09_chat_vector", "10_knowledge_following", "11_two_papers"):
        values = read_params("micro", name)
        assert values["families"] == record["families"]
        assert set(values["constraints"]) <= set(record["constraints"])
    assert sum(p.stat().st_size for p in folder.iterdir()) < 15e6


@pytest.mark.parametrize("profile", ["micro", "full"])
@pytest.mark.parametrize("name", ["08_existing_data", "09_chat_vector", "10_knowledge_following"])
def test_the_findings_of_codit_use_the_cell_and_the_students_of_finding_7(name, profile):
    selected = read_metrics(ROOT / f"outputs/{profile}/07_codit.json")["details"]
    values = read_params(profile, name)
    assert (values["alpha"], values["beta"]) == (selected["alpha"], selected["beta"])
    shared = (
        "n_instructions",
        "epochs",
        "learning_rate",
        "batch_size",
        "schedule",
        "warmup",
        "max_new_tokens",
        "constraints",
    )
    first = read_params(profile, "07_codit")
    assert {k: values[k] for k in shared} == {k: first[k] for k in shared}


def test_the_models_corpora_hold_partly_other_facts():
    from tacit.microworld.world import read_world

    base, student = (read_world(paths.MODELS / name / "world.json") for name in ("micro-base", "micro-student"))
    assert base.facts == student.facts
    assert base.held - student.held
    assert student.held - base.held


def test_pages_show_the_tables_of_the_outputs(monkeypatch):
    assert re.findall("<!-- table:(.*) -->", (ROOT / "README.md").read_text()) == ["full", "smollm2-135m"]
    assert verify.table_faults("full") == verify.table_faults("smollm2-135m") == []
    monkeypatch.syspath_prepend(ROOT / "tests/speed")
    import tables

    made = tables.make_tables(paths.OUTPUTS / "bench")
    page = (ROOT / "docs/speed.md").read_text()
    assert made.keys() == {"bench", "gpu", "peer"}
    for marker, text in made.items():
        assert re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", page, re.DOTALL)[1].strip() == text.strip()


def test_readiness_records_are_those_of_the_parameters():
    from tacit.findings import readiness

    values = read_first_params(("full", "micro"), "06_readiness")
    for path in values["bases"]:
        record = readiness.read_measurement(path)
        assert record["base"] == Path(path).stem
        assert record["settings"] == readiness.choose_settings(values), path
        assert record["made_with"]["commit"] != "unknown"
    assert {Path(path).stem for path in values["bases"]} == {p.stem for p in (ROOT / "outputs/readiness").iterdir()}
    assert sum(p.stat().st_size for p in (ROOT / "outputs/readiness").iterdir()) < 2e6
