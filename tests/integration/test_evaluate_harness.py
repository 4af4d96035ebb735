"""lm-evaluation-harness itself, on tasks and data of this machine: what is kept of it, and what it would do in silence.

The model is the toy of `tests.support.openai_server`, whose tokens are bytes; with vLLM the harness runs in the chain.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.contract import Step
from containers.process import inherited, run
from infra.environments.environment import prepare
from infra.settings import Settings
from tests.support.byte_tokenizer import write_byte_tokenizer
from tests.support.openai_server import Behaviour, openai_server, toy_distribution

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

QUESTIONS = [("Which is a color", ["red", "seven"], 0), ("Which is a number", ["red", "seven"], 1), ("Say b", ["b"], 0)]
TASK = {
    "task": "small",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "tasks/small.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
BENCHMARK = {
    "key": "small",
    "title": "Small",
    "task": "small",
    "metric": "acc,none",
    "num_fewshot": 0,
    "api": "completions",
    "max_length": 256,
    "samples": 3,
    "data_set": "tasks/small.jsonl",
}
HELLASWAG = {
    **BENCHMARK,
    "key": "hellaswag",
    "title": "Hellaswag",
    "task": "hellaswag",
    "metric": "acc_norm,none",
    "data_set": "Rowan/hellaswag",
    "num_fewshot": 1,
    "max_length": 1024,
    "samples": 2,
}
GSM8K = {
    **BENCHMARK,
    "key": "gsm8k",
    "title": "GSM-8K",
    "task": "gsm8k_llama",
    "metric": "exact_match,strict_match",
    "num_fewshot": 8,
    "api": "chat",
    "apply_chat_template": True,
    "fewshot_as_multiturn": True,
    "max_length": 8192,
    "max_gen_toks": 64,
    "data_set": "openai/gsm8k",
    "samples": 4,
}
# Its choices are shuffled while the data is loaded, with the generator of `random`.
GPQA = {
    **BENCHMARK,
    "key": "gpqa",
    "title": "GPQA",
    "task": "gpqa_main_zeroshot",
    "max_length": 1024,
    "data_set": "Idavidrein/gpqa",
    "samples": 24,
}
ARC = {
    **BENCHMARK,
    "key": "arc",
    "title": "ARC",
    "task": "arc_challenge_llama",
    "metric": "exact_match,strict_match",
    "apply_chat_template": True,
    "max_length": 1024,
    "max_gen_toks": 100,
    "data_set": "allenai/ai2_arc",
    "samples": 2,
}


def suite(
    folder: Path, *listed: dict[str, Any], task: dict[str, Any] | None = None, looks: list[dict[str, Any]] | None = None
) -> str:
    """A suite of a user's own in a new folder, with the task above unless another is given."""
    declared = {
        "schema_version": 1,
        "name": folder.name,
        "description": "of a test",
        "serving": {"max_model_len": 16384},
        "benchmarks": list(listed),
        **({"looks": looks} if looks else {}),
    }
    (folder / "tasks").mkdir(parents=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(declared))
    config = {**TASK, **(task or {})}
    (folder / "tasks" / f"{config['task']}.yaml").write_text(yaml.safe_dump(config))
    rows = [dict(zip(("text", "choices", "answer"), row, strict=True)) for row in QUESTIONS]
    (folder / "tasks" / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def data_sets(folder: Path) -> Path:
    """The first questions of three benchmarks, in the hub's layout; made up, in the right form."""

    def write(name: str, files: dict[str, list[dict[str, Any]]], configuration: str = "") -> None:
        (folder / name).mkdir(parents=True)
        for file, rows in files.items():
            (folder / name / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        if configuration:
            splits = [{"split": file.partition(".")[0], "path": file} for file in files]
            head = {"configs": [{"config_name": configuration, "data_files": splits}]}
            (folder / name / "README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n")

    scene = {"activity_label": "Cooking", "ctx_a": "A man peels an onion.", "ctx_b": "he"}
    endings = ["cuts it in slices.", "flies to the moon.", "eats the knife.", "paints the wall."]
    row = {**scene, "endings": endings, "label": "0"}
    write(
        "Rowan/hellaswag",
        {
            "train.jsonl": [{**row, "activity_label": name} for name in ("Baking", "Frying", "Grilling")],
            "validation.jsonl": [row, {**row, "label": "2"}],
        },
    )
    problem = {"question": "How much is 40 and 2?", "answer": "40 + 2 = 42\n#### 42"}
    wanted = ("#### 42", "#### 7")
    problems = [{"question": f"How much is {n} and {42 - n}?", "answer": wanted[n % 2]} for n in range(4)]
    write("openai/gsm8k", {"train.jsonl": [problem], "test.jsonl": problems}, "main")
    wrong = {f"Incorrect Answer {number}": f"{number} metres" for number in (1, 2, 3)}
    write(
        "Idavidrein/gpqa",
        {"train.jsonl": [{"Question": "How high is it?", "Correct Answer": "4 metres", **wrong}] * 24},
        "gpqa_main",
    )
    choices = {"text": ["iron", "wood", "ice", "wool"], "label": ["A", "B", "C", "D"]}
    hot = {"id": "1", "question": "What melts first?", "choices": choices, "answerKey": "C"}
    write("allenai/ai2_arc", {"test.jsonl": [hot, {**hot, "answerKey": "B"}]}, "ARC-Challenge")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every scenario's answer by name, from one process."""
    folder = tmp_path_factory.mktemp("harness")
    tokenizer = str(write_byte_tokenizer(folder / "tokenizer"))
    data = str(data_sets(folder / "data"))
    far = {"dataset_path": "nobody/nothing", "dataset_kwargs": {}}
    with ExitStack() as stack:

        def at(**behaviour: Any) -> dict[str, Any]:
            return {"endpoint": stack.enter_context(openai_server(Behaviour(context=16384, **behaviour)))}

        def own(
            name: str, options: dict[str, Any], config: dict[str, Any] | None = None, **changes: Any
        ) -> dict[str, Any]:
            made = suite(folder / name, {**BENCHMARK, **changes}, task=config)
            return {"name": name, "suite": made, "options": options, "tokenizer": tokenizer}

        healthy = at()
        known = suite(folder / "known", HELLASWAG, GSM8K, ARC)
        talks = at(text=" the final answer is 42", template="<{role}>{content}")
        generate = {"output_type": "generate_until", "doc_to_target": "b", "generation_kwargs": {"max_gen_toks": 20}}
        drawn = suite(folder / "drawn", GPQA)
        sampled = suite(folder / "sampled", {**GSM8K, "sampling": {"temperature": 0.7, "top_k": 20}, "seeds": [42, 7]})
        in_looks = suite(
            folder / "in-looks",
            GPQA,
            {**GSM8K, "sampling": {"temperature": 0.7}, "seeds": [42, 7, 9]},
            looks=[{"questions": 0.5}, {"questions": 1}, {"answers": 3}],
        )
        endless = write_byte_tokenizer(folder / "endless", "{{ 'a' * 10 ** 10 }}")
        escaping = {"doc_to_text": "{{ text.__class__.__mro__ }}"}
        scenarios = [
            {**own("whole", healthy), "again": 2},
            *(
                {"name": f"drawn-{n}", "suite": drawn, "options": healthy, "tokenizer": tokenizer, "data": data}
                for n in (1, 2)
            ),
            {
                **own("template", healthy, generate, api="completions", apply_chat_template=True),
                "tokenizer": str(endless),
            },
            own("escaping", healthy, escaping),
            own("code", healthy, {"task": "code", "class": "os.system"}, task="code"),
            {**own("remote", healthy), "tokenizer": ""},
            own("busy", at(failing=0.2)),
            own("down", {**at(failing=1.0), "attempts": 2}),
            own("cut", healthy, max_length=20),
            own("cut-generation", healthy, generate, max_length=32, metric="exact_match,none"),
            own("cut-by-server", at(cuts_long_prompts=True, counts_wrong=3)),
            own("silent", at(gives_logprobs=False)),
            {**own("key", locked := at(key="canary")), "tokenizer": "", "evaluate": key_for(locked)},
            own("no-key", locked),
            own("echo", at(ignores_echo=True)),
            own("uncounted", at(counts=False), generate, metric="exact_match,none"),
            own("uncounted-likelihood", at(counts=False)),
            own("dropped", at(drops="choice"), generate, metric="exact_match,none"),
            own("nan", at(not_finite="value")),
            own("incomplete", healthy, samples=4),
            own("metric", healthy, metric="f1,none"),
            own("filter", healthy, metric="acc,other"),
            own("missing", healthy, far),
            own("unknown", healthy, task="smal"),
            {"name": "known", "suite": known, "options": talks, "tokenizer": tokenizer, "data": data},
            {"name": "sampled", "suite": sampled, "options": talks, "tokenizer": tokenizer, "data": data, "again": 2},
            *(
                {
                    "name": f"look-{n}",
                    "suite": in_looks,
                    "options": talks,
                    "tokenizer": tokenizer,
                    "data": data,
                    "again": 2,
                    "look": n,
                }
                for n in (1, 2, 3)
            ),
            {"name": "no-data", "suite": known, "options": talks, "tokenizer": tokenizer, "data": str(folder / "gone")},
        ]
        environment = prepare(Step.EVALUATE, Settings(), print)
        variables = {**inherited(), **environment.environment(), "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
        variables["PYTHONPATH"] = f"{environment.modules}:{environment_of_tests()}"
        argv = [str(environment.python), "-m", "tests.support.harness_client"]
        done = run(argv, env=variables, timeout=600, stdin=json.dumps(scenarios), cwd=folder)
    return dict(json.loads(done.stdout))


def key_for(options: dict[str, Any]) -> dict[str, str]:
    return {"api_key": "canary", "api_key_for": options["endpoint"]}


def environment_of_tests() -> str:
    """The folder that holds the package `tests`."""
    import tests

    return str(tests.__path__[0]).rpartition("/")[0]


def likelihood(context: str, continuation: str) -> float:
    """What the toy gives a continuation, from its definition."""
    total, signs = 0.0, (context + continuation).encode()
    for before, sign in zip(signs[len(context) - 1 :], signs[len(context) :], strict=False):
        total += dict(toy_distribution(before, 0.0)).get(sign, -12.0)
    return total


def test_every_question_has_its_score(answers: dict[str, Any]) -> None:
    """The likelier choice by the toy's own table, computed here, is the one that the harness scores."""
    expected = {}
    for number, (text, choices, right) in enumerate(QUESTIONS):
        values = [likelihood(text, f" {choice}") for choice in choices]
        expected[f"small/{number}"] = float(values.index(max(values)) == right)
    scored = answers["whole"]["scored"]["small"]
    assert scored["scores"] == expected
    assert scored["reported"] == pytest.approx(100 * sum(expected.values()) / 3)
    assert scored["metric"] == "acc"
    assert answers["whole"]["requests"] == {"sent": 5 + 4, "retried": 0, "failed": 0}


def test_the_margins_of_choices_are_kept(answers: dict[str, Any]) -> None:
    """Of Hellaswag: the ending that the toy takes for the likeliest is the right one once, and then it is not. None where a
    question has a single choice, or where an answer is generated.
    """
    scored = answers["known"]["scored"]
    assert list(scored["hellaswag"]["scores"].values()) == [1.0, 0.0]
    first, second = scored["hellaswag"]["margins"].values()
    assert first >= 0 > second
    assert "margins" not in answers["whole"]["scored"]["small"]
    assert "margins" not in scored["gsm8k"]


def test_every_question_is_sampled_once_for_each_seed(answers: dict[str, Any]) -> None:
    """The toy says 42 whatever the seed: four questions, two seeds, and nothing asked a third time for the noise."""
    assert answers["sampled"].get("scored"), answers["sampled"]
    assert list(answers["sampled"]["scored"]["gsm8k"]["scores"].values()) == [1.0, 0.0, 1.0, 0.0]
    assert answers["sampled"]["requests"]["sent"] == 8
    assert answers["sampled"]["noise"] == {}
    first, second = answers["sampled"]["commands"]
    assert "--seed 42 --gen_kwargs do_sample=True,temperature=0.7,top_k=20,max_gen_toks=64,seed=42" in first
    assert second.replace("seed 7", "seed 42").replace("seed=7", "seed=42") == first


def test_a_look_asks_what_it_adds(answers: dict[str, Any]) -> None:
    """Half of the questions, the other half, then two more answers to those that are sampled; choices stay as they were drawn."""
    assert all(answers[f"look-{n}"].get("scored") for n in (1, 2, 3)), answers["look-1"]
    first, second, third = (answers[f"look-{n}"]["scored"] for n in (1, 2, 3))
    whole = answers["drawn-1"]["scored"]["gpqa"]["margins"].keys()
    parts = first["gpqa"]["margins"], second["gpqa"]["margins"]
    assert [len(part) for part in parts] == [12, 12]
    assert parts[0].keys() | parts[1].keys() == whole
    assert set(first["gpqa"]["margins"]) != {f"gpqa_main_zeroshot/{n}" for n in range(12)}  # no prefix of the data
    assert "gpqa" not in third
    scores = [one["gsm8k"]["scores"] for one in (first, second, third)]
    assert [len(one) for one in scores] == [2, 2, 4]
    assert scores[0] | scores[1] == scores[2] == {f"gsm8k_llama/{n}": (1.0, 0.0)[n % 2] for n in range(4)}
    assert third["gsm8k"]["answers"] == 2
    assert "answers" not in first["gsm8k"]
    assert [answers[f"look-{n}"]["requests"]["sent"] for n in (3,)] == [8]
    assert answers["look-1"]["noise"].keys() == {"gpqa"}
    assert ["seed=7" in one or "seed=9" in one for one in answers["look-3"]["commands"]] == [True, True]


def test_questions_are_asked_again_to_know_the_noise(answers: dict[str, Any]) -> None:
    """The toy always says the same; two questions of two choices were asked again."""
    assert answers["whole"]["noise"] == {"small": 0.0}
    assert answers["busy"]["noise"] == {}


def test_what_a_task_draws_at_random_is_the_same_for_every_model(answers: dict[str, Any]) -> None:
    """The choices of 24 questions are shuffled while the task is loaded: twice the same, and not all alike."""
    assert answers["drawn-1"].get("scored"), answers["drawn-1"]
    first, second = (list(answers[f"drawn-{n}"]["scored"]["gpqa"]["scores"].values()) for n in (1, 2))
    assert first == second
    assert 0 < sum(first) < 24


def test_the_endpoint_may_be_the_tokenizer(answers: dict[str, Any]) -> None:
    assert answers["remote"]["scored"] == answers["whole"]["scored"]


def test_an_endpoint_with_a_key_is_asked_with_it(answers: dict[str, Any]) -> None:
    """Also where it is the tokenizer."""
    assert answers["key"].get("scored") == answers["whole"]["scored"], answers["key"]


def test_log_probabilities_of_every_token_need_no_count(answers: dict[str, Any]) -> None:
    assert answers["uncounted-likelihood"]["scored"] == answers["whole"]["scored"]


def test_requests_that_fail_are_sent_again_and_counted(answers: dict[str, Any]) -> None:
    assert answers["busy"]["scored"] == answers["whole"]["scored"]
    assert answers["busy"]["requests"]["retried"] > 0
    assert answers["down"]["error"] == "Temporary"
    assert "failed 2 times in a row" in answers["down"]["message"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut", "Small: 4 of 5 samples would be cut: they need up to 23 tokens, and max_length allows 19"),
        ("cut-generation", "Small: 2 of 3 samples would be cut: they need up to 37 tokens, and max_length allows 31"),
        ("cut-by-server", "Small: the endpoint took"),
        ("silent", "Small: the endpoint gives no log-probabilities of the prompt"),
        ("no-key", "wants a key, or another one (it answered 401)"),
        ("echo", "Small: the endpoint gives 1 log-probabilities (token_logprobs) for a prompt of"),
        ("uncounted", "Small: the endpoint does not say how many tokens of a prompt it took"),
        ("dropped", "Small: the endpoint gave 0 answers where 1 were asked for"),
        ("incomplete", "Small of the suite incomplete has 3 questions here, and 4 are declared"),
        ("metric", "Small of the suite metric has no metric f1"),
        ("filter", "Small of the suite filter has no answers through the filter other"),
        ("unknown", "the suite unknown asks for the task smal, which lm-evaluation-harness 0.4.13 does not have"),
        ("no-data", "there is no folder"),
        ("template", "the chat template of the model (tokenizer_config.json) does not work: it needs more memory"),
        ("escaping", "a template of a task of the suite escaping is refused: access to attribute '__class__'"),
        ("code", "tasks/code.yaml of the suite code: class is not for tasks of a suite"),
    ],
)
def test_what_would_falsify_a_score_or_run_code_is_bad_input(answers: dict[str, Any], name: str, said: str) -> None:
    assert answers[name].get("error") == "BadInput", answers[name]
    assert said in answers[name]["message"]


def test_a_number_that_is_none_is_no_score(answers: dict[str, Any]) -> None:
    assert answers["nan"]["error"] == "NotFinite"


def test_data_that_is_missing_is_named_with_its_suite(answers: dict[str, Any]) -> None:
    assert answers["missing"]["error"] == "BadInput"
    assert "the suite missing needs the data set nobody/nothing, which cannot be read" in answers["missing"]["message"]
    assert "evaluate.data" in answers["missing"]["remedy"]


def test_a_near_name_is_offered(answers: dict[str, Any]) -> None:
    assert "did you mean small?" in answers["unknown"]["remedy"]


def test_benchmarks_of_the_card_run_on_local_data(answers: dict[str, Any]) -> None:
    """Log-likelihoods, chat through the server, and chat rendered on this side."""
    scored = answers["known"].get("scored")
    assert scored, answers["known"]
    assert {key: sorted(one["scores"]) for key, one in scored.items()} == {
        "hellaswag": ["hellaswag/0", "hellaswag/1"],
        "gsm8k": [f"gsm8k_llama/{n}" for n in range(4)],
        "arc": ["arc_challenge_llama/0", "arc_challenge_llama/1"],
    }
    assert sum(scored["hellaswag"]["scores"].values()) <= 1  # two answers to one question
    assert list(scored["gsm8k"]["scores"].values()) == [1.0, 0.0, 1.0, 0.0]
    assert answers["known"]["commands"][1].startswith(
        "lm_eval run --model local-chat-completions --model_args model=toy,"
    )
