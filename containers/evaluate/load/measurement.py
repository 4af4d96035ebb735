"""The measurement of one model under load: one artifact of kind `measurement` with the file load.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.digest import Digest, canonical_json
from containers.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "load.json"


class LoadMeasured(Frozen):
    """One load: `rate` in requests a second, None at saturation; `in_flight` 0 is unbounded. `rounds` hold a value for each
    of `measures.MEASURES`.
    """

    rate: float | None
    in_flight: int = 0
    requests: int
    rounds: tuple[dict[str, float], ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        return "saturation" if self.rate is None else f"{self.rate:g}/s"


class SpeedMeasurement(Frozen):
    """`hardware` is what the model was served on, empty where that is not known; `generator` what made the load."""

    schema_version: Literal[1] = 1
    suite: str
    suite_digest: Digest
    subject: str
    server: str
    server_version: str
    hardware: str
    emulated_fp8: bool = False
    generator: str
    prompt_tokens: int
    output_tokens: int
    loads: tuple[LoadMeasured, ...] = Field(min_length=1)

    def files(self) -> dict[str, bytes]:
        """The artifact's files by path."""
        return {FILE: canonical_json(self.model_dump(mode="json"))}

    @classmethod
    def read(cls, folder: Path) -> SpeedMeasurement:
        """Read a materialized artifact; raises BadInput when it is no measurement of speed."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise BadInput(f"not a measurement of speed: {error}", remedy="measure the model again") from error
