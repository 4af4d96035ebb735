"""Tasks that come with a suite: lm-evaluation-harness would run code that their YAML names, so they are checked first.

Refused are functions and classes of a task (`!function`, `class`), metrics and data sets that are programs, and paths and
includes that leave the suite. Whatever the harness's own tasks do is part of that package.
"""

from __future__ import annotations

import posixpath
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.plain_yaml import load_yaml
from containers.safe_path import path_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.suites import SuiteFiles

TASKS: Final = "tasks"  # the folder of a suite with tasks of its own
_SUFFIXES: Final = (".yaml", ".yml")

# What names code (class, custom_dataset, use_prompt) or allows it (unsafe_code, trust_remote_code), or lets a file of this
# machine be written or a server be named.
_REFUSED: Final = frozenset(
    {
        *("class", "custom_dataset", "use_prompt", "unsafe_code", "hf_evaluate", "trust_remote_code"),
        *("cache_dir", "storage_options", "data_dir", "token"),
    }
)
_DATA: Final = frozenset({"samples", "metadata"})  # what is in them is not read as a configuration
# On the hub, or the name of a format: no path, and no address.
_DATA_SET: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@contextmanager
def sandboxed_templates(suite: str) -> Iterator[None]:
    """Render what tasks call templates in Jinja's sandbox, inside the block: the harness itself would let them reach Python.

    Raises BadInput for one that tries to.
    """
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    original = utils.env
    utils.env = SandboxedEnvironment(
        loader=original.loader, undefined=original.undefined, keep_trailing_newline=original.keep_trailing_newline
    )
    utils.env.filters.update(original.filters)
    try:
        yield
    except SecurityError as error:
        raise BadInput(
            f"a template of a task of the suite {suite} is refused: {error}",
            remedy="a template may use the fields of a question, and nothing of Python behind them",
        ) from error
    finally:
        utils.env = original


def check(files: SuiteFiles) -> None:
    """Raises BadInput, which names the file and the field, for a task that could do more than ask questions."""
    checked: set[str] = set()
    waiting = [path for path in files.files if path.startswith(f"{TASKS}/") and path.endswith(_SUFFIXES)]
    while waiting:
        path = waiting.pop()
        if path not in checked:
            checked.add(path)
            waiting += _checked(files, path)


def _checked(files: SuiteFiles, path: str) -> Iterator[str]:
    """Check one file; the files that it includes, of which each is in the suite."""
    what = f"{path} of the suite {files.name}"
    task = load_yaml(files.files[path], what)
    for field, name, value in _fields(task, ""):
        if name in _REFUSED and value not in (False, None):
            raise BadInput(
                f"{what}: {field} is not for tasks of a suite, which cannot contain code", remedy="leave it out"
            )
        if name == "dataset_path" and not (isinstance(value, str) and _DATA_SET.fullmatch(value)):
            raise BadInput(
                f"{what}: {field} is {value!r}, and is neither a data set of the hub nor a format",
                remedy="name one of the hub (`org/name`), or `json` with dataset_kwargs.data_files inside the suite",
            )
        if name == "data_files":
            for one in _texts(value):
                if fault := path_fault(one) or ("is an address" if ":" in one else ""):
                    raise BadInput(f"{what}: {field} has the path {one!r}, which {fault}", remedy=_INSIDE)
    for one in _texts(task.get("include", ()) if isinstance(task, dict) else ()):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), one))
        if one.startswith(("/", "~")) or target not in files.files:
            raise BadInput(f"{what}: include has the path {one!r}, which is not a file of the suite", remedy=_INSIDE)
        yield target


_INSIDE: Final = "name a file inside the suite's folder"


def _fields(value: Any, within: str) -> Iterator[tuple[str, str, Any]]:
    """Every field at any depth: its place, its name and its value."""
    if isinstance(value, dict):
        for key, one in value.items():
            field = f"{within}.{key}" if within else str(key)
            yield field, str(key), one
            if key not in _DATA:
                yield from _fields(one, field)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _fields(one, f"{within}[{number}]")


def _texts(value: Any) -> Iterator[str]:
    """All single values inside lists and mappings, as text."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    else:
        yield str(value)
