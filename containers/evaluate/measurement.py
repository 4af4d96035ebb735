"""The measurement of one model with one suite, and the files it is stored in.

An artifact of kind `measurement` holds

    measurement.json   Measurement, canonical JSON
    tokens.npy         int32 [n]      token ids of all passages, one after the other
    logprobs.npy       float32 [n]    natural logarithm of each token's probability; NaN for a passage's first token
    top_ids.npy        int32 [n, k]   the k likeliest tokens at each position, likeliest first; -1 where unknown
    top_logprobs.npy   float32 [n, k] their log-probabilities; NaN where unknown

The .npy format (numpy.lib.format, version 1.0) holds nothing but type, shape and values: same values, same bytes.
"""

from __future__ import annotations

import io
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.digest import Digest, canonical_json
from containers.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DECLARATION = "measurement.json"
_ARRAYS = ("tokens", "logprobs", "top_ids", "top_logprobs")


class Check(Frozen):
    """One sanity check. `detail` describes the observation, as a sentence without the check's name."""

    name: str
    passed: bool
    detail: str


class Passage(Frozen):
    """Where a passage lies in the arrays: tokens `start` to `start + tokens`."""

    path: str
    start: int
    tokens: int


class Noise(Frozen):
    """How much the server differs from itself, on a repeated passage and repeated greedy prompts."""

    abs_dlogp_mean: float
    abs_dlogp_max: float
    greedy_alike: float
    greedy_repeats: int
    concurrent_alike: float


class Speed(Frozen):
    """`first_token` in seconds, the rest in tokens a second; `alone` is one request at a time."""

    first_token: float
    alone: float
    concurrent: float
    prefill: float


class RequestCounts(Frozen):
    sent: int
    retried: int
    failed: int


class Scored(Frozen):
    """One benchmark: scores from 0 to 1 by question (`<task>/<number>`), the same questions for every model.

    `reported` is the score that the harness itself prints, in points: it differs from the mean of the questions where a
    group weighs its tasks otherwise. `margin` is in points, None the suite's. `category` is the card's first column.
    `clusters` names what questions have in common that are not independent: the prompt of several instructions, the text
    that several questions are about. Questions without an entry are independent. `margins` tells, in nats, how far the
    right choice's log-probability lies above the best wrong one's, of every question or of none. What is not `averaged` is no part of
    an average. In a suite with looks each score of one look is the mean of so many `answers`.
    """

    key: str
    title: str
    scores: dict[str, float] = Field(min_length=1)
    category: str = ""
    data_set: str = ""
    metric: str = "accuracy"
    fewshot: int = 0
    margin: float | None = None
    reported: float | None = None
    clusters: dict[str, str] = Field(default_factory=dict)
    margins: dict[str, float] = Field(default_factory=dict, exclude_if=operator.not_)
    averaged: bool = Field(default=True, exclude_if=operator.truth)
    answers: int = Field(default=1, ge=1, exclude_if=lambda value: bool(value == 1))


class Measurement(Frozen):
    """Everything but the arrays. `non_finite` counts positions that have no finite log-probability; `tasks` are the
    small benchmarks of the suite.
    """

    schema_version: Literal[1] = 1
    suite: str
    suite_digest: Digest
    subject: str
    server: str = Field(alias="engine")
    server_version: str = Field(alias="engine_version")
    max_model_len: int
    checks: tuple[Check, ...]
    answers: dict[str, str]
    chat_template_tokens: tuple[int, ...]
    passages: tuple[Passage, ...]
    non_finite: int
    noise: Noise
    speed: Speed
    requests: RequestCounts
    tensor_parallel_size: int = 1
    tasks: tuple[Scored, ...] = ()


@dataclass(frozen=True)
class Arrays:
    """Per-token numbers of all passages; see the module's text for shapes and types."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    @classmethod
    def join(cls, parts: list[Arrays]) -> Arrays:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS))


@dataclass(frozen=True)
class Measured:
    about: Measurement
    arrays: Arrays

    def with_tasks(self, tasks: tuple[Scored, ...], requests: RequestCounts) -> Measured:
        """The same with the suite's small benchmarks; their requests are added to those that were counted."""
        before = self.about.requests
        counted = RequestCounts(
            sent=before.sent + requests.sent,
            retried=before.retried + requests.retried,
            failed=before.failed + requests.failed,
        )
        about = self.about.model_copy(update={"tasks": tasks, "requests": counted})
        return Measured(about, self.arrays)

    def with_check(self, check: Check) -> Measured:
        """The same with one more sanity check."""
        return Measured(self.about.model_copy(update={"checks": (*self.about.checks, check)}), self.arrays)

    def files(self) -> dict[str, bytes]:
        """The artifact's files by path."""
        files = {DECLARATION: canonical_json(self.about.model_dump(mode="json"))}
        for name in _ARRAYS:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(getattr(self.arrays, name)), version=(1, 0))
            files[f"{name}.npy"] = buffer.getvalue()
        return files

    @classmethod
    def read(cls, folder: Path) -> Measured:
        """Read a materialized artifact; raises BadInput when it is not a measurement."""
        try:
            about = Measurement.model_validate_json((folder / DECLARATION).read_bytes())
            arrays = Arrays(**{name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS})
        except (OSError, ValueError, ValidationError) as error:
            raise BadInput(f"not a measurement: {error}", remedy="measure the model again") from error
        return cls(about, arrays)
