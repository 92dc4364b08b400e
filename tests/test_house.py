# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a machine can check."""

import ast
import pathlib
import re
import tomllib

import pytest

PROJECT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "cots_jax"
MADE = ("data", "indexes", "runs", "build", "dist")  # what commands leave at the top
DOORS = ("main", "evaluate", "prepare", "plan", "search", "export")

# A room may import from itself and from lower floors; a file beside the doors is a room of its own.
FLOORS = {
    "errors": 0,
    "axes": 0,
    "batch": 1,
    "chips": 1,
    "compilation_cache": 1,
    "files": 1,
    "manifest": 1,
    "meeting": 1,
    "schedule": 1,
    "schema": 1,
    "switches": 0,
    "config": 2,
    "processes": 2,
    "checkpoint": 3,
    "data": 3,
    "models": 3,
    "objectives": 4,
    "retrieval": 4,
    "weights": 4,
    "pretrained": 5,
    "collection": 6,
    "image_tokenizer": 6,
    "portable": 6,
    "arguments": 7,
    "offline": 8,
    "serve": 8,
    "train": 8,
    "planning": 9,
    **dict.fromkeys(DOORS, 10),
}


def files(*suffixes: str) -> list[pathlib.Path]:
    """The project's own files, those that git ignores left out."""
    found, folders = [], [PROJECT]
    while folders:
        for path in filter(is_ours, folders.pop().iterdir()):
            if path.is_dir():
                folders.append(path)
            elif not suffixes or path.suffix in suffixes:
                found.append(path)
    return sorted(found)


def is_ours(path: pathlib.Path) -> bool:
    if path.name.startswith(".") or (path.parent == PROJECT and path.name in MADE):
        return path.name == ".ci"
    return path.name != "__pycache__" and path.suffix not in (".egg-info", ".log")


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def lines_of(path: pathlib.Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(dotted: str) -> str:
    """cots_jax.train.loop -> train; cots_jax -> the empty room."""
    return (dotted.split(".") + [""])[1]


def imports_of(path: pathlib.Path) -> set[str]:
    """Rooms of this package that a module imports, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)} imports relatively"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = below if node.module == "cots_jax" else [node.module or ""]
        else:
            continue
        rooms |= {room_of(name) for name in names if name.split(".")[0] == "cots_jax"}
    return rooms


def room_of_file(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_there_is_a_house_to_check() -> None:
    assert len(modules()) > 40
    names = {name_of(path) for path in files()}
    assert {"README.md", "cots_jax/data/prepare/emoji.py", "tests/data/test_records.py"} <= names
    assert not any(name.startswith((".venv", ".git/")) for name in names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_room_imports_upward(path: pathlib.Path) -> None:
    room = room_of_file(path)
    if room == "__init__":
        return
    assert room in FLOORS, f"give {room} a floor"
    for other in imports_of(path) - {room, ""}:
        assert FLOORS[other] < FLOORS[room], f"{room} imports {other}"


def test_only_the_training_door_imports_training() -> None:
    users = {room_of_file(path) for path in modules() if "train" in imports_of(path)}
    assert users - {"train", "planning"} == {"main"}


@pytest.mark.parametrize("door", [d for d in DOORS if (PACKAGE / f"{d}.py").exists()])
def test_a_front_door_is_short(door: str) -> None:
    assert len(lines_of(PACKAGE / f"{door}.py")) <= 60


@pytest.mark.parametrize("path", files(".py"), ids=name_of)
def test_a_file_of_code(path: pathlib.Path) -> None:
    lines = lines_of(path)
    assert len(lines) <= 450
    if lines:
        assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
        assert lines[1].startswith('"""')
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            is_loop = name_of(path) == "cots_jax/train/loop.py" and node.name == "_run"
            assert length <= 80 or is_loop, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_nothing_of_one_machine_is_written_down(path: pathlib.Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    # In two halves each, so that this file does not find itself.
    halves = [
        ("/wo", "rk/"),
        ("/tm", "p/w"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("index", "-url"),
        ("trusted", "-host"),
        ("TO", "DO"),
        ("FIX", "ME"),
        ("# no", "qa"),
        ("type: ", "ignore"),
    ]
    for word in map("".join, halves):
        assert word not in text, f"{word} at line {text[: text.index(word)].count(chr(10)) + 1}"


def test_requirements_agree_with_pyproject() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = lines_of(PROJECT / "requirements.txt")
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]


def test_versions_agree() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version['version']}\n" in citation


def pages() -> list[pathlib.Path]:
    return [path for path in files(".md") if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_a_page_names_what_exists(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for config in re.findall(r"configs/\w+\.py", text):
        assert (PROJECT / config).is_file(), config
    for door in re.findall(r"python -m cots_jax\.(\w+)", text):
        assert (PACKAGE / f"{door}.py").is_file(), door
    for script in re.findall(r"python ((?:benchmarks|launch)/\S+\.py)", text):
        assert (PROJECT / script).is_file(), script
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, target
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (path.parent / link).exists(), link


def test_every_config_names_its_command() -> None:
    for path in sorted((PROJECT / "configs").glob("*.py")):
        if path.name not in ("hardware.py", "methods.py"):
            command = f"python -m cots_jax.main --config=configs/{path.name}"
            assert command in (ast.get_docstring(ast.parse(path.read_text())) or ""), path.name


@pytest.mark.xdist_group("house")
def test_groups_of_tests_stay_together(request: pytest.FixtureRequest) -> None:
    """Some versions of pytest and xdist lose the groups without a word: worlds are made twice."""
    if request.config.getoption("dist", "no") == "loadgroup":
        assert request.node.nodeid.endswith("@house")
