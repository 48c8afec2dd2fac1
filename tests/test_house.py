"""The house: what stands where, who may ask whom, and what every file promises.

The root reads down, and no room imports it.  See docs/extending.md and README's map.
"""
import ast
from pathlib import Path

import pytest
from helpers import ROOT

ROOT_ROWS = (("Main", "Predict", "Metrics", "MakeData", "MakeTxt", "Report", "DataAugmentation"),
             ("Process",), ("DataLoader", "Loss"),
             ("Model", "WeightMap", "MirrorPadding", "Transforms"))
ROOT_MODULES = [name for row in ROOT_ROWS for name in row]
ROOMS = {"command": set(), "images": {"command"}, "nets": {"command", "images"},
         "datasets": {"command", "images"}, "masks": {"command", "images", "nets", "datasets"},
         "backend": {"command"},
         "runs": {"command", "images", "nets", "datasets", "masks", "backend"}}
SHOPS = ("alignment", "benchmarks", "docs")
MAY_REPEAT = {"main", "build_parser"}


def python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).glob("*.py"))


OURS = python_files(".", *ROOMS, *SHOPS)
OUTSIDE_TESTS = [path for path in OURS if not path.name.startswith("test_")]
EVERYWHERE = OURS + python_files("tests", "tests/stress", "tests/device", "tests/gpu")


def named(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def imported(path):
    """The project's modules that a file imports, anywhere in it: 'Loss', 'runs.log', ..."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module in ROOMS else {node.module}
    return {name for name in found if name.split(".")[0] in {*ROOMS, *ROOT_MODULES}}


# --------------------------------------------------------------------------------- who imports whom
def test_the_root_holds_the_paper_and_the_commands_alone():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(ROOT_MODULES)
    assert {path.parent.name for path in ROOT.glob("*/*.py")} == {*ROOMS, *SHOPS, "tests"}


@pytest.mark.parametrize("name", ROOT_MODULES)
def test_the_root_reads_down(name):
    """A root module imports rooms and root modules of its row or below, but no command."""
    row = next(k for k, names in enumerate(ROOT_ROWS) if name in names)
    allowed = {other for k, names in enumerate(ROOT_ROWS) if k >= row for other in names} - {name}
    allowed -= set(ROOT_ROWS[0])
    found = {module for module in imported(ROOT / f"{name}.py") if module in ROOT_MODULES}
    assert found <= allowed


@pytest.mark.parametrize("path", python_files(*ROOMS), ids=named)
def test_a_room_imports_what_stands_before_it(path):
    room = path.parent.name
    found = {module.split(".")[0] for module in imported(path)} - {room}
    assert found <= ROOMS[room], "no root module, no later room"


def test_nothing_imports_in_circles():
    graph = {}
    for path in python_files(".", *ROOMS):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph[name] = {module for module in imported(path) if module != name}

    def visit(name, trail):
        assert name not in trail, f"{' -> '.join([*trail, name])}"
        for other in graph.get(name, ()):
            visit(other, [*trail, name])
    done = set()
    for name in sorted(graph):
        if name not in done:
            visit(name, [])
            done.add(name)


# --------------------------------------------------------------------------------------- every file
@pytest.mark.parametrize("path", OUTSIDE_TESTS, ids=named)
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", EVERYWHERE, ids=named)
def test_a_line_fits_beside_another_file(path):
    long = [k for k, line in enumerate(path.read_text("utf-8").splitlines(), 1) if len(line) > 100]
    assert long == []


def defined(tree):
    """The public names that a module defines: functions, classes, constants."""
    names = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [part.id for target in targets for part in ast.walk(target)
                      if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    return [name for name in names if not name.startswith("_")]


def test_a_public_name_is_defined_once():
    places = {}
    for path in OUTSIDE_TESTS:
        if named(path) == "alignment/TorchModel.py":  # the twin has our names: that is its point
            continue
        for name in defined(tree_of(path)):
            places.setdefault(name, []).append(named(path))
    assert {name: found for name, found in places.items()
            if len(found) > 1 and name not in MAY_REPEAT} == {}


@pytest.mark.parametrize("path", OUTSIDE_TESTS, ids=named)
def test_no_module_has_a_state(path):
    """Nothing says `global`, but for the imported Jittor; imports do not read the environment."""
    tree = tree_of(path)
    changed = {name for node in ast.walk(tree) if isinstance(node, ast.Global)
               for name in node.names}
    assert changed <= ({"_jittor"} if named(path) == "backend/start.py" else set())
    outside = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    words = {part.attr for node in outside for part in ast.walk(node)
             if isinstance(part, ast.Attribute)}
    assert not words & {"environ", "getenv"}


@pytest.mark.parametrize("path", OUTSIDE_TESTS, ids=named)
def test_a_default_is_no_other_modules_state(path):
    modules = {alias.asname or alias.name for node in ast.walk(tree_of(path))
               if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                asked = [part for part in ast.walk(default) if isinstance(part, ast.Attribute)
                         and isinstance(part.value, ast.Name) and part.value.id in modules
                         and part.value.id not in ("np", "math")]
                assert not asked, f"line {default.lineno}"


def anonymous_tuples(tree):
    """The lines on which a function returns or yields a tuple of more than two.

    jt.Function's `grad` and `execute` have to.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Attribute) and base.attr == "Function" for base in node.bases):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Return, ast.Yield)) and isinstance(node.value, ast.Tuple):
            if len(node.value.elts) > 2:
                yield node.lineno


@pytest.mark.parametrize("path", [path for path in OUTSIDE_TESTS
                                  if named(path) != "alignment/TorchModel.py"], ids=named)
def test_more_than_two_results_have_names(path):
    assert list(anonymous_tuples(tree_of(path))) == []


def test_figures_are_drawn_in_one_place():
    """`images.figures.figure` closes what it opens and writes it whole."""
    users = {named(path) for path in OUTSIDE_TESTS if "pyplot" in path.read_text("utf-8")}
    assert users == {"images/figures.py"}


def test_the_path_is_changed_in_few_places_and_late_imports_are_not_excused():
    texts = {named(path): path.read_text("utf-8") for path in EVERYWHERE
             if path != Path(__file__)}
    changes = {name for name, text in texts.items() if "sys.path.insert" in text}
    assert len(changes) <= 3 and not any(name.startswith("tests/") for name in changes)
    assert not [name for name, text in texts.items() if "E402" in text]
