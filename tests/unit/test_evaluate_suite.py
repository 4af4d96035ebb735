"""Suites: a typing error is one clear message, and an edited suite is another suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers import suites
from containers.contract import Step, StepRequest
from containers.digest import Digest
from containers.errors import BadInput
from containers.evaluate import kinds, suite
from containers.evaluate.kinds.benchmarks import BenchmarkSuite
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.kinds.humaneval import HumanEvalSuite
from containers.parameters import EvaluateOptions
from containers.suites import SuiteFiles

if TYPE_CHECKING:
    from pathlib import Path

SMOKE = suites.read("smoke")


def edited(old: str, new: str) -> suites.SuiteFiles:
    text = SMOKE.files["suite.yaml"]
    assert old in text
    return SMOKE.model_copy(update={"files": {**SMOKE.files, "suite.yaml": text.replace(old, new)}})


def test_every_shipped_folder_is_a_suite_that_fits() -> None:
    """A suite is one folder with a suite.yaml: there is no other list of them."""
    assert suites.names() == sorted(path.name for path in suites.SHIPPED.iterdir() if path.is_dir())
    for name in suites.names():
        kinds.load(suites.read(name))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("smoke", FidelitySuite), ("openllm-v1", BenchmarkSuite), ("humaneval-plus", HumanEvalSuite)],
)
def test_a_suite_is_of_the_kind_that_it_declares(name: str, kind: type[object]) -> None:
    assert type(kinds.load(suites.read(name))) is kind


@pytest.mark.parametrize(
    ("text", "declares"),
    [
        ("name: mine\ndescription: of nothing\n", "nothing to measure"),
        ("- a list", "nothing to measure"),
        ("", "nothing to measure"),
        ("benchmarks: []\nhumaneval: {}\n", "benchmarks and humaneval"),
    ],
)
def test_a_suite_of_no_kind_or_of_two_is_bad_input(text: str, declares: str) -> None:
    with pytest.raises(BadInput, match=f"the suite mine declares {declares}") as raised:
        kinds.load(suites.SuiteFiles(name="mine", files={"suite.yaml": text}))
    assert "exactly one of the sections benchmarks, fidelity, humaneval" in raised.value.remedy


def test_the_suites_have_the_rows_of_the_reference_card() -> None:
    """In its order and with its few-shot counts; HumanEval is no task of the harness."""
    v1, v2, languages = (
        [(one.title, one.num_fewshot) for one in BenchmarkSuite.read(suites.read(name)).declared.benchmarks]
        for name in ("openllm-v1", "openllm-v2", "multilingual-mmlu")
    )
    assert v1 == [
        ("MMLU (5-shot)", 5),
        ("MMLU (CoT, 0-shot)", 0),
        ("ARC Challenge (0-shot)", 0),
        ("GSM-8K (CoT, 8-shot, strict-match)", 8),
        ("Hellaswag (10-shot)", 10),
        ("Winogrande (5-shot)", 5),
        ("TruthfulQA (0-shot, mc2)", 0),
    ]
    assert [title for title, _ in v2] == [
        "MMLU-Pro (5-shot)",
        "IFEval (0-shot)",
        "BBH (3-shot)",
        "Math-lvl-5 (4-shot)",
        "GPQA (0-shot)",
        "MuSR (0-shot)",
    ]
    assert [shots for _, shots in v2] == [5, 0, 3, 4, 0, 0]
    assert [title.split()[0] for title, _ in languages] == [
        "Portuguese",
        "Spanish",
        "Italian",
        "German",
        "French",
        "Hindi",
        "Thai",
    ]


def test_the_suite_of_reasoning_models_has_the_seeds_and_the_sampling_of_the_card() -> None:
    """Red Hat AI's card of Qwen3.6-35B-A3B-FP8-dynamic, as it is published: three seeds, eight for AIME's 30 problems. That is the
    first look; what it leaves open has five more.
    """
    declared = BenchmarkSuite.read(suites.read("reasoning")).declared
    rows = declared.benchmarks
    assert [one.answers for one in declared.looks] == [3, 8]
    assert [(one.key, one.samples) for one in rows] == [
        ("gsm8k-platinum", 1209),
        ("mmlu-pro", 12032),
        ("ifeval", 541),
        ("gpqa-diamond", 198),
        ("math-500", 500),
        ("aime25", 30),
    ]
    card = {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "presence_penalty": 1.5}
    for one in rows:
        assert one.seeds[:3] == (42, 1234, 4158)
        assert len(one.seeds) == 8
        assert one.at_once == (one.key == "aime25")
        asked = {"do_sample": True, **card, "repetition_penalty": 1.0, "max_gen_toks": 64000, "seed": 42}
        assert one.generation(42) == asked


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: &seeds [42, 1234, 4158,", "seeds: &seeds [42, 1234, 42,", "a seed is given twice"),
        ("seeds: *seeds\n  - key: ifeval", "seeds: []\n  - key: ifeval", "sampling and seeds go together"),
        ("temperature: 1.0", "temperature: 0", "temperature: Input should be greater than 0"),
        ("samples: 30", "samples: 1", "samples: Input should be greater than or equal to 2"),
        ("rule: pooled", "rule: poled", "gate.rule: Input should be 'pooled' or 'each'"),
    ],
)
def test_sampling_that_makes_no_sense_is_bad_input(old: str, new: str, message: str) -> None:
    files = suites.read("reasoning")
    text = files.files["suite.yaml"]
    assert old in text
    with pytest.raises(BadInput, match=message):
        kinds.load(files.model_copy(update={"files": {"suite.yaml": text.replace(old, new)}}))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("openllm-v1", "dfe25e8d5b72c5894f2805bcce37f1541a847dfa62586d164a374c1eb9b08042"),
        ("openllm-v2", "d9f2a7664d0272dd4f51eea4d0bc6be0f19bbfa9e1c94811cd1078e3e534a675"),
    ],
)
def test_measurements_of_the_card_keep_their_names(name: str, digest: str) -> None:
    """The digest of a suite's files is part of a measurement's name, and measuring takes hours: noted from version 0.1."""
    assert str(suites.read(name).digest) == f"sha256:{digest}"


def test_a_benchmark_that_the_server_would_cut_is_bad_input() -> None:
    """The harness would truncate without a word, so the declaration is refused."""
    files = suites.read("openllm-v1")
    text = files.files["suite.yaml"].replace("max_model_len: 4097", "max_model_len: 2048")
    with pytest.raises(BadInput, match="sends up to 3850 tokens, and serving"):
        kinds.load(files.model_copy(update={"files": {"suite.yaml": text}}))


def test_the_smoke_text_is_a_few_thousand_words_in_several_scripts() -> None:
    text = "\n".join(FidelitySuite.read(SMOKE).passages.values())
    assert 2000 < len(text.split()) < 4000
    assert all(sign in text for sign in "üéóãाต{0")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("top_k: 20", "top_k: 40", "fidelity.top_k: Input should be less than or equal to 20"),
        ("repeats: 2", "repeat: 3", "sanity.repeat: there is no such field, did you mean repeats?"),
        ("kl_mean:", "kl_meen:", "gate.limits.kl_meen"),
        ("kl_mean: {at_most: ", "kl_mean: {at_most: 1, at_least: ", "a limit has either at_most or at_least"),
        ("name: smoke", "name: smoky", "has the name smoky"),
        ("[text/*.txt]", "[texts/*.txt]", "no file of the suite smoke matches"),
        ("repeat: text/01-bridge.txt", "repeat: text/01.txt", "fidelity.repeat of the suite smoke is none"),
        ("sanity:", "sanity: [", "is not YAML"),
        ("max_model_len: 2048", "max_model_len: many", "serving.max_model_len: Input should be a valid integer"),
    ],
)
def test_a_typing_error_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        kinds.load(edited(old, new))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("section", "missing"), [("fidelty", "fidelity"), ("benchmark", "benchmarks"), ("human_eval", "humaneval")]
)
def test_a_mistyped_section_is_named_with_the_kind_that_it_means(section: str, missing: str) -> None:
    with pytest.raises(BadInput, match=f"{missing}: Field required.* {section}: there is no such field, did you mean"):
        kinds.load(suites.SuiteFiles(name="mine", files={"suite.yaml": f"name: mine\n{section}: {{}}\n"}))


def test_an_edited_suite_has_another_digest() -> None:
    assert edited("repeats: 2", "repeats: 4").digest != SMOKE.digest


def test_a_step_with_another_version_of_the_suite_refuses() -> None:
    parameters = edited("repeats: 2", "repeats: 4").parameters(subject="x")
    with pytest.raises(BadInput, match="the request names sha256:"):
        suite.of_request(parameters, SMOKE.options(), nowhere)


def nowhere(digest: Digest) -> bytes:
    raise AssertionError(f"nothing was put into a store, least of all {digest}")


def test_a_suite_of_the_users_own_travels_with_the_request(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for path, text in edited("name: smoke", "name: mine").files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    files = suites.read(str(folder))
    assert not files.shipped
    sent = suite.of_request(files.parameters(subject="x"), files.options(), nowhere)
    assert FidelitySuite.read(sent).declared.name == "mine"
    assert SMOKE.options().suite_files == {}


def test_a_large_suite_goes_through_the_store() -> None:
    """By its digest; its name, and whether it makes load, are the same as before."""
    large = SuiteFiles(name="mine", files={**SMOKE.files, "data/questions.jsonl": "{}\n" * 50_000})
    store: dict[Digest, bytes] = {}

    def keep(content: bytes) -> None:
        store[Digest.of(content)] = content

    small = large.model_copy(update={"files": SMOKE.files})
    assert small.options(keep) == small.options()
    assert store == {}
    parameters, options = large.parameters(action="measure", subject="x"), large.options(keep, endpoint="http://e/v1")
    assert len(options.model_dump_json()) < 5000
    assert list(store) == [large.digest]
    assert suite.of_request(parameters, options, store.__getitem__) == large
    assert suite.of_request(parameters, large.options(), nowhere) == large  # as it is in requests of other versions
    request = StepRequest(step=Step.EVALUATE, run="r", parameters=parameters.dump(), options=options.dump())
    whole = request.model_copy(update={"options": large.options().dump()})
    assert request.fingerprint({}) == whole.fingerprint({})
    assert not suites.makes_load(request)
    speed = SuiteFiles(name="fast", files={**large.files, "suite.yaml": suites.read("speed").files["suite.yaml"]})
    how = {"parameters": speed.parameters().dump(), "options": speed.options(keep, endpoint="http://e/v1").dump()}
    assert suites.makes_load(request.model_copy(update=how))


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b'{"suite.yaml": 1}', b"[" * 100_000, b'{"../x": ""}'])
def test_what_is_no_suite_in_the_store_is_bad_input(content: bytes) -> None:
    parameters = SMOKE.parameters(subject="x").model_copy(update={"suite_digest": Digest.of(content)})
    with pytest.raises(BadInput, match="suite"):
        suite.of_request(parameters, EvaluateOptions(suite_stored=True), lambda _: content)


def test_a_suite_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no suite 'smok'"):
        suites.read("smok")
    (tmp_path / "suite.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        suites.read(str(tmp_path))
