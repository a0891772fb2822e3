"""``tacit verify`` on a made-up repository: silent when all is well, and one line for each fault injected."""

import hashlib
import json
import subprocess
import zlib

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tacit.__main__ import main
from tacit.running import plan, tables, verify
from tacit.running.answers import write_answer
from tacit.support import paths

VALUES = {"n": 4, "rate": 0.25, "name": 'a "b"', "base": None, "flag": True, "epochs": {"x": [1, 2]}, "output": "o"}
CELLS = {"n": "int", "rate": "float", "name": "str", "base": "str | None", "flag": "bool"}
CELLS |= {"epochs": "dict[str, list[int]]", "output": "str"}
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 50 + b"IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")


def absolute(*parts):
    """A path of some machine; not written out, since none belongs into this repository."""
    return "/" + "/".join(parts)


HOME, TEMPORARY, WORKING = absolute("home", "somebody", "x"), absolute("tmp", "x"), absolute("work", "x")


def git(root, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def library_sha256(root):
    """By hand: names and hashes of the two files, a folder's file before the file whose name begins like its own."""
    lines = [f"{n}\0{sha256((root / 'lib/tacit' / n).read_bytes())}\0" for n in ("a/b.py", "a.py")]
    return sha256("".join(lines).encode())


def read(path):
    return nbformat.read(path, as_version=4)


def edit_json(root, change):
    path = root / "outputs/toy/n1.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def edit_notebook(root, change, where="outputs/toy/n1.ipynb"):
    notebook = read(root / where)
    change(notebook)
    nbformat.write(notebook, root / where)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """One notebook, its parameters, a library of two files, a commit of these, and outputs that name the commit."""
    root = tmp_path / "a repository"
    for folder in ("lib/tacit/a", "notebooks", "params/toy", "outputs/toy"):
        (root / folder).mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "LIBRARY", root / "lib/tacit")
    for name in ("NOTEBOOKS", "PARAMS", "OUTPUTS"):
        monkeypatch.setattr(paths, name, root / name.lower())
    (root / "lib/tacit/a.py").write_text("x = 1\n")
    (root / "lib/tacit/a/b.py").write_text("y = 'é'\n", encoding="utf-8")
    (root / "lib/tacit/notes.txt").write_text("no code")
    (root / "README.md").write_text("# Toy\n")
    parameters = "\n".join(f"{name}: {kind} = {VALUES[name]!r}" for name, kind in CELLS.items())
    cells = [
        new_markdown_cell("# A finding"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell("print(n)"),
    ]
    nbformat.write(new_notebook(cells=cells), root / "notebooks/n1.ipynb")
    (root / "params/toy/n1.yaml").write_text(yaml.safe_dump(VALUES))
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")

    executed = read(root / "notebooks/n1.ipynb")
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in VALUES.items())
    executed.cells.insert(2, new_code_cell(injected, metadata={"tags": ["injected-parameters"]}))
    for count, cell in enumerate((c for c in executed.cells if c.cell_type == "code"), start=1):
        cell.execution_count = count
    image = {"image/png": f"aaa{TEMPORARY}aaa", "text/plain": "<Figure>"}
    executed.cells[-1].outputs = [
        new_output("stream", name="stdout", text=f"4 and/or https://example.org{absolute('home', 'x')}"),
        new_output("display_data", data=image),
    ]
    nbformat.write(executed, root / "outputs/toy/n1.ipynb")
    (root / "outputs/toy/n1.png").write_bytes(PNG)
    row = {"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}
    record = {
        "finding": "A finding", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"},
        "results": [row], "paper": [], "figures": ["n1.png"],
        "manifest": {
            "parameters": VALUES, "commit": git(root, "rev-parse", "HEAD"), "dirty": False,
            "notebook_sha256": sha256((root / "notebooks/n1.ipynb").read_bytes()),
            "library_sha256": library_sha256(root),
        },
    }  # fmt: skip
    (root / "outputs/toy/n1.json").write_text(json.dumps(record))
    (root / "README.md").write_text("# Toy\n<!-- table:toy -->\n<!-- /table -->\n")
    tables.write_findings_table(root / "README.md", ["n1"], profile="toy")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "outputs")
    return root


