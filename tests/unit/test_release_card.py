"""The model card: the reference card's sections, metadata that huggingface_hub reads, code and manifests that parse."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

import pytest
import yaml
from typer.main import get_command

from containers.errors import BadInput
from flows.cli.main import app
from flows.release.card import check, render
from tests.support.cards import DIGEST, FACTS, blocks


def test_the_metadata_is_what_the_hub_reads() -> None:
    data = check(render(FACTS)).data
    assert data.base_model == "meta-llama/Llama-3.3-70B-Instruct"
    assert data.license == "llama3.3"
    assert data.language == ["en", "de"]
    assert data.get("base_model_relation") == "quantized"
    assert [(one.dataset_name, one.metric_value) for one in data.eval_results or ()] == [
        ("MMLU (5-shot)", 81.31),
        ("Math-lvl-5 (4-shot)", 0.33),
        ("Perplexity, shipped text", 25.0),
    ]


def test_the_table_has_scores_recovery_and_interval() -> None:
    card = render(FACTS)
    assert "| OpenLLM v1 | MMLU (5-shot) | 81.60 | 81.31 | 99.6% (99.3 to 100.1) | -0.29 (-0.61 to +0.11) |" in card
    assert "| OpenLLM v2 | Math-lvl-5 (4-shot) | 0.17 | 0.33 | N/A | +0.16 |" in card
    assert (
        "| smoke | Perplexity, shipped text | 20.00 | 25.00 | 80.0% (76.9 to 83.3) | +5.00 (+4.00 to +6.00) |" in card
    )


def test_the_code_is_python_and_names_the_recipe() -> None:
    quick, creation = (ast.parse(code) for code in blocks(render(FACTS), "python"))
    assert any(isinstance(node, ast.ImportFrom) and node.module == "vllm" for node in quick.body)
    calls = {
        node.func.id: node
        for node in ast.walk(creation)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    given: dict[str, Any] = {
        word.arg or "": ast.literal_eval(word.value)
        for name in ("snapshot_download", "model_free_ptq")
        for word in calls[name].keywords
    }
    assert given["revision"] == FACTS.base_revision
    assert given["scheme"] == "FP8_DYNAMIC"
    assert given["ignore"] == ["lm_head", "re:.*embed_tokens.*"]


def test_the_manifests_are_pinned_by_digest() -> None:
    runtime, service = yaml.safe_load_all(blocks(render(FACTS), "yaml")[0])
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    for one in (runtime, service):  # KServe takes no dot, which the model's own name has
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])
    (container,) = runtime["spec"]["containers"]
    assert "--served-model-name=llama-3.3-70b-instruct-fp8-dynamic" in container["args"]
    assert model["storageUri"] == f"oci://quay.io/models/llama-3-3-70b@{DIGEST}"
    assert model["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_the_engines_are_those_of_the_settings() -> None:
    card = render(FACTS)
    runtime, _ = yaml.safe_load_all(blocks(card, "yaml")[0])
    assert runtime["spec"]["containers"][0]["image"] == "registry.example.com/rhoai/vllm:2"
    assert "\n  registry.example.com/rhaiis/vllm:3 \\\n" in card


def test_the_commands_of_the_reference_card_that_were_wrong_are_right() -> None:
    """The release of `ilab model download` goes into its own option."""
    card = render(FACTS)
    assert "ilab model download --repository docker://quay.io/models/llama-3-3-70b --release 1.5-raw" in card
    assert f"source=quay.io/models/llama-3-3-70b@{DIGEST}" in card


def test_a_local_layout_is_copied_first() -> None:
    card = render(FACTS.model_copy(update={"reference": f"oci:out@{DIGEST}"}))
    assert "skopeo copy --preserve-digests oci:out:1.5 docker://registry.example.com/models/" in card


def test_a_card_that_lacks_something_is_refused() -> None:
    whole = render(FACTS)
    with pytest.raises(BadInput, match="lacks ### Accuracy"):
        check(whole.replace("### Accuracy", "### Numbers"))
    with pytest.raises(BadInput, match="lacks license"):
        check(whole.replace("license: llama3.3\n", ""))


def test_no_scores_no_rows() -> None:
    card = render(FACTS.model_copy(update={"scores": (), "commands": ()}))
    assert check(card).data.eval_results is None


def test_the_commands_parse_with_this_version() -> None:
    """Every `carwright` line of the card is understood by the command line; those of the harness by its own test."""
    own = f"carwright eval {FACTS.reference} --baseline {FACTS.source} --suite smoke --max-model-len 4096"
    card = render(FACTS.model_copy(update={"commands": (own,)}))
    lines = [line for block in blocks(card, "bash") for line in block.splitlines() if line.startswith("carwright ")]
    assert own in lines
    assert [line.split()[1] for line in lines] == ["render", "ship", "eval"]
    program: Any = get_command(app)
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        context = program.commands[name].make_context(name, arguments)
        assert {"suite", "scheme", "target"} & context.params.keys()


def test_reasons_are_a_list() -> None:
    """One line each, with an empty line before the first: Markdown takes it for a list."""
    card = render(FACTS.model_copy(update={"reasons": ("One.", "Two.")}))
    assert "verdict was **pass**.\n\n- One.\n- Two.\n\n" in card


def test_a_promotion_that_no_pass_decided_is_on_the_card() -> None:
    refused = FACTS.model_copy(update={"decision": "refuse", "override": "for a demo"})
    assert "It was promoted in spite of the gate: for a demo" in render(refused)
    open_ = FACTS.model_copy(update={"decision": "inconclusive", "gate_profile": "smoke"})
    assert "It was promoted by the profile `smoke`" in render(open_)
    assert "It was promoted" not in render(FACTS)


def test_a_checkpoint_from_a_folder_names_no_page_of_the_hub() -> None:
    card = render(FACTS.model_copy(update={"base_model": "mine", "source": "file:///models/mine#sha256:" + "0" * 64}))
    assert "huggingface.co/mine" not in card
    assert "snapshot_download" not in card
    (_, creation) = blocks(card, "python")
    ast.parse(creation)
    assert 'folder = "/models/mine"' in creation
    assert "carwright ship file:///models/mine --scheme FP8_DYNAMIC --to quay.io/models/llama-3-3-70b" in card
