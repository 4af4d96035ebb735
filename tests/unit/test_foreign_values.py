"""Values that others wrote, in a card: text that is seen as it is and does nothing, in Markdown and in what is made of it."""

from __future__ import annotations

import ast
import json
import re
import shlex
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from containers.checkpoint_files import CheckpointFile
from containers.errors import BadInput
from containers.foreign_values import code, markdown, shown
from containers.oci.card import render as static_card
from flows.release.card import check, render
from flows.targets.model import facts
from tests.support.attacks import CONFIGURATION
from tests.support.cards import FACTS, blocks

if TYPE_CHECKING:
    from markdown_it.token import Token

_FENCE = "`" * 3

ATTACKS: dict[str, str] = {
    "a link": "[free weights](https://evil.example/x)",
    "a link without a scheme": "[x](//evil.example)",
    "a link that runs code": "[x](javascript:alert(1))",
    "a link by reference": "[x][y]",
    "a definition": "[x]: https://evil.example",
    "a picture": "![x](https://evil.example/pixel.png)",
    "an address": "https://evil.example/x",
    "an address in words": "see HTTP://evil.example now",
    "an address without a scheme": "www.evil.example",
    "an address of mail": "mailto:a@evil.example",
    "an address in angles": "<https://evil.example>",
    "a script": "<script>alert(1)</script>",
    "a picture in HTML": "<img src=x onerror=alert(1)>",
    "a comment that hides the rest": "<!-- ",
    "the end of a tag": "x</td></tr></table>",
    "an entity": "&lt;script&gt;",
    "an entity by number": "&#60;b&#x3e;",
    "a cell": "a | b",
    "a row": "a |\n| b | c",
    "an escaped bar": "a \\| b",
    "a bar behind two escapes": "a \\\\| b",
    "code": "`rm -rf`",
    "code that does not end": "`` x",
    "a block of code": f"x\n{_FENCE}bash\nrm -rf ~\n{_FENCE}\n",
    "the end of a block of code": f"x\n{_FENCE}\n\n# Evil",
    "a block of tildes": "~~~\nx",
    "a heading": "# Evil",
    "a heading in the next line": "x\n# Evil",
    "a heading from below": "x\n=====",
    "a rule": "x\n\n---\n",
    "a list": "- x",
    "a list with stars": "* x",
    "a list with plus": "+ x",
    "a list of numbers": "1. x",
    "a quotation": "> x",
    "metadata": "---\nlicense: mit\n---",
    "a formula": "$\\href{https://evil.example}{x}$",
    "a template": "{{ 7 * 7 }}{% for x in y %}",
    "a line that ends with a backslash": "x\\",
    "a text from right to left": "safe\u202egnp.exe",
    "isolated directions": "\u2066a\u2069\u2067b",
    "text of no width": "a\u200bb\u2060c\ufeffd",
    "tags that nobody sees": "a\U000e0041\U000e0042",
    "escapes of a terminal": "\x1b]0;evil\x07\x1b[2J",
    "zeros": "a\0b",
    "line separators": "a\u2028# b\u2029# c\x85# d\x0b# e\x0c# f",
    "half of a surrogate pair": "a\ud800",
    "a long text": "x" * 10_000,
    "a thousand backticks": "`" * 1000,
    "nothing": "",
    "blanks": " \t ",
}

HONEST = [
    "LlamaForCausalLM", "Qwen3_5MoeForConditionalGeneration", "apache-2.0", "llama3.3", "my__model_v1.0-FP8",
    "float-quantized (compressed-tensors)", "One of 5 checks: 81.60 became 81.31 (-0.29 to +0.11), 100 % & more!",
    "hf://org/name@v1.5", "Modèle français, 模型, नमूना", "re:.*embed_tokens.*", "vllm 0.23.0+cpu", "3.1", "2 x 4",
]  # fmt: skip

# In text: what a value may become. None of these makes a link, a picture, HTML, a block.
_INNOCENT = {"paragraph_open", "inline", "paragraph_close", "text", "text_special", "code_inline"}


def _tokens(text: str, preset: str = "gfm-like") -> list[Token]:
    parser = MarkdownIt(preset, {"linkify": False, "html": True}) if preset == "gfm-like" else MarkdownIt(preset)
    return [token for one in parser.parse(text) for token in (one, *(one.children or ()))]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("preset", ["commonmark", "gfm-like"])
def test_a_value_is_text(attack: str, preset: str) -> None:
    """At the beginning of a block and within one, as text and as code; and it is one line of what can be seen."""
    for shaped in (markdown(ATTACKS[attack]), code(ATTACKS[attack])):
        for text in (shaped, f"**License:** {shaped}, and more"):
            kinds = {token.type for token in _tokens(text.strip(), preset)}
            assert kinds <= _INNOCENT | ({"strong_open", "strong_close"} if text != shaped else set())
        assert len(shaped.splitlines()) <= 1
        assert shaped.isprintable()
        assert len(shaped) <= 1002
    assert not re.search(r"(https?:|www\.)", markdown(ATTACKS[attack]), re.IGNORECASE) or markdown(
        ATTACKS[attack]
    ).startswith("`")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_value_is_one_cell(attack: str) -> None:
    """A table keeps its columns, in every dialect that has tables."""
    table = f"| a | b |\n| - | - |\n| {markdown(ATTACKS[attack])} | {markdown(ATTACKS[attack])} |\n"
    tokens = _tokens(table)
    assert [token.type for token in tokens].count("td_open") == 2
    assert {
        token.type for token in tokens if "link" in token.type or "html" in token.type or token.type == "image"
    } == set()


@pytest.mark.parametrize("text", HONEST)
def test_an_honest_value_stays_as_it_is(text: str) -> None:
    """Byte for byte: documents of honest models do not change."""
    assert markdown(text) == text