def verified(capsys, status):
    assert main(["verify", "--profile", "toy"]) == status
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"1 notebooks of the profile toy, {sum(line.startswith('fault: ') for line in lines)} faults"
    return lines


def test_a_whole_repository_has_no_fault(repository, capsys):
    assert verified(capsys, 0) == []


def test_a_later_library_is_a_note_and_no_fault(repository, capsys):
    (repository / "lib/tacit/a.py").write_text("x = 2\n")
    assert verified(capsys, 0) == []  # HEAD is what counts
    git(repository, "commit", "-q", "-a", "-m", "library")
    (line,) = verified(capsys, 0)
    assert line.startswith("note: n1 was made at ")
    assert line.endswith("lib/ has changed since")


def test_another_comment_on_a_parameter_is_no_fault(repository, capsys):
    edit_notebook(repository, lambda n: n.cells[1].update(source=n.cells[1].source + "  # where"), "notebooks/n1.ipynb")
    (line,) = verified(capsys, 0)
    assert line.startswith("note: ") and "its notebook has changed since" in line


def cell(number, **changes):
    return lambda root: edit_notebook(root, lambda notebook: notebook.cells[number].update(changes))


def says(*outputs):
    return lambda root: edit_notebook(root, lambda notebook: notebook.cells[-1].outputs.extend(outputs))


def manifest(**changes):
    return lambda root: edit_json(root, lambda record: record["manifest"].update(changes))


def stream(text, name="stdout"):
    return says(new_output("stream", name=name, text=text))


def insert_cell(notebook):
    notebook.cells.insert(2, new_code_cell("print(n + 1)"))


ANSWERED = {
    "verdict": "holds", "rule": [{"arm": "a", "metric": "m", "threshold": 0.0, "side": "above"}],
    "answer": {"found": "Found.", "reason": "Reason.", "caveat": "Caveat."},
}  # fmt: skip


def answer(root, box=None):
    """Metrics with a rule and an answer, and, where ``box`` is none, no cell to show it in."""

    def change(record):
        del record["claim_holds"]
        record.update(ANSWERED)

    edit_json(root, change)
    tables.write_findings_table(root / "README.md", ["n1"], profile="toy")
    if box is not None:
        insert_box(root, box)


def insert_box(root, text, where="outputs/toy/n1.ipynb"):
    box = new_markdown_cell(text, metadata={"tags": ["answer"]})
    edit_notebook(root, lambda notebook: notebook.cells.insert(1, box), where)


def boxed_source(root):
    """The notebook with a placeholder, in a commit of its own that the metrics name."""
    insert_box(root, "*The run puts the answer here.*", "notebooks/n1.ipynb")
    git(root, "commit", "-q", "-a", "-m", "a placeholder")
    content = (root / "notebooks/n1.ipynb").read_bytes()
    manifest(notebook_sha256=sha256(content), commit=git(root, "rev-parse", "HEAD"))(root)


def test_the_answers_box_may_differ_from_the_placeholder_and_must_be_the_metrics(repository, capsys):
    boxed_source(repository)
    answer(repository, "Something else.")
    executed = repository / "outputs/toy/n1.ipynb"
    [line] = verified(capsys, 1)
    assert line == "fault: n1.ipynb: the box with the answer is not what its metrics give: run it again"
    record = json.loads((repository / "outputs/toy/n1.json").read_text())
    edit_notebook(repository, lambda notebook: notebook.cells[1].update(source=write_answer(record)))
    assert verified(capsys, 0) == []
    for change, words in (
        (lambda n: n.cells.insert(2, n.cells[1]), ["their cells differ", "is not what its metrics give"]),
        (lambda n: n.cells.append(n.cells.pop(1)), ["their cells differ"]),
        (lambda n: n.cells.pop(1), ["their cells differ", "no Markdown cell tagged `answer` is there to show it"]),
    ):
        before = executed.read_text()
        edit_notebook(repository, change)
        lines = verified(capsys, 1)
        assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True)), lines
        executed.write_text(before)


