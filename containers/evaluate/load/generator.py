"""Runs the load generator, vLLM's own benchmark, with a Python that has vLLM, and checks that the load was the one asked for.

GuideLLM would be the other choice. Its lock would hold 97 packages with torch among them, which it uses to loop over
prompts; vLLM's benchmark comes with the server that is measured.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import FiniteFloat, ValidationError, field_validator

from containers.contract import Frozen
from containers.errors import BadInput, Interrupted, Temporary
from containers.evaluate.load.measurement import LoadMeasured
from containers.evaluate.load.measures import LATENCIES
from containers.fingerprints import VLLM_DISTRIBUTIONS
from containers.foreign_text import one_line
from containers.interpreter import versions
from containers.process import Child, inherited

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.load.declaration import LoadSection
    from containers.events import Reporter
    from containers.parameters import EvaluateOptions

_PROGRAM: Final = Path(__file__).with_name("vllm_load.py")
_ROUND: Final = "carwright-round "
_START: Final = 300.0  # seconds for importing vLLM, on a busy machine
_POLL: Final = 0.1  # seconds
# Of an answer with another status than 200, vLLM's generator tells the words. These come again, if the first round already gets them.
_REFUSED: Final = {one.phrase for one in HTTPStatus if 400 <= one < 500} - {
    HTTPStatus.TOO_MANY_REQUESTS.phrase,
    HTTPStatus.REQUEST_TIMEOUT.phrase,
}
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")  # the endpoint is addressed directly


class RoundResult(Frozen):
    """What the program says of one round; latencies in milliseconds by `measures.LATENCIES`."""

    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: FiniteFloat
    output_throughput: FiniteFloat
    latencies: dict[str, FiniteFloat]
    errors: tuple[str, ...] = ()

    @field_validator("completed", "failed", "total_input_tokens", "total_output_tokens", mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> RoundResult:
        """Raises ValidationError or KeyError for what is none."""
        latencies = {name: round(float(said[name]), 3) for name in LATENCIES}
        known = {name: value for name, value in said.items() if name in cls.model_fields}
        return cls.model_validate({**known, "latencies": latencies})

    def measures(self) -> dict[str, float]:
        """A value for each of `measures.MEASURES`."""
        return {
            **self.latencies,
            "requests_per_second": round(self.request_throughput, 4),
            "output_tokens_per_second": round(self.output_throughput, 3),
        }


@dataclass(frozen=True)
class Generator:
    """The load generator of one Python: the vLLM that it has."""

    python: Path
    version: str

    @classmethod
    def find(cls, python: Path | None) -> Generator:
        """That of this Python, or of the one that runs this step; raises BadInput when it has no vLLM."""
        chosen = python or Path(sys.executable)
        found = versions(chosen, VLLM_DISTRIBUTIONS)
        if not found:
            raise BadInput(
                f"a suite of speed needs vLLM's load generator, and {chosen} has no vLLM",
                remedy="name a Python that has it: CARWRIGHT_EVALUATE__LOAD_PYTHON",
            )
        return cls(chosen, " ".join(next(iter(found.items()))))

    def run(
        self,
        section: LoadSection,
        options: EvaluateOptions,
        *,
        key: str,
        seed: int,
        scratch: Path,
        report: Reporter,
    ) -> tuple[LoadMeasured, ...]:
        """Measure all loads of a suite at the options' endpoint; `key` is the endpoint's, `seed` decides when requests arrive.

        Raises Temporary when a request fails or the time is over, BadInput when the endpoint does not do what it is asked.
        """
        loads = _loads(section)
        asked = [_warmup(section, seed)]
        for number in range(section.rounds):
            asked += [
                {"requests": one.requests, "rate": one.rate, "in_flight": one.in_flight or None, "seed": seed + 1 + at}
                for at, one in enumerate(loads, number * len(loads))
            ]
        plan = {
            "url": options.endpoint.rstrip("/"),
            "model": options.served_model_name,
            "prompt_tokens": section.prompt_tokens,
            "output_tokens": section.output_tokens,
            "prompts": secrets.randbits(64),
            "rounds": asked,
        }
        said = self._run(plan, options.request_timeout, key, scratch, report)
        results = [_checked(plan, one, result) for one, result in zip(asked, said, strict=False)]
        if len(results) != len(asked):
            raise Temporary(f"the load generator ended after {len(results)} of {len(asked)} rounds")
        counted = results[1:]
        return tuple(
            one.model_copy(update={"rounds": tuple(result.measures() for result in counted[at :: len(loads)])})
            for at, one in enumerate(loads)
        )

    def _run(
        self,
        plan: Mapping[str, Any],
        timeout: float,
        key: str,
        scratch: Path,
        report: Reporter,
    ) -> list[Any]:
        asked: Sequence[Mapping[str, Any]] = plan["rounds"]
        scratch.mkdir(parents=True, exist_ok=True)
        ask, answer = scratch / "plan.json", scratch / "result.json"
        ask.write_text(json.dumps(plan))
        env = {name: value for name, value in inherited().items() if name.lower() not in _PROXIES}
        env |= {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        if key:
            env["OPENAI_API_KEY"] = key
        lasting = sum(one["requests"] / one["rate"] if one["rate"] else 0.0 for one in asked)
        deadline = time.monotonic() + _START + lasting + 2 * timeout * len(asked)
        with report.progress("load", total=len(asked), unit="rounds") as progress:

            def on_line(line: str) -> None:
                if line.startswith(_ROUND):
                    progress.advance(1)

            child = Child([str(self.python), str(_PROGRAM), str(ask), str(answer)], env, on_line=on_line)
            with child:
                while (code := child.poll()) is None:
                    if time.monotonic() > deadline:
                        raise Temporary(
                            "the load took too long",
                            remedy="give the suite lower rates or fewer requests, or raise CARWRIGHT_EVALUATE__REQUEST_TIMEOUT",
                        )
                    time.sleep(_POLL)
                child.stop()  # reads what is left of its output
                if code < 0:
                    raise Interrupted(f"the load generator was ended by signal {-code}")
                if code:
                    raise Temporary(
                        f"the load generator ({self.version}) ended with code {code}; its last lines:\n{child.tail}",
                        remedy="see the server's log, then measure again; nothing was stored",
                    )
        said = json.loads(answer.read_text())
        assert isinstance(said, list)
        return said


def _loads(section: LoadSection) -> tuple[LoadMeasured, ...]:
    """The suite's loads, not measured yet."""
    loads = [
        LoadMeasured.model_construct(rate=rate, in_flight=0, requests=section.requests(rate), rounds=())
        for rate in section.rates
    ]
    if section.saturation is not None:
        most = section.saturation
        loads.append(
            LoadMeasured.model_construct(rate=None, in_flight=most.in_flight, requests=most.requests, rounds=())
        )
    return tuple(loads)


