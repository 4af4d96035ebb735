"""The sections of a suite of speed: the load that is put on the endpoint, and the objectives (SLOs) that it must meet."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from containers.contract import Frozen
from containers.evaluate.declaration import Declaration, Positive
from containers.evaluate.load.measures import LATENCIES, MEASURES, THROUGHPUTS

_FEWEST: Final = 4  # requests of a round: a percentile of fewer is none
_MOST: Final = 10_000  # requests a second: more than one process sends
_LONGEST: Final = 86_400  # seconds


class Saturation(Frozen):
    """So many requests in flight at once, each followed by the next one as soon as it is answered."""

    in_flight: Positive
    requests: Positive


class LoadSection(Frozen):
    """Prompts and answers of so many tokens; rates in requests a second, which arrive at random (a Poisson process).

    Every load is measured `rounds` times, the loads in turn; a round of a rate takes about `seconds`. `warmup` requests
    come before all of them and are not counted.
    """

    prompt_tokens: Positive
    output_tokens: Annotated[int, Field(ge=2)]
    rates: tuple[Annotated[float, Field(gt=0, le=_MOST)], ...] = ()
    seconds: Annotated[float, Field(gt=0, le=_LONGEST)] = 20.0
    saturation: Saturation | None = None
    rounds: Annotated[int, Field(ge=3, le=50)] = 5
    warmup: Positive = 8

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.rates and self.saturation is None:
            raise ValueError("give rates, saturation, or both")
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError("rates must ascend")
        return self

    def requests(self, rate: float) -> int:
        """How many requests a round of this rate has."""
        return max(_FEWEST, round(rate * self.seconds))


class Slo(Frozen):
    """One objective, with exactly one limit: of the candidate's own value, or of candidate / baseline.

    Latencies are in milliseconds. `load` is one of the rates, or `saturation`.
    """

    measure: str
    load: float | Literal["saturation"]
    at_most: Annotated[float, Field(gt=0)] | None = None
    at_least: Annotated[float, Field(gt=0)] | None = None
    ratio_at_most: Annotated[float, Field(gt=0)] | None = None
    ratio_at_least: Annotated[float, Field(gt=0)] | None = None

    @field_validator("measure")
    @classmethod
    def _known(cls, measure: str) -> str:
        if measure not in MEASURES:
            raise ValueError(f"one of {', '.join(MEASURES)}")
        return measure

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        given = [name for name in ("at_most", "at_least", "ratio_at_most", "ratio_at_least") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give exactly one of at_most, at_least, ratio_at_most and ratio_at_least")
        upper = given[0].endswith("at_most")
        if upper and self.measure in THROUGHPUTS:
            raise ValueError(f"{self.measure} is better when it is more: give at_least or ratio_at_least")
        if not upper and self.measure in LATENCIES:
            raise ValueError(f"{self.measure} is better when it is less: give at_most or ratio_at_most")
        return self

    @property
    def relative(self) -> bool:
        """Whether the limit is one of candidate / baseline."""
        return self.ratio_at_most is not None or self.ratio_at_least is not None

    @property
    def upper(self) -> float | None:
        return self.at_most if self.at_most is not None else self.ratio_at_most

    @property
    def lower(self) -> float | None:
        return self.at_least if self.at_least is not None else self.ratio_at_least

    def __str__(self) -> str:
        side, limit = ("at most", self.upper) if self.upper is not None else ("at least", self.lower)
        return f"{side} {limit:g}" + (" of the baseline's" if self.relative else "")


class LoadDeclaration(Declaration):
    """Without `slos` the suite reports and decides nothing."""

    load: LoadSection
    slos: tuple[Slo, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = self.load.prompt_tokens + self.load.output_tokens
        if needed > self.serving.max_model_len:
            raise ValueError(
                f"prompt and answer have {needed} tokens, serving.max_model_len {self.serving.max_model_len}"
            )
        for slo in self.slos:
            known = slo.load in self.load.rates if isinstance(slo.load, float) else self.load.saturation is not None
            if not known:
                raise ValueError(f"the objective for {slo.measure} is for the load {slo.load}, which is not measured")
        return self
