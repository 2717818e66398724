"""The law of the house: imports go down, importing is free, files stay small."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llm_serving"

LEVELS = {
    "errors": 1,
    **dict.fromkeys(("engine", "blockstore", "chat", "embeddings", "images", "models", "checkpoints"), 2),
    "setting_values": 2,
    **dict.fromkeys(("native", "architectures"), 3),
    **dict.fromkeys(("config", "backends"), 4),
    "service": 5,
    **dict.fromkeys(("ops", "web"), 6),
    "api": 7,
    **dict.fromkeys(("cli", "deploy"), 8),
}
SIBLINGS_ALLOWED = {("architectures", "native")}  # for the names of its ops
HEAVY = {"torch", "transformers", "vllm", "ray", "llguidance"}
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

MODULES = sorted(PACKAGE.rglob("*.py"))
OTHER_SOURCES = (".cpp", ".hpp", ".h", ".js", ".css", ".html")
PYTHON = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), ROOT / "main.py"]
OTHERS = [p for folder in (PACKAGE, ROOT / "tests") for p in folder.rglob("*") if p.suffix in OTHER_SOURCES]
SOURCES = [*PYTHON, *sorted(OTHERS)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def items_of(path: Path) -> list[ast.AST]:
    """The imports and functions of a file. Most of the time of these tests is walking: once, and quickly."""
    return [node for node in statements_in(tree_of(path)) if isinstance(node, (*FUNCTIONS, *IMPORTS))]


def statements_in(node: ast.AST) -> Iterator[ast.AST]:
    """All below it, and what holds some: `except` and `case`. No expression holds any."""
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        for below in getattr(node, part, ()):
            yield below
            yield from statements_in(below)


def package_of(module: str) -> str:
    """`llm_serving.engine.core` → `engine`."""
    return module.split(".")[1] if "." in module else ""


def imports_of(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every module that these import."""
    for item in nodes:
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, "imports are absolute"
            if item.module == "llm_serving":
                yield from (f"llm_serving.{alias.name}" for alias in item.names)
            else:
                yield item.module or ""


def is_lawful(importer: str, imported: str) -> bool:
    if importer == imported or (importer, imported) in SIBLINGS_ALLOWED:
        return True
    return LEVELS[imported] < LEVELS[importer]


def test_law_itself() -> None:
    assert is_lawful("api", "service")
    assert is_lawful("architectures", "native")
    assert not is_lawful("native", "architectures")
    assert not is_lawful("engine", "chat")
    assert not is_lawful("service", "ops")
    source = "def f():\n    from llm_serving.api import app\n    from llm_serving import cli\n"
    assert list(imports_of(ast.walk(ast.parse(source)))) == ["llm_serving.api", "llm_serving.cli"]


def test_every_package_has_a_level() -> None:
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__"} <= set(LEVELS)


def test_imports_go_down() -> None:
    wrong = []
    for path in MODULES:
        importer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        imported = {package_of(m) for m in imports_of(items_of(path)) if m.split(".")[0] == "llm_serving"}
        if importer == "__init__":
            assert not imported, "the package's names are looked up when they are used"
            continue
        wrong += [f"{name_of(path)} → {name}" for name in imported if not is_lawful(importer, name)]
    assert wrong == []


def test_heavy_libraries_are_loaded_on_use_where_they_belong() -> None:
    wrong = []
    for path in MODULES:
        heavy = {m.split(".")[0] for m in imports_of(items_of(path))} & HEAVY
        # Nobody imports anything of these before it is used; "importing is free" below holds them to it.
        if path.parent.name in ("deploy", "transformers_backend", "vllm_backend") or not heavy:
            continue
        outside = [node for node in tree_of(path).body if not isinstance(node, DEFINITIONS)]
        at_import = {m.split(".")[0] for node in outside for m in imports_of(ast.walk(node))} & HEAVY
        wrong += [f"{name_of(path)}: {lib}" for lib in heavy if path.parent.name != "backends"]
        wrong += [f"{name_of(path)}: {lib}, at import" for lib in at_import if lib not in path.stem]
    assert wrong == []


def test_files_are_small() -> None:
    sizes = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_there_are_no_drawers() -> None:
    assert [name_of(path) for path in SOURCES if {path.stem, path.parent.name} & DRAWERS] == []


def test_functions_are_short() -> None:
    long = [
        f"{name_of(path)}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for path in PYTHON
        for node in items_of(path)
        if isinstance(node, FUNCTIONS)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


IMPORT_PROBE = """
import os, sys, threading
reads = []
get = os._Environ.__getitem__
os._Environ.__getitem__ = lambda self, key: (reads.append(key), get(self, key))[1]
import llm_serving
assert not [key for key in reads if key.startswith("LLM_SERVING_")], reads
assert not {"pydantic", "fastapi", "numpy"} & set(sys.modules), "importing the package loads libraries"
import main
assert main.app is not None
heavy = {"torch", "transformers", "vllm", "ray", "opentelemetry.sdk", "llguidance", "_llm_serving_native"}
heavy &= set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1, "importing starts threads"
assert dir(llm_serving) and callable(llm_serving.create_app) and llm_serving.Settings
"""


def test_importing_is_free() -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LLM_SERVING_", "OTEL_"))}
    probe = [sys.executable, "-W", "error", "-c", IMPORT_PROBE]
    done = subprocess.run(probe, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
