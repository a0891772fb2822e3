"""The house keeps its shape: imports go one way, and no file or function outgrows a page or two."""

import ast
import re
from pathlib import Path

import pytest
from tacit.support import paths, provenance

ROOMS = provenance.METHOD_ROOMS  # from the ground up: a room imports from those before it only
FILES = sorted(paths.LIBRARY.rglob("*.py"))
MOST_LINES, MOST_IN_FUNCTION = 350, 60


def imported_rooms(source: str) -> list[tuple[int, str]]:
    """The rooms of ``tacit`` that a file imports from, with the line; imports inside functions count too."""
    rooms = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.module != "tacit" else [f"tacit.{a.name}" for a in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("tacit.")]
    return rooms


def may_import(room: str, other: str) -> bool:
    """May a file of ``room`` import from ``other``? ``running`` and the rooms of findings do not import each other."""
    if room == other:
        return True
    if room == "running":
        return other in ROOMS and other not in ("findings", "related")
    return other in ROOMS[: ROOMS.index(room)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(paths.LIBRARY).as_posix())
def test_imports_go_one_way(path):
    room, *rest = path.relative_to(paths.LIBRARY).parts
    if not rest:  # the package itself and its command line may import from every room
        return
    for line, other in imported_rooms(path.read_text(encoding="utf-8")):
        assert may_import(room, other), f"{path}:{line}: {room} must not import from {other}"


def test_the_check_sees_an_import_that_goes_back():
    source = (
        "def f():\n    from tacit.running import site\n    import tacit.support.paths\nfrom tacit import findings\n"
    )
    assert sorted(imported_rooms(source)) == [(2, "running"), (3, "support"), (4, "findings")]
    assert not may_import("support", "models") and may_import("models", "support")
    assert not may_import("running", "findings") and not may_import("findings", "running")
    assert may_import("running", "scoring")


def module_graph() -> dict[str, set[str]]:
    """Which modules of the package each module imports."""
    names = {
        path.relative_to(paths.LIBRARY.parent).with_suffix("").as_posix().replace("/", "."): path for path in FILES
    }
    graph = {}
    for name, path in names.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ImportFrom) and n.module]
        wanted = {n.module for n in nodes} | {f"{n.module}.{a.name}" for n in nodes for a in n.names}
        graph[name] = (wanted & set(names)) - {name}
    return graph


def test_no_module_imports_itself_by_a_circle():
    graph = module_graph()
    while free := [name for name, wanted in graph.items() if not wanted & set(graph)]:
        graph = {name: wanted for name, wanted in graph.items() if name not in free}
    assert not graph, f"these modules import each other in a circle, or from one: {sorted(graph)}"


def test_the_rooms_are_the_folders():
    folders = {path.parent.relative_to(paths.LIBRARY).parts[0] for path in FILES if path.parent != paths.LIBRARY}
    assert folders == {*ROOMS, "running"}
    assert all((paths.LIBRARY / room / "__init__.py").read_text("utf-8").strip().count("\n") == 0 for room in folders)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(paths.LIBRARY).as_posix())
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MOST_IN_FUNCTION, f"{node.name} is too long"


def test_architecture_has_a_phrase_for_every_file():
    page = (paths.ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = re.findall(r"^  (?:  )?(\w+\.py|\w+/) +\S.*$", page.partition("\nnotebooks/ ")[0], flags=re.MULTILINE)
    files = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted(name for name in tree if name.endswith(".py")) == sorted(files)
    assert [name for name in tree if name.endswith("/")] == [f"{room}/" for room in (*ROOMS, "running")]


def test_a_room_has_few_modules():
    for room in (*ROOMS, "running"):
        modules = [path for path in (Path(paths.LIBRARY) / room).glob("*.py") if path.stem != "__init__"]
        assert 1 <= len(modules) <= 18, room
