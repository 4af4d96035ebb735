"""Scores of single questions out of the harness's samples: which belong together, and how many change when asked again."""

from __future__ import annotations

import math
from typing import Any

import pytest

from containers.errors import BadInput
from containers.evaluate.harness import questions
from containers.evaluate.harness.benchmark import Benchmark

ONE = Benchmark(
    key="x", title="X", task="x", metric="acc,none", num_fewshot=0, api="chat", max_length=64, samples=5, data_set="x/x"
)
STORY = "Nobody had seen the keeper of the lighthouse since the storm. " * 4


def of(samples: int) -> Benchmark:
    """The benchmark, with that many questions."""
    return ONE.model_copy(update={"samples": samples})


def sample(number: int, value: Any, **document: Any) -> dict[str, Any]:
    return {
        "filter": "none", "doc_id": number, "acc": value, "metrics": ["acc"], "doc": document, "prompt_hash": f"p{number}"
    }  # fmt: skip


def found(**samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"samples": samples, "results": {"x": {"acc,none": 0.5}}}


def test_questions_about_one_text_are_a_cluster() -> None:
    """Two subsets that hold the same question, and two questions about one story; short texts in common mean nothing."""
    answers = found(
        a=[sample(0, 1.0, text=STORY, kind="mystery"), sample(1, 0.0, text=STORY, kind="mystery")],
        b=[sample(0, 1.0, text=STORY), sample(1, 1.0, text="Yes or no?"), sample(2, 1.0, text="Yes or no?")],
    )
    scored = questions.scored(ONE, answers, "suite", "")
    assert scored.scores == {"a/0": 1.0, "a/1": 0.0, "b/0": 1.0, "b/1": 1.0, "b/2": 1.0}
    assert scored.clusters == {"a/0": "a/0", "a/1": "a/0", "b/0": "a/0"}


def test_instructions_of_one_prompt_are_a_cluster() -> None:
    scored = questions.scored(of(2), found(a=[sample(0, [True, False], text="x"), sample(1, [True])]), "suite", "")
    assert scored.scores == {"a/0/0": 1.0, "a/0/1": 0.0, "a/1/0": 1.0}
    assert scored.clusters == {"a/0/0": "a/0/0", "a/0/1": "a/0/0"}


def test_a_question_without_a_score_is_missed() -> None:
    """Four of five, and five of which two are the same one."""
    four = [sample(number, 1.0) for number in range(4)]
    for some in (four, [*four, sample(3, 0.0)]):
        with pytest.raises(BadInput, match="has 4 scored questions, and 5 are declared"):
            questions.scored(ONE, found(a=some), "suite", "")


@pytest.mark.parametrize("value", [-3.2, 31.5, (-120.0, 40), ("the reference", "the answer"), None])
def test_a_score_that_is_no_share_is_bad_input(value: Any) -> None:
    """As a perplexity's log-probability, points of 100, and the parts of BLEU are: the gate would take them for points of loss."""
    with pytest.raises(
        BadInput, match=r"X of the suite mine: a question has the acc .*, and scores are from 0 to 1"
    ) as caught:
        questions.scored(of(2), found(a=[sample(0, 1.0), sample(1, value)]), "mine", "")
    assert "such as acc or exact_match" in caught.value.remedy
    rounded = questions.scored(of(2), found(a=[sample(0, 1 + 1e-12), sample(1, math.nan)]), "mine", "")
    assert rounded.scores["a/0"] == 1 + 1e-12, "a sum of shares"
    assert math.isnan(rounded.scores["a/1"]), "the gate tells of a model whose numbers are none"


@pytest.mark.parametrize("better", [{"acc": True}, {"perplexity": False}, {}])
def test_a_metric_of_which_less_is_better_is_refused_before_a_question_is_asked(better: dict[str, bool]) -> None:
    class Task:
        def higher_is_better(self) -> dict[str, bool]:
            return better

    questions.check_metric(ONE, {"a": Task()}, "mine")
    with pytest.raises(
        BadInput, match="X of the suite mine has the metric acc, and to the task b less of it is better"
    ):
        questions.check_metric(ONE, {"a": Task(), "b": Other()}, "mine")


