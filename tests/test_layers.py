"""The house of design.md, section 2: who may import whom, and what no module may do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "vivace"
PACKAGE = "vivace"
MAX_LINES = 600
MAX_FUNCTION_LINES = 60

LAYERS = (
    {"types", "errors"},
    {"protocols", "settings", "trace"},
    {"text", "run"},
    {"ingest", "embed", "store", "index", "generate", "cache"},
    {"collection", "cluster"},
    {"retrieve"},
    {"answer", "tune"},
    {"engine"},
    {"sync", "server", "testing"},
    {"cli", "web"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
ROOTS = {"__init__", "__main__"}
"""They may name anything; only the top layer may name the root's own names."""

BANNED_CLASS = re.compile(r"(Manager|Handler|Helper|Utils?|Optimizer)$")
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve"}


# What rooms in renovation have not mended yet. Nothing may be added here.
LONG_FUNCTIONS = {
    "vivace.generate.openai: stream",
}
SHARED_NAMES = {"QueryLog", "Request", "_Local", "_Piece"}


def problems(root: Path) -> list[str]:
    """Everything wrong in the package at `root`, one line each."""
    found: list[str] = []
    trees: dict[Path, ast.Module] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        where = path.relative_to(root).as_posix()
        text = path.read_text("utf-8")
        tree = trees[path] = ast.parse(text, where)
        found += [f"{where}: {problem}" for problem in _layer_problems(parts, tree, root)]
        found += [f"{where}: {problem}" for problem in _habit_problems(parts, tree)]
        if (lines := text.count("\n")) > MAX_LINES:
            found.append(f"{where}: {lines} lines, more than {MAX_LINES}: split the concept")
    modules = {_module(path, root): tree for path, tree in trees.items()}
    found += _long_functions(modules)
    found += _shared_class_names(modules)
    found += _circles(modules, {_module(p, root) for p in trees if p.name == "__init__.py"})
    return found


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join((PACKAGE, *parts)).removesuffix(".__init__")


def _long_functions(modules: Mapping[str, ast.Module]) -> Iterator[str]:
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES and f"{name}: {node.name}" not in LONG_FUNCTIONS:
                    yield f"{name}: {node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"


def _shared_class_names(modules: Mapping[str, ast.Module]) -> Iterator[str]:
    where: dict[str, list[str]] = {}
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(name)
    for name, places in where.items():
        if len(places) > 1 and name not in SHARED_NAMES:
            yield f"class {name} is defined in {', '.join(places)}: give each a name of its own"


