"""Suites of speed: what is declared, what the load generator says, and what two measurements say of each other."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from containers import suites
from containers.errors import BadInput, Temporary
from containers.evaluate import kinds
from containers.evaluate.kinds.load import LoadSuite
from containers.evaluate.load import page
from containers.evaluate.load.declaration import LoadDeclaration, LoadSection, Saturation, Slo
from containers.evaluate.load.generator import Generator
from containers.evaluate.load.judge import judge
from containers.evaluate.load.measurement import LoadMeasured, SpeedMeasurement
from containers.evaluate.load.measures import LATENCIES, MEASURES
from containers.evaluate.suite import Sizes
from containers.events import Reporter
from containers.parameters import EvaluateOptions
from containers.suites import SuiteFiles
from containers.verdict import Verdict
from flows.release.card import check, render
from tests.support.cards import FACTS

if TYPE_CHECKING:
    from pathlib import Path

DECLARED = """
schema_version: 1
name: quick
description: A load.
serving: {max_model_len: 256}
load: {prompt_tokens: 64, output_tokens: 16, rates: [1, 4], seconds: 5, saturation: {in_flight: 8, requests: 16}, rounds: 5}
"""
ROUNDS = (0.98, 0.99, 1.0, 1.01, 1.02)
HERE = "2 x Toy CPU (machine 01234567)"


def suite_of(text: str = DECLARED) -> SuiteFiles:
    return SuiteFiles(name="quick", files={"suite.yaml": text})


def with_slos(*slos: str) -> SuiteFiles:
    return suite_of(DECLARED + "slos:\n" + "".join(f"  - {{{slo}}}\n" for slo in slos))


def measured(files: SuiteFiles, slower: float = 1.0, noise: float = 1.0, **more: Any) -> SpeedMeasurement:
    """Every latency is 100 ms times `slower`, every throughput 50 divided by it, rounds differ by 2 % times `noise`."""

    def rounds() -> tuple[dict[str, float], ...]:
        spread = [1 + (one - 1) * noise for one in ROUNDS]
        return tuple(
            {name: (100 * slower * one if name in LATENCIES else 50 / slower * one) for name in MEASURES}
            for one in spread
        )

    loads = (
        LoadMeasured(rate=1, requests=5, rounds=rounds()),
        LoadMeasured(rate=4, requests=20, rounds=rounds()),
        LoadMeasured(rate=None, in_flight=8, requests=16, rounds=rounds()),
    )
    values = {
        "suite": "quick",
        "suite_digest": files.digest,
        "subject": "sha256:1",
        "server": "vllm 1",
        "server_version": "1",
        "hardware": HERE,
        "generator": "vllm bench serve of vllm 1",
        "prompt_tokens": 64,
        "output_tokens": 16,
        "loads": loads,
    }
    return SpeedMeasurement.model_validate(values | more)


def verdict(files: SuiteFiles, candidate: SpeedMeasurement, baseline: SpeedMeasurement) -> Any:
    return judge(files, LoadSuite.read(files).declared, candidate, baseline).verdict


def test_the_suites_that_ship_are_of_this_kind() -> None:
    for name in ("speed", "speed-chat"):
        files = suites.read(name)
        assert files.measures_speed
        assert isinstance(kinds.load(files), LoadSuite)
    assert not suites.read("smoke").measures_speed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rates: [1, 4]", "rates: [4, 1]"), "rates must ascend"),
        (
            ("rates: [1, 4], seconds: 5, saturation: {in_flight: 8, requests: 16}, ", ""),
            "give rates, saturation, or both",
        ),
        (("prompt_tokens: 64", "prompt_tokens: 250"), "prompt and answer have 266 tokens"),
        (("rounds: 5", "rounds: 2"), "greater than or equal to 3"),
        (("rates: [1, 4]", "rates: [1, .inf]"), "less than or equal to 10000"),
        (("seconds: 5", "seconds: 1.0e+300"), "less than or equal to 86400"),
        (("seconds", "second"), "did you mean seconds"),
    ],
)
def test_a_load_that_cannot_be_is_refused(change: tuple[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LoadSuite.read(suite_of(DECLARED.replace(*change)))


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        ("measure: ttft_p95, load: 1, at_most: 5", "one of ttft_p50"),
        ("measure: ttft_p99, load: 2, at_most: 5", "for the load 2.0, which is not measured"),
        ("measure: ttft_p99, load: 1", "give exactly one of at_most"),
        ("measure: ttft_p99, load: 1, at_most: 5, ratio_at_most: 2", "give exactly one of at_most"),
        ("measure: ttft_p99, load: 1, at_least: 5", "better when it is less"),
        ("measure: requests_per_second, load: saturation, ratio_at_most: 1", "better when it is more"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(slo: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LoadSuite.read(with_slos(slo))


def test_without_objectives_nothing_is_decided_and_slower_is_said() -> None:
    """By hand: 20 % slower; throughput 50 / 1.2 = 41.67, ratio 0.83, from 0.98/1.02/1.2 = 0.80 to 1.02/0.98/1.2 = 0.87."""
    files = suite_of()
    found = verdict(files, measured(files, slower=1.2), measured(files))
    assert found.decision == "inconclusive"
    assert found.reasons[0] == (
        f"The candidate is slower than its baseline on {HERE}: 41.67 output tokens a second at saturation, baseline 50 "
        "(ratio 0.83, 0.80 to 0.87)."
    )
    assert found.reasons[1].startswith(
        f"The candidate is slower than its baseline on {HERE}: 120 ms for the median answer at 1 request a second"
    )
    assert "decides nothing" in found.reasons[-1]
    assert found.speed.sentences == found.reasons[:2]
    assert Verdict.read(found.dump()) == found


@pytest.mark.parametrize(
    ("slower", "noise", "slo", "decision"),
    [
        (1.0, 1, "measure: ttft_p99, load: 4, at_most: 103", "pass"),
        (1.0, 1, "measure: ttft_p99, load: 4, at_most: 97", "refuse"),
        (1.0, 1, "measure: ttft_p99, load: 4, at_most: 101", "inconclusive"),
        (1.0, 1, "measure: itl_p50, load: 1, ratio_at_most: 1.05", "pass"),
        (1.2, 1, "measure: itl_p50, load: 1, ratio_at_most: 1.05", "refuse"),
        (1.0, 4, "measure: itl_p50, load: 1, ratio_at_most: 1.05", "inconclusive"),  # noise larger than the margin
        (0.8, 1, "measure: output_tokens_per_second, load: saturation, ratio_at_least: 0.95", "pass"),
        (1.2, 1, "measure: output_tokens_per_second, load: saturation, ratio_at_least: 0.95", "refuse"),
        (1.05, 1, "measure: output_tokens_per_second, load: saturation, ratio_at_least: 0.95", "inconclusive"),
    ],
)
def test_an_objective_is_decided_by_all_rounds(slower: float, noise: float, slo: str, decision: str) -> None:
    files = with_slos(slo)
    found = verdict(files, measured(files, slower=slower, noise=noise), measured(files, noise=noise))
    assert found.decision == decision
    assert [row.decision for row in found.speed.rows if row.slo] == [decision]


def test_where_the_noise_hides_a_difference_none_is_claimed() -> None:
    files = suite_of()
    found = verdict(files, measured(files, slower=1.02, noise=2), measured(files, noise=2))
    assert found.reasons[0].startswith(f"The noise hides whether the candidate is slower or faster on {HERE}: 49.02 ")
    faster = verdict(files, measured(files, slower=0.5), measured(files))
    assert all(reason.startswith("The candidate is faster than its baseline") for reason in faster.reasons[:2])


def test_one_missed_objective_refuses() -> None:
    files = with_slos("measure: ttft_p50, load: 1, at_most: 500", "measure: e2e_p50, load: 1, ratio_at_most: 1.1")
    found = verdict(files, measured(files, slower=2), measured(files))
    assert found.decision == "refuse"
    assert "Time to first token, p50, ms at 1 request a second, at most 500, is met: 200 (196 to 204)." in found.reasons
    assert any("at most 1.1 of the baseline's, is missed: 2.000" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ({"hardware": "1 x H100"}, "times from different hardware are not compared"),
        ({"hardware": ""}, "the candidate on hardware that is not known"),
        ({"server_version": "2"}, "served by version 1 and the candidate by 2"),
        ({"generator": "vllm bench serve of vllm 2"}, "the load was made by"),
    ],
)
def test_what_is_not_alike_is_not_compared(candidate: dict[str, Any], said: str) -> None:
    files = suite_of()
    with pytest.raises(BadInput, match=said):
        verdict(files, measured(files, **candidate), measured(files))


def test_emulation_and_unknown_hardware_are_said() -> None:
    files = suite_of()
    told = " ".join(
        verdict(files, measured(files, hardware="", emulated_fp8=True), measured(files, hardware="")).reasons
    )
    assert "FP8 is emulated in bfloat16 on these processors" in told
    assert "is not known here" in told


def test_a_measurement_is_read_back_and_nothing_else(tmp_path: Path) -> None:
    files = suite_of()
    one = measured(files)
    for path, content in one.files().items():
        (tmp_path / path).write_bytes(content)
    assert SpeedMeasurement.read(tmp_path) == one
    judged = LoadSuite.read(files).judge(tmp_path, tmp_path, Sizes())
    assert judged.verdict.decision == "inconclusive"
    (tmp_path / "load.json").write_text("{}")
    with pytest.raises(BadInput, match="not a measurement of speed"):
        SpeedMeasurement.read(tmp_path)


def test_the_page_and_the_card_show_both() -> None:
    files = with_slos("measure: ttft_p99, load: 4, at_most: 500")
    slow = measured(files, slower=1.2, hardware="1 x <b>GPU</b>")
    report = judge(files, LoadSuite.read(files).declared, slow, measured(files, hardware="1 x <b>GPU</b>"))
    html = page.render(report)
    assert "<b>GPU" not in html
    assert html.count("<svg") == 4
    for text in (
        "Time to first token against load",
        "candidate, p99",
        "saturation",
        "at most 500",
        "8 in flight at once",
    ):
        assert text in html
    card = render(FACTS.model_copy(update={"speed": report.verdict.speed, "scores": ()}))
    check(card)
    _, _, table = card.partition("### Speed")
    assert "| 4/s | TTFT p99, ms | 100 | 120 | 1.20 (1.15 to 1.25) |" in table
    assert "Not measured by this suite." in card
    assert "### Speed" not in render(FACTS)


SECTION = LoadSection(
    prompt_tokens=8,
    output_tokens=4,
    rates=(2.0,),
    seconds=4,
    saturation=Saturation(in_flight=2, requests=4),
    rounds=3,
    warmup=2,
)


def player(folder: Path, change: str = "") -> Generator:
    """A generator that answers for vLLM: every round as asked, unless the change to `said` says otherwise."""
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "plan = json.load(open(sys.argv[2]))\n"
        "results = []\n"
        "for number, one in enumerate(plan['rounds']):\n"
        "    n = one['requests']\n"
        "    said = {'completed': float(n), 'failed': 0.0, 'total_input_tokens': 8.0 * n, 'total_output_tokens': 4.0 * n,\n"
        "            'request_throughput': number, 'output_throughput': one['rate'] or 7.0, 'errors': []}\n"
        "    said |= {f'{m}_p{p}': p + number for p in (50, 90, 99) for m in ('ttft', 'tpot', 'itl', 'e2e')}\n"
        f"    {change or 'pass'}\n"
        "    results.append(said)\n"
        "    print('carwright-round', number, os.environ.get('OPENAI_API_KEY'), flush=True)\n"
        "json.dump(results, open(sys.argv[3], 'w'))\n"
    )
    program.chmod(0o755)
    return Generator(program, "vllm 1")


def run(generator: Generator, folder: Path) -> tuple[LoadMeasured, ...]:
    options = EvaluateOptions(endpoint="http://127.0.0.1:1/v1", served_model_name="m")
    report = Reporter(io.StringIO())
    return generator.run(SECTION, options, key="k", seed=1, scratch=folder / "s", report=report)


def test_loads_are_measured_in_turn_after_a_warm_up(tmp_path: Path) -> None:
    """Rounds 0 (warm-up), then rate, saturation, rate, saturation, ...: those of the rate are 1, 3 and 5."""
    rate, most = run(player(tmp_path), tmp_path)
    plan = json.loads((tmp_path / "s" / "plan.json").read_text())
    assert [(one["requests"], one["rate"], one["in_flight"]) for one in plan["rounds"]] == [
        (2, None, 2),
        *[(8, 2.0, None), (4, None, 2)] * 3,
    ]
    assert len({one["seed"] for one in plan["rounds"]}) == 7
    assert (rate.name, rate.requests, most.name, most.in_flight) == ("2/s", 8, "saturation", 2)
    assert [one["requests_per_second"] for one in rate.rounds] == [1, 3, 5]
    assert [one["e2e_p99"] for one in most.rounds] == [101, 103, 105]
    assert [one["output_tokens_per_second"] for one in most.rounds] == [7, 7, 7]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            "said['completed'] -= 1; said['failed'] = 1.0; said['errors'] = ['no way']",
            Temporary,
            "1 of 2 requests failed: no way",
        ),
        (
            "said['completed'] = 0.0; said['failed'] = n; said['errors'] = ['Not Found']",
            BadInput,
            "the endpoint refused all 2 requests of a round: Not Found",
        ),
        (
            "said['completed'] = 0.0; said['failed'] = n; said['errors'] = ['Too Many Requests']",
            Temporary,
            "2 of 2 requests failed: Too Many Requests",
        ),
        (  # it has answered before
            "if number == 2: said['completed'] = 0.0; said['failed'] = n; said['errors'] = ['Not Found']",
            Temporary,
            "4 of 4 requests failed: Not Found",
        ),
        ("said['total_output_tokens'] -= 1", BadInput, "counts 7 output_tokens where 8 were asked for"),
        ("said['total_input_tokens'] += 2", BadInput, "counts 18 prompt_tokens where 16"),
        ("del said['itl_p99']", BadInput, "does not say what it measured"),
        ("said['ttft_p50'] = float('nan')", BadInput, "does not say what it measured"),
        ("said['output_throughput'] = float('inf')", BadInput, "does not say what it measured"),
        ("sys.exit(3)", Temporary, "ended with code 3"),
        ("results = results[:2]", Temporary, "ended after 3 of 7 rounds"),
    ],
)
def test_anything_but_the_load_that_was_asked_for_is_an_error(
    tmp_path: Path, change: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(player(tmp_path, change), tmp_path)


def test_a_python_without_vllm_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no vLLM") as caught:
        Generator.find(None)
    assert "CARWRIGHT_EVALUATE__LOAD_PYTHON" in caught.value.remedy


def test_limits_are_told_in_words() -> None:
    assert str(Slo(measure="ttft_p99", load=2, at_most=500)) == "at most 500"
    assert (
        str(Slo(measure="requests_per_second", load="saturation", ratio_at_least=0.95))
        == "at least 0.95 of the baseline's"
    )
    assert LoadDeclaration.model_fields["slos"].default == ()
