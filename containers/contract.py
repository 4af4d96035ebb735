"""The contract between flows and steps: everything that they exchange.

A step is a command with a JSON request and a JSON result:

    python -m containers.<step> --request request.json --result result.json

Both are frozen. An unknown field is refused: a newer flow and an older image cannot silently misunderstand each other.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from containers.digest import Digest, canonical_json
from containers.errors import BadInput, faults

SCHEMA_VERSION: Final = 1
GateProfile = Literal["smoke", "release"]


class Frozen(BaseModel):
    """A value: immutable, and strict about the names of its fields. An alias is a field's name in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Step(StrEnum):
    """The steps, in the order of the chain."""

    DOWNLOAD = "download"
    QUANTIZE = "quantize"
    PUSH = "push"
    SERVE = "serve"
    EVALUATE = "evaluate"


class Kind(StrEnum):
    """What an artifact is."""

    CHECKPOINT = "checkpoint"
    GROUP = "group"
    MEASUREMENT = "measurement"
    VERDICT = "verdict"
    CARD = "card"


class ArtifactRef(Frozen):
    """Points at one artifact in the store.

    `fingerprint` (64 hex digits) names the manifest and says what made it; `digest` is the digest of the
    contents (see `containers.store.manifest`). Two sources with the same files have two fingerprints and
    one digest, and what is made from them is made once.
    """

    kind: Kind
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    digest: Digest


class StoreLocation(Frozen):
    """Where the store is. Credentials are not part of it: they reach a step through its environment."""

    endpoint: str | None = Field(default=None, description="URL of an S3 endpoint; none means AWS itself")
    bucket: str = "carwright"
    prefix: str = ""
    region: str = "us-east-1"


class StepRequest(Frozen):
    """What a step is asked to do.

    `inputs` and `parameters` decide the bytes of the outputs and are part of the fingerprint. `options` never
    change a byte (where, how fast, with how much memory) and are left out of it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    step: Step
    run: str = Field(description="identity of the run, for logs and labels")
    inputs: dict[str, ArtifactRef] = {}
    parameters: dict[str, JsonValue] = {}
    options: dict[str, JsonValue] = {}
    store: StoreLocation = StoreLocation()

    def fingerprint(self, fingerprint_inputs: dict[str, str]) -> str:
        """64 hex digits that name the output of this request.

        `fingerprint_inputs` is what else can change the bytes: the step's own bytes version and the versions of the
        libraries that do the arithmetic (see `containers.fingerprints`). Inputs count by content, so that the
        same checkpoint from another place gives the same fingerprint. Raises BadInput for a parameter that is no
        number (NaN, infinity).
        """
        identity: dict[str, Any] = {
            "step": self.step.value,
            "inputs": {name: str(ref.digest) for name, ref in self.inputs.items()},
            "parameters": self.parameters,
            "determinants": fingerprint_inputs,
        }
        try:
            return hashlib.sha256(canonical_json(identity)).hexdigest()
        except ValueError as error:
            raise BadInput(f"the parameters of {self.step} cannot be written as JSON: {error}") from error


class StepResult(Frozen):
    """What a step has done.

    `outputs` are artifacts in the store; `values` is what else the next step or a person needs (a reference, an
    endpoint); `metrics` are numbers with their unit in the name (`bytes_read`); `timings` are seconds;
    `versions` are the tools that did the work.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    step: Step
    outputs: dict[str, ArtifactRef] = {}
    values: dict[str, JsonValue] = {}
    metrics: dict[str, float] = {}
    timings: dict[str, float] = {}
    versions: dict[str, str] = {}


class Values(Frozen):
    """Base of the typed views on `parameters`, `options` and `values`, one class per step and direction."""

    def dump(self) -> dict[str, JsonValue]:
        """As JSON values, defaults included: a changed default changes the fingerprint."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, values: dict[str, JsonValue]) -> Self:
        """The typed view; raises BadInput, which names the field, for what does not fit and for unknown names."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadInput(f"not {cls.__name__}: {faults(error)}") from error