class Other:
    """A task of the harness whose metric counts mistakes."""

    def higher_is_better(self) -> dict[str, bool]:
        return {"acc": False}


def test_noise_is_the_share_of_questions_with_another_score() -> None:
    """Only those that were asked again with the same prompt count."""
    first = found(a=[sample(0, 1.0), sample(1, 0.0), sample(2, 1.0)], b=[sample(0, 1.0)])
    other = {**sample(2, 0.0), "prompt_hash": "other"}
    assert questions.noise(ONE, first, found(a=[sample(0, 1.0), sample(1, 1.0), other])) == pytest.approx(1 / 2)
    assert questions.noise(ONE, first, found(a=[other])) == 0
    assert questions.count([sample(0, 1.0), {**sample(0, 1.0), "filter": "other"}, sample(1, 1.0)]) == 2


class Choices:
    """A task of the harness whose questions have these choices; the first one is right."""

    OUTPUT_TYPE = "multiple_choice"
    multiple_input = False

    def doc_to_choice(self, document: Any) -> list[str]:
        return ["left", "right hand", "up"][: document.get("choices", 3)]


def choice(number: int, score: float, values: list[float], target: int | str = 0, **document: Any) -> dict[str, Any]:
    answers = [(value, False) for value in values]
    return {**sample(number, score, **document), "acc_norm": score, "target": target, "filtered_resps": answers}


def test_a_margin_is_how_far_the_right_choice_is_ahead() -> None:
    """By hand: -1 against -3 and -2.5; and each divided by its characters, 4, 10 and 2."""
    answers = found(a=[choice(0, 1.0, [-1.0, -3.0, -2.5]), choice(1, 0.0, [-1.0, -0.5, -4.0])])
    assert questions.scored(of(2), answers, "s", "", {"a": Choices()}).margins == {"a/0": 1.5, "a/1": -0.5}
    normed = of(1).model_copy(update={"metric": "acc_norm,none"})
    answers = found(a=[choice(0, 0.0, [-1.0, -2.0, -2.5])])  # -0.25, -0.2, -1.25
    assert questions.scored(normed, answers, "s", "", {"a": Choices()}).margins == {"a/0": pytest.approx(-0.05)}
    named = found(a=[choice(0, 1.0, [-3.0, -1.0, -2.0], target="right hand")])
    assert questions.scored(of(1), named, "s", "", {"a": Choices()}).margins == {"a/0": 1.0}


@pytest.mark.parametrize(
    "other",
    [
        choice(1, 1.0, [-3.0, -1.0, -2.0]),  # the harness says right where the margin says wrong: it compares otherwise
        choice(1, 1.0, [-3.0], choices=1),  # nothing to be ahead of
        choice(1, 1.0, [-3.0, -5.0, -6.0], target="down"),
        choice(1, 0.4, [-3.0, -5.0, -6.0]),  # partial credit
    ],
)
def test_without_a_margin_of_every_question_there_are_none(other: dict[str, Any]) -> None:
    answers = found(a=[choice(0, 1.0, [-1.0, -3.0, -2.5]), other])
    assert questions.scored(of(2), answers, "s", "", {"a": Choices()}).margins == {}


def test_a_question_that_was_answered_several_times_has_its_mean_score() -> None:
    drawn = [
        questions.scored(of(2), found(a=[sample(0, first), sample(1, second)]), "s", "")
        for first, second in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0))
    ]
    assert questions.averaged(drawn).scores == {"a/0": 0.75, "a/1": 0.25}
    assert questions.averaged(drawn).reported == 50
    assert questions.averaged(drawn[:1]) is drawn[0]


def test_a_task_of_which_a_look_asks_nothing_does_not_count() -> None:
    """To the harness no numbers are all questions: it asks one, whose score is left out."""
    part = {"small": [], "large": [3, 4]}
    assert questions.asked_of(part) == {"small": [0], "large": [3, 4]}
    answers = found(small=[sample(0, 1.0)], large=[sample(3, 1.0), sample(4, 0.0)])
    scored = questions.scored(ONE, questions.of_part(answers, part), "suite", "", count=2)
    assert scored.scores == {"large/3": 1.0, "large/4": 0.0}
    assert len(answers["samples"]["small"]) == 1