@given(st.text())
def test_any_text_is_one_cell_and_no_block(text: str) -> None:
    """Whatever it is made of."""
    shaped = markdown(text)
    assert {token.type for token in _tokens(f"x {shaped}")} <= _INNOCENT | {
        f"{kind}_{end}" for kind in ("em", "strong", "s") for end in ("open", "close")
    }
    assert [token.type for token in _tokens(f"| a |\n| - |\n| {shaped} |\n")].count("td_open") == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_card_of_an_image(attack: str) -> None:
    """Architectures, quantization and names of files come from the checkpoint: the table keeps its rows, and no more."""
    evil = ATTACKS[attack]
    quantization = {"format": evil, "quant_method": evil, "ignore": evil}
    files = [CheckpointFile("LICENSE", 1), CheckpointFile(f"{evil}/LICENSE.md", 1)]
    card = static_card({"architectures": [evil], "quantization_config": quantization}, files, {evil or "a": evil})
    tokens = _tokens(card.decode())
    assert [token.type for token in tokens].count("tr_open") == 6
    assert [token.content for token in tokens if token.type == "fence"] == []
    assert not {"link_open", "image", "html_inline", "html_block"} & {token.type for token in tokens}
    assert [token.type for token in tokens].count("heading_open") == 2


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": "x", "quantization_config": []},
        {"architectures": [1, None, {}], "quantization_config": {"ignore": 5, "format": [], "quant_method": {}}},
        {"architectures": ["x"] * 1000, "quantization_config": {"ignore": {"a": 1}}},
    ],
)
def test_the_card_of_an_image_whose_configuration_is_odd(config: dict[str, object]) -> None:
    """Types that nobody expects are no error of ours."""
    assert len(static_card(config, [], {})) < 3000


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_model_card(attack: str) -> None:
    """Every fact that is not an enumeration is evil: sections, code and manifests are the same as ever."""
    evil = ATTACKS[attack]
    card = render(
        FACTS.model_copy(
            update={
                "name": evil or "x", "base_model": evil or "x", "base_revision": evil, "source": f"file:///{evil}", "license": evil or "x",
                "license_link": evil, "architecture": evil, "reference": f"oci:{evil}@{FACTS.digest}", "scheme": evil, "ignore": (evil,),
                "versions": {"llmcompressor": evil, evil: evil}, "server": evil, "baseline_server": evil + ".", "suite": evil,
                "reasons": (evil, evil), "override": evil, "gate_profile": evil,
                "scores": tuple(one.model_copy(update={"category": evil, "title": evil}) for one in FACTS.scores),
                "commands": (evil,), "tag": "1.5",
            }
        )
    )  # fmt: skip
    text = check(card).text
    tokens = _tokens(text)
    kinds = [token.type for token in tokens]
    assert not {"image", "html_inline", "html_block", "blockquote_open", "hr"} & set(kinds)
    assert [token.attrGet("href") for token in tokens if token.type == "link_open"] == [evil] * (attack == "an address")
    assert kinds.count("heading_open") == _honest().count("heading_open")
    assert kinds.count("fence") == _honest().count("fence") + 1  # from a layout, one more is copied first
    assert kinds.count("td_open") == 6 * len(FACTS.scores)
    for block in blocks(text, "python"):
        ast.parse(block)
    for block in blocks(text, "yaml"):
        assert len(list(yaml.safe_load_all(block))) == 2
    *ours, measured = blocks(text, "bash")
    assert len(measured.splitlines()) == 1
    for line in "".join(ours).replace("\\\n", " ").splitlines():
        assert shlex.split(line)[0] in {"vllm", "skopeo", "carwright", "podman", "ilab"}


def _honest() -> list[str]:
    return [token.type for token in _tokens(check(render(FACTS)).text)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.norm.weight", "model.norm.weight"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        ("x" * 121, f"'{'x' * 120}' (and 1 more characters)"),
    ],
)
def test_names_in_messages(text: str, told: str) -> None:
    assert shown(text) == told


_CONFIG = json.loads(CONFIGURATION)
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "architectures are a number": {"architectures": 5},
    "architectures are numbers": {"architectures": [1, None]},
    "a number of layers that is a text": {"num_hidden_layers": "2"},
    "a number of layers that is a list": {"num_hidden_layers": [2]},
    "a negative number": {"hidden_size": -1},
    "more layers than there are atoms": {"num_hidden_layers": 10**90},
    "infinitely many": {"max_position_embeddings": float("inf")},
    "not a number": {"max_position_embeddings": float("nan")},
    "more heads than columns": {"num_attention_heads": 10**6},
    "a rank that is a text": {"kv_lora_rank": "x"},
    "a window that is an object": {"sliding_window": {}, "head_dim": {"a": 1}},
    "quantization that is a text": {"quantization_config": "fp8"},
    "quantization of odd types": {"quantization_config": {"format": [1], "kv_cache_scheme": {"num_bits": "8"}}},
    "types of layers that are numbers": {"layer_types": 7},
    "types of layers that are lists": {"layer_types": [["mamba"], {}]},
    "a text part of odd types": {"text_config": {"hidden_size": []}},
    "a type that is a list": {"dtype": [], "torch_dtype": {}, "model_type": 5},
}


@pytest.mark.parametrize("attack", CONFIGURATIONS)
def test_a_configuration_is_sized_or_bad_input(attack: str) -> None:
    """Never another error; and what is shown of it can be seen."""
    try:
        found = facts(_CONFIG | CONFIGURATIONS[attack], 1000, "x")
    except BadInput:
        return
    assert (found.architecture + found.quantization).isprintable()