def test_a_placeholder_that_no_answer_filled_is_a_fault(repository, capsys):
    boxed_source(repository)
    insert_box(repository, "*The run puts the answer here.*")
    [line] = verified(capsys, 1)
    assert "the box with the answer is not what its metrics give" in line


FAULTS = {
    "an answer without its box": (answer, "no Markdown cell tagged `answer` is there to show it"),
    "code tagged as the answer": (cell(-1, metadata={"tags": ["answer"]}), "the box with the answer"),
    "other code tagged as the answer": (
        cell(-1, metadata={"tags": ["answer"]}, source="print(5)"),
        "their cells differ",
    ),
    "no executed copy": (lambda root: (root / "outputs/toy/n1.ipynb").unlink(), "no executed copy"),
    "no notebook": (lambda root: (root / "outputs/toy/n1.ipynb").write_text("{"), "is not a notebook"),
    "a cell twice": (cell(-1, execution_count=4), "execution counts are [1, 2, 4]"),
    "a cell not run": (cell(-1, execution_count=None), "execution counts are [1, 2, None]"),
    "an error": (says(new_output("error", ename="E", evalue="v", traceback=[])), "code cell 3 ended in an error"),
    "stderr": (stream("loading", "stderr"), "code cell 3 wrote to stderr"),
    "a warning": (stream("x.py:3: FutureWarning: soon"), "code cell 3 shows a warning"),
    "a path": (stream(f"saved to {HOME}"), f"holds a path of a machine: {HOME!r}"),
    "a path of root": (
        stream(f"in '{absolute('root')}'"), f"holds a path of a machine: {absolute('root') + chr(39)!r}",
    ),
    "a path of Windows": (stream("C:\\Users\\x"), "holds a path of a machine"),
    "a path in a table": (
        says(new_output("execute_result", data={"text/html": f"<td>{TEMPORARY}</td>"}, execution_count=3)),
        f"n1.ipynb holds a path of a machine: '{TEMPORARY}</td>'",
    ),
    "a path in metadata": (
        lambda root: edit_notebook(root, lambda n: n.metadata.update(papermill={"input_path": WORKING})),
        f"n1.ipynb holds a path of a machine: {WORKING!r}",
    ),
    "a path in the metrics": (
        lambda root: edit_json(root, lambda record: record.update(details={"model": absolute("Users", "a", "model")})),
        "n1.json holds a path of a machine",
    ),
    "a path as a key": (
        lambda root: edit_json(root, lambda record: record.update(details={absolute("opt", "x", "model"): 1})),
        "n1.json holds a path of a machine",
    ),
    "the checkout's own path": (
        lambda root: edit_json(root, lambda record: record.update(details={"model": f"in {root}"})),
        "n1.json holds a path of a machine",
    ),
    "another cell": (cell(-1, source="print(n + 1)"), "their cells differ"),
    "another text": (cell(0, source="# Another finding"), "their cells differ"),
    "other values": (cell(2, source="n = 5"), "not executed with its manifest's parameters"),
    "values of an expression": (cell(2, source="n = f()"), "injected parameters cannot be read"),
    "twice the values": (
        cell(-1, metadata={"tags": ["injected-parameters"]}),
        "n1.ipynb was not executed with its manifest's parameters",
    ),
    "no metrics": (lambda root: (root / "outputs/toy/n1.json").unlink(), "cannot read metrics"),
    "bad metrics": (lambda root: edit_json(root, lambda record: record.pop("claim")), "not a metrics file"),
    "other parameters": (
        lambda root: (root / "params/toy/n1.yaml").write_text(yaml.safe_dump(VALUES | {"n": 5})),
        "are not those of params/toy/n1.yaml",
    ),
    "no figure": (lambda root: (root / "outputs/toy/n1.png").unlink(), "the figure n1.png, which is missing"),
    "an empty figure": (lambda root: (root / "outputs/toy/n1.png").write_bytes(b""), "the figure n1.png"),
    "half a figure": (lambda root: (root / "outputs/toy/n1.png").write_bytes(PNG[:40]), "n1.png, which is cut off"),
    "a notebook without a source": (
        lambda root: (root / "outputs/toy/n2.ipynb").write_text("{}"),
        "outputs/toy/n2.ipynb has no counterpart in notebooks",
    ),
    "another notebook's hash": (
        manifest(notebook_sha256="0" * 64), "notebook's hash is not that of notebooks/n1.ipynb",
    ),
    "another library's hash": (manifest(library_sha256="0" * 64), "library's hash is not that of lib/ at commit"),
    "an unknown commit": (manifest(commit="1" * 40), f"HEAD has no ancestor {'1' * 40} here"),
    "no commit": (manifest(commit="unknown"), "HEAD has no ancestor unknown here"),
    "an option for a commit": (manifest(commit="--all"), "HEAD has no ancestor --all here"),
    "a stale table": (
        lambda root: (root / "README.md").write_text("<!-- table:toy -->\n| old |\n<!-- /table -->"),
        "README.md does not show the table",
    ),
    "no README": (lambda root: (root / "README.md").unlink(), "cannot read README.md"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_said(repository, capsys, name):
    inject, words = FAULTS[name]
    inject(repository)
    faults = [line for line in verified(capsys, 1) if line.startswith("fault: ")]
    assert any(words in line for line in faults), faults
    # A file that is gone or unreadable has followers: the manifest is unknown, the table says so, a cell is missing.
    assert len(faults) == 1 or name in (
        "no metrics",
        "bad metrics",
        "no notebook",
        "twice the values",
        "other code tagged as the answer",
        "a notebook without a source",
    ), faults


def test_without_git_the_commits_go_unchecked_and_that_is_said(repository, capsys, monkeypatch):
    (repository / ".git").rename(repository / "not git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    (line,) = verified(capsys, 1)
    assert line.startswith("fault: git does not answer here")


def test_a_notebook_that_was_not_run_is_a_note_and_no_row_of_the_table(repository, capsys, monkeypatch):
    """Parameters are for others, too; only of some profiles all outputs are promised."""
    for folder, suffix in (("notebooks", "ipynb"), ("params/toy", "yaml")):
        content = (repository / folder / f"n1.{suffix}").read_text()
        (repository / folder / f"n2.{suffix}").write_text(content)
    assert verified(capsys, 0) == ["note: not run here: n2"]
    assert plan.list_shown("toy") == ["n1"]
    monkeypatch.setattr(verify, "WHOLE", ("toy",))
    monkeypatch.setattr(plan, "WHOLE", ("toy",))
    assert plan.list_shown("toy") == ["n1", "n2"]
    assert main(["verify", "--profile", "toy"]) == 1
    assert "fault: outputs/toy/n2.ipynb is missing" in capsys.readouterr().out


def test_a_later_notebook_is_a_note(repository, capsys):
    """The executed copy is that of its commit; only who wants outputs with today's cells must run it again."""
    edit_notebook(repository, insert_cell, "notebooks/n1.ipynb")
    (line,) = verified(capsys, 0)
    assert line.startswith("note: n1 was made at ") and "its notebook has changed since" in line


def test_uncommitted_changes_of_a_run_are_a_note(repository, capsys):
    manifest(dirty=True)(repository)
    (line,) = verified(capsys, 0)
    assert line == "note: n1 was made in a checkout with changes that were not committed"


def test_a_commit_that_no_clone_would_have_is_a_fault(repository, capsys):
    """An amended commit stays among git's objects for a while, here and nowhere else."""
    git(repository, "commit", "-q", "--allow-empty", "-m", "amended away")
    left = git(repository, "rev-parse", "HEAD")
    git(repository, "reset", "-q", "--soft", "HEAD~")
    assert git(repository, "cat-file", "-t", left) == "commit"
    manifest(commit=left)(repository)
    (line,) = verified(capsys, 1)
    assert f"HEAD has no ancestor {left}" in line


def test_a_profile_that_was_never_run_is_said_in_one_line(repository, capsys):
    for path in (repository / "outputs/toy").iterdir():
        path.unlink()
    assert main(["verify", "--profile", "toy"]) == 2
    assert "outputs/toy has no executed notebook: run `python -m tacit run --profile toy`" in capsys.readouterr().err


def test_unknown_profiles_are_refused(repository, capsys):
    assert main(["verify", "--profile", "other"]) == 2
    assert "params/other" in capsys.readouterr().err
