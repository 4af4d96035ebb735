"""The rules of the house, read out of the syntax tree: who may import what, and who may touch the system.

Imports inside functions and under TYPE_CHECKING count like any other: who reads a module has to read those, too.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

TOPS = ("flows", "infra", "containers")  # the floors from the top down: each imports itself and those below
STEPS = ("download", "quantize", "push", "serve", "evaluate")


@dataclass(frozen=True)
class Only:
    """`module` may be imported only in files whose path begins with one of `where`."""

    module: str
    where: tuple[str, ...]
    why: str


ONLY = (
    Only("torch", ("containers/quantize/", "containers/serve/", "infra/demo/"), "the arithmetic"),
    Only("llmcompressor", ("containers/quantize/",), "the arithmetic"),
    Only("compressed_tensors", ("containers/quantize/",), "the arithmetic"),
    Only(
        "vllm",
        ("containers/serve/", "containers/evaluate/load/vllm_load.py"),
        "the inference server, and the program that runs its load generator",
    ),
    Only("boto3", ("containers/store/",), "one way to the object store"),
    Only("botocore", ("containers/store/", "containers/trust/key_services.py"), "one way to the object store"),
    Only("docker", ("infra/container_engine/",), "one place that knows the container engine"),
    Only("lightkube", ("infra/cluster/",), "one place that knows the cluster's client"),
    Only("prefect", ("flows/",), "steps are complete without it"),
    Only("subprocess", ("containers/process.py",), "one process runner"),
    Only("flows.cli", ("flows/cli/",), "the command line is above every other room"),
    Only("flows.local", ("flows/cli/", "flows/local/"), "embedded runs are above everything but the command line"),
    Only("multiprocessing", ("infra/images/inside/",), "one process runner; that is a program of an image's build"),
    Only("concurrent.futures.ProcessPoolExecutor", (), "one process runner"),
    Only("pty", (), "one process runner"),
    Only("pickle", (), "nothing is pickled: what crosses a border is JSON"),
)
# Where the ambient runtime is read beside tasks and flows: Prefect calls these, and hands them no runtime.
AMBIENT = {
    "flows/runtime.py": frozenset({"without_placement"}),
    "flows/orchestrator/results.py": frozenset({"read_path", "write_path"}),  # of the block for results
    "flows/watching/outcome.py": frozenset({"record_failure"}),  # a hook of the flow
}
_AMBIENT_READS = frozenset({"current", "without_placement", "runtime.current", "runtime.without_placement"})
ENVIRONMENT = ("containers/settings.py", "containers/process.py", "containers/supervisor.py")
_ENVIRON = frozenset({"os.environ", "os.getenv", "os.putenv", "os.environb"})


# The sandbox's forks inside itself, whose processes are its own; the last is the program of an image that has none of our code.
STARTERS = (
    "containers/process.py",
    "containers/supervisor.py",
    "containers/evaluate/confined/main.py",
    "infra/images/inside/postgres.py",
)
_STARTS = ("os.system", "os.popen", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "asyncio.create_subprocess")


@dataclass(frozen=True)
class Violation:
    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def imports(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """Every imported module as an absolute dotted name; `from a import b` gives both "a" and "a.b"."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and _name(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
            yield from ((node.lineno, str(name.value)) for name in node.args if isinstance(name, ast.Constant))


def check(source: str, path: str) -> list[Violation]:
    """What a file breaks; `path` is relative to the top folder, with slashes."""
    tree = ast.parse(source, path)
    found: list[Violation] = []
    for line, module in imports(tree, path):
        found += [Violation(path, line, what) for what in _import_faults(module, path)]
        if module in _ENVIRON and path not in ENVIRONMENT:
            found.append(Violation(path, line, f"{module}: settings are read in containers/settings.py alone"))
    for node in ast.walk(tree):
        touched = _name(node)
        if touched in _ENVIRON and path not in ENVIRONMENT:
            found.append(Violation(path, node.lineno, f"{touched}: settings are read in containers/settings.py alone"))
        if touched.startswith(_STARTS) and path not in STARTERS:
            found.append(
                Violation(path, node.lineno, f"{touched}: programs are started in containers/process.py alone")
            )
        if isinstance(node, ast.keyword) and node.arg == "shell" and not _is_false(node.value):
            found.append(Violation(path, node.value.lineno, "shell: programs are started from argument lists"))
    found += [Violation(path, line, what) for line, what in _ambient_faults(tree, path)]
    return sorted(set(found), key=lambda fault: (fault.line, fault.what))


