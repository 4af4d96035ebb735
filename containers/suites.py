"""Suites as files: where they are, what is in them, and the digest that identifies a suite's contents.

A suite is a folder with a `suite.yaml` and the files that it names. The flow needs only its digest and, for a suite of
the user's own, its contents; its meaning is up to the evaluate step.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from containers.contract import Frozen, Step
from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.parameters import EvaluateOptions, EvaluateParameters
from containers.plain_yaml import load_yaml
from containers.safe_path import path_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.contract import StepRequest

SHIPPED = Path(__file__).parent / "evaluate" / "suites"
DECLARATION = "suite.yaml"
_LIMIT = 4_000_000  # characters: a suite is held in memory
_CARRIED = (
    64 << 10
)  # bytes of JSON that a request carries: a Secret of Kubernetes takes 1 MiB, a run of Prefect 512 KiB


class SuiteFiles(Frozen):
    """`files` maps paths inside the suite's folder to their text. Raises BadInput for other paths, and for too much text."""

    name: str
    files: dict[str, str]
    shipped: bool = False

    def model_post_init(self, _: Any) -> None:
        for path in self.files:
            if fault := path_fault(path):
                raise BadInput(f"the file {path!r} of the suite {self.name} {fault}", remedy="rename the file")
        for path in self.files:
            above = next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in self.files), "")
            if above:
                raise BadInput(f"{above!r} of the suite {self.name} is a file and the folder of {path!r}")
        if sum(map(len, self.files.values())) > _LIMIT:
            raise BadInput(
                f"the suite {self.name} holds more than {_LIMIT} characters", remedy="move data sets out of it"
            )

    @property
    def content(self) -> bytes:
        """All files in one; `of_content` reads it."""
        return canonical_json(self.files)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)

    @property
    def max_model_len(self) -> int:
        """The length, in tokens, that its endpoint must have; 0 where the declaration does not say (evaluate refuses it)."""
        try:
            declared = load_yaml(self.files.get(DECLARATION, ""), DECLARATION)
            return int(declared["serving"]["max_model_len"])
        except (BadInput, KeyError, TypeError, ValueError, OverflowError):
            return 0

    @property
    def first_look(self) -> int:
        """1 where the suite is measured in looks, else 0; what they are is up to evaluate."""
        try:
            return int(bool(load_yaml(self.files.get(DECLARATION, ""), DECLARATION).get("looks")))
        except (BadInput, AttributeError):
            return 0

    @property
    def measures_speed(self) -> bool:
        """Whether it declares a `load`: what is measured then depends on the hardware, and on what else goes on there."""
        try:
            return "load" in load_yaml(self.files.get(DECLARATION, ""), DECLARATION)
        except (BadInput, TypeError):
            return False

    @property
    def parsers(self) -> tuple[str, ...]:
        """The parsers that its endpoint must have; none where the declaration does not say (evaluate refuses what is wrong)."""
        try:
            declared = load_yaml(self.files.get(DECLARATION, ""), DECLARATION)["serving"].get("parsers", ())
            return tuple(one for one in declared if isinstance(one, str))
        except (BadInput, KeyError, TypeError, AttributeError):
            return ()

    def parameters(self, **more: str | int) -> EvaluateParameters:
        """The parameters of an evaluate request for this suite."""
        return EvaluateParameters.model_validate({"suite": self.name, "suite_digest": self.digest, **more})

    def options(self, keep: Callable[[bytes], object] | None = None, **more: object) -> EvaluateOptions:
        """The options of an evaluate request: a suite of the user's own travels with it.

        Of a large one only the declaration does. The rest goes to the store, by `keep`, as the blob with the suite's digest; without
        `keep` all of it is in the request.
        """
        if self.shipped:
            return EvaluateOptions.model_validate(more)
        if keep is None or len(self.content) <= _CARRIED:
            return EvaluateOptions.model_validate({"suite_files": self.files, **more})
        keep(self.content)
        declared = {path: text for path, text in self.files.items() if path == DECLARATION}
        return EvaluateOptions.model_validate({"suite_files": declared, "suite_stored": True, **more})

    @classmethod
    def of_content(cls, name: str, content: bytes) -> SuiteFiles:
        """A suite from the store; raises BadInput for what is none."""
        try:
            return cls.model_validate({"name": name, "files": json.loads(content)})
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"what the store has as the suite {name} is not a suite", remedy="start the run again"
            ) from error


def makes_load(request: StepRequest) -> bool:
    """Whether the request puts load on an endpoint, for which its step needs vLLM's load generator."""
    measures = request.step is Step.EVALUATE and request.parameters.get("action") == "measure"
    if not measures or not request.options.get("endpoint"):
        return False
    options = EvaluateOptions.read(request.options)
    name = EvaluateParameters.read(request.parameters).suite
    files = SuiteFiles(name=name, files=options.suite_files) if options.suite_files else read(name)
    return files.measures_speed


def names() -> list[str]:
    """The suites that ship with the project."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{DECLARATION}"))


def read(suite: str) -> SuiteFiles:
    """The suite of that name, or in that folder; raises BadInput when there is none or it is not text."""
    folder = SHIPPED / suite if suite in names() else Path(suite)
    if "\0" in suite or not (folder / DECLARATION).is_file():
        near = get_close_matches(suite, names(), 1)
        raise BadInput(
            f"there is no suite {suite!r}" + (f", did you mean {near[0]}?" if near else ""),
            remedy=f"give one of {', '.join(names())}, or a folder with a {DECLARATION} in it",
        )
    files: dict[str, str] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        if any(part.startswith((".", "__")) for part in path.relative_to(folder).parts):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise BadInput(
                f"{path} in the suite {suite} is a link that leaves its folder", remedy="copy the file into the suite"
            )
        if not path.is_file():
            continue
        size += path.stat().st_size
        if size > 4 * _LIMIT:  # bytes of UTF-8
            raise BadInput(f"the suite {suite} holds more than {_LIMIT} characters", remedy="move data sets out of it")
        try:
            files[path.relative_to(folder).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} in the suite {suite} is not UTF-8 text") from error
        except OSError as error:
            raise BadInput(f"{path} in the suite {suite} cannot be read: {error.strerror}") from error
    return SuiteFiles(name=folder.resolve().name, files=files, shipped=folder.parent == SHIPPED)