def _warmup(section: LoadSection, seed: int) -> dict[str, Any]:
    """The first round: what is compiled, captured or allocated late is not measured."""
    at_once = section.saturation.in_flight if section.saturation is not None else section.warmup
    return {"requests": section.warmup, "rate": None, "in_flight": at_once, "seed": seed}


def _checked(plan: Mapping[str, Any], asked: Mapping[str, Any], said: Mapping[str, Any]) -> RoundResult:
    """The result of one round, if all of it was answered as asked: anything else would be another load."""
    try:
        result = RoundResult.of(said)
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"the load generator does not say what it measured: {error}",
            remedy="use a vLLM from 0.23 on: CARWRIGHT_EVALUATE__LOAD_PYTHON",
        ) from error
    if result.failed or result.completed != asked["requests"]:
        why = one_line(result.errors[0]) if result.errors else "no reason given"
        if asked is plan["rounds"][0] and not result.completed and why in _REFUSED:
            raise BadInput(
                f"the endpoint refused all {asked['requests']} requests of a round: {why}",
                remedy="see the server's log; speed is measured with vLLM, whose completions take prompts of token ids (100 to 20,000)",
            )
        raise Temporary(
            f"{asked['requests'] - result.completed} of {asked['requests']} requests failed: {why}",
            remedy="see the server's log, then measure again; nothing was stored",
        )
    wanted = {"total_input_tokens": "prompt_tokens", "total_output_tokens": "output_tokens"}
    for counted, each in wanted.items():
        if getattr(result, counted) != plan[each] * asked["requests"]:
            raise BadInput(
                f"the endpoint counts {getattr(result, counted)} {each} where {plan[each] * asked['requests']} were asked for",
                remedy="speed is measured with vLLM, which takes prompts of token ids whole, counts tokens and knows ignore_eos",
            )
    return result