def cycles(modules: Iterable[tuple[str, str]]) -> list[str]:
    """The import cycles among modules given as (path, text), each as a line of names; empty when there is none.

    A module depends on what it names in an import: `from a.b import c` on `a.b`, and on `a.b.c` where that is a module.
    That `a/__init__.py` runs first does not count, else every package that re-exports would be a cycle. One cycle is
    found in each knot; when it is cut, the next one shows.
    """
    texts = {_module(path): (path, text) for path, text in modules}
    graph = {
        name: {found for _, found in imports(ast.parse(text, path), path) if found in texts and found != name}
        for name, (path, text) in texts.items()
    }
    found: list[str] = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = list(reversed(error.args[1]))  # it names what is imported before who imports it
            found.append(" -> ".join(cycle))
            graph[cycle[0]].discard(cycle[1])
        else:
            return found


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _import_faults(module: str, path: str) -> Iterator[str]:
    parts = module.split(".")
    top = path.split("/", 1)[0]
    for rule in ONLY:
        if parts[: rule.module.count(".") + 1] == rule.module.split(".") and not path.startswith(rule.where or ("-",)):
            yield f"imports {module}: {rule.why}"
    if parts[0] in TOPS and TOPS.index(parts[0]) < TOPS.index(top):
        yield f"imports {module}: {top} knows nothing of {parts[0]}"
    if parts[0] == "tests":
        yield f"imports {module}: the product knows nothing of its tests"
    if parts[0] == "containers" and len(parts) > 1 and parts[1] in STEPS:
        if top != "containers":
            yield f"imports {module}: {top} sees a step only through its request and result"
        if top == "containers" and not path.startswith(f"containers/{parts[1]}/"):
            yield f"imports {module}: nothing in containers imports a step but the step itself"


def _ambient_faults(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """Reads of the ambient runtime outside of tasks, flows and what is listed; an alias hides nothing."""
    names = set(_AMBIENT_READS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "flows.runtime":
            names |= {alias.asname for alias in node.names if alias.asname and alias.name in _AMBIENT_READS}
    imported = path == "flows/runtime.py" or any(
        module.startswith("flows.runtime") for _, module in imports(tree, path)
    )
    if not imported:
        return
    allowed: set[ast.AST] = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            listed = function.name in AMBIENT.get(path, ())
            if listed or any(_decorator(one) in {"task", "flow"} for one in function.decorator_list):
                allowed |= set(ast.walk(function))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in names and node not in allowed:
            yield (
                node.lineno,
                f"{_name(node.func)}(): only tasks and flows read the ambient runtime; pass it on from there",
            )


def _decorator(node: ast.AST) -> str:
    return _name(node.func if isinstance(node, ast.Call) else node)


def _name(node: ast.AST) -> str:
    """`a.b` for an attribute of a name, the name for a name, "" for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """(path relative to `root`, text) of every module of the product."""
    for top in TOPS:
        for file in sorted((root / top).rglob("*.py")):
            yield file.relative_to(root).as_posix(), file.read_text()


def class_names_twice(modules: Iterable[tuple[str, str]]) -> list[str]:
    """Classes of one name in several modules: whoever reads the name has to ask which one is meant."""
    where: dict[str, list[str]] = {}
    for path, text in modules:
        for node in ast.walk(ast.parse(text, path)):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(path)
    return [f"{name}: {', '.join(paths)}" for name, paths in sorted(where.items()) if len(paths) > 1]