def _circles(modules: Mapping[str, ast.Module], packages: set[str]) -> Iterator[str]:
    """A circle of imports, wherever they are written; the root's lazy names do not count."""
    imports = {
        name: _imported(name, name in packages, tree, modules.keys()) - {name, PACKAGE}
        for name, tree in modules.items()
        if name not in {PACKAGE, *(f"{PACKAGE}.{root}" for root in ROOTS)}
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        yield f"a circle of imports: {' <- '.join(error.args[1])}"


def _imported(name: str, is_package: bool, tree: ast.Module, known: Set[str]) -> set[str]:
    """The modules of the package that a module imports."""
    package = name if is_package else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= (names & known) | ({base} if names - known else set())
    return found & known


def _layer_problems(parts: tuple[str, ...], tree: ast.Module, root: Path) -> Iterator[str]:
    own = parts[0]
    if own in ROOTS and len(parts) == 1:
        return
    if own not in LAYER:
        yield f"{own} is in no layer"
        return
    for line, target in _imports(parts, tree, root):
        if target == own:
            continue
        if target == "__init__":
            if own not in LAYERS[-1]:
                yield f"line {line}: imports the root, which is above it"
        elif target not in LAYER:
            yield f"line {line}: imports {PACKAGE}.{target}, which is in no layer"
        elif LAYER[target] == LAYER[own]:
            yield f"line {line}: imports its sibling {target}"
        elif LAYER[target] > LAYER[own]:
            yield f"line {line}: imports {target}, which is above it"


def _imports(parts: tuple[str, ...], tree: ast.Module, root: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level name under the package) of every import, wherever it is written."""
    package = (PACKAGE, *parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            modules = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for module in modules:
            if module[0] == PACKAGE:
                yield node.lineno, _target(module, root)


def _target(module: list[str], root: Path) -> str:
    """`from vivace import x` names a module where there is one, else something of the root's."""
    if len(module) == 1:
        return "__init__"
    name = module[1]
    is_module = name in LAYER or (root / name).is_dir() or (root / f"{name}.py").is_file()
    return name if is_module or len(module) > 2 else "__init__"


def _habit_problems(parts: tuple[str, ...], tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and BANNED_CLASS.search(node.name):
            yield f"line {node.lineno}: a class named {node.name} says nothing of what it is"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.split(".")[0] in BANNED_MODULES:
                    yield f"line {node.lineno}: imports {module}: nothing is pickled"
            if modules == ["os"] and isinstance(node, ast.ImportFrom):
                yield from _environment(parts, node.lineno, set(names))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            yield from _environment(parts, node.lineno, {node.attr})


def _environment(parts: tuple[str, ...], line: int, names: set[str]) -> Iterator[str]:
    if names & {"environ", "environb", "getenv", "putenv"} and parts[0] != "settings":
        yield f"line {line}: only settings reads the environment"


def test_the_package_keeps_the_rules() -> None:
    assert problems(SOURCE) == []


def _house(root: Path, **files: str) -> list[str]:
    for name, text in files.items():
        path = root / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return problems(root)


def test_allowed_imports_pass(tmp_path: Path) -> None:
    assert not _house(
        tmp_path,
        __init__="from vivace.engine import Engine\n",
        __main__="from vivace.cli import main\n",
        settings="import os\nos.environ\nfrom vivace import errors\n",
        cli__in__main="from vivace import __version__, mystery_name\nimport vivace\n",
        engine="import vivace.embed.minilm\nfrom vivace.run.host import cores\n",
        embed__in__minilm="from . import names\nfrom .names import load\nfrom ..types import Ids\n",
        embed__in__names="import numpy, vivacious\nos = 1\n",
    )


def test_an_import_upwards_is_caught_wherever_it_is_written(tmp_path: Path) -> None:
    found = _house(
        tmp_path,
        types="from vivace.errors import VivaceError\n",
        protocols="def later():\n    import vivace.embed.minilm\n",
        trace="import typing\nif typing.TYPE_CHECKING:\n    from vivace import engine\n",
        run__in__host="from ..retrieve import search\n",
        run__in__deep__in__pools="from ...text.terms import terms\n",
        embed__in__names="import vivace.cache.memory\nimport vivace\nfrom vivace import open\n",
        retrieve__in__fuse="from vivace.mystery import x\n",
        mystery="",
    )
    assert found == [
        "embed/names.py: line 1: imports its sibling cache",
        "embed/names.py: line 2: imports the root, which is above it",
        "embed/names.py: line 3: imports the root, which is above it",
        "mystery.py: mystery is in no layer",
        "protocols.py: line 2: imports embed, which is above it",
        "retrieve/fuse.py: line 1: imports vivace.mystery, which is in no layer",
        "run/deep/pools.py: line 1: imports its sibling text",
        "run/host.py: line 1: imports retrieve, which is above it",
        "trace.py: line 3: imports engine, which is above it",
        "types.py: line 1: imports its sibling errors",
    ]


def test_bad_habits_are_caught(tmp_path: Path) -> None:
    found = _house(
        tmp_path,
        errors="class CacheManager: ...\nclass StringUtils: ...\nclass Managerial: ...\n",
        engine="import os\nprint(os.environ, os.getenv('X'), os.sep)\nfrom os import environ\n",
        trace="import pickle\ndef f():\n    from pickle import loads\n",
        types="\n" * (MAX_LINES + 1),
        settings="class Twice: ...\n",
        protocols="class Twice: ...\ndef long():\n" + "    1\n" * MAX_FUNCTION_LINES,
    )
    assert found == [
        "engine.py: line 3: only settings reads the environment",
        "engine.py: line 2: only settings reads the environment",
        "engine.py: line 2: only settings reads the environment",
        "errors.py: line 1: a class named CacheManager says nothing of what it is",
        "errors.py: line 2: a class named StringUtils says nothing of what it is",
        "trace.py: line 1: imports pickle: nothing is pickled",
        "trace.py: line 3: imports pickle: nothing is pickled",
        f"types.py: {MAX_LINES + 1} lines, more than {MAX_LINES}: split the concept",
        "vivace.protocols: long has 61 lines, more than 60",
        "class Twice is defined in vivace.protocols, vivace.settings: give each a name of its own",
    ]


@pytest.mark.parametrize(
    "circle",
    [
        {"run__in__one": "from vivace.run import two\n", "run__in__two": "from . import one\n"},
        {
            "run__in____init__": "from vivace.run.one import a\n",
            "run__in__one": "def later():\n    from vivace.run import other\n",
        },
        {
            "run__in__one": "import vivace.run.two\n",
            "run__in__two": "if TYPE_CHECKING:\n    from ..run.one import One\n",
        },
    ],
)
def test_a_circle_of_imports_is_caught(tmp_path: Path, circle: dict[str, str]) -> None:
    (problem,) = _house(tmp_path, **circle)
    assert problem.startswith("a circle of imports: vivace.run")
