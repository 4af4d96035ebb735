"""Which files make a checkpoint, why others do not, and what is checked before anything is fetched or stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from containers.download.checks import check_small_files, licence
from containers.download.origin import listing_digest
from containers.download.selection import Remote, Selection, select
from containers.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

CORE = ["config.json", "tokenizer.json", "model.safetensors"]


def chosen(*paths: str) -> Selection:
    return select([Remote(path, 10) for path in paths], "hf://acme/tiny")


def skipped(*paths: str) -> dict[str, str]:
    return {file.path: why for file, why in chosen(*CORE, *paths).skipped}


@pytest.mark.parametrize(
    "path",
    [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "generation_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "qwen.tiktoken",
        "LICENSE",
        "LICENSE.txt",
        "LICENCE.md",
        "Notice",
        "NOTICE.txt",
        "USE_POLICY.md",
        "original/params.json",
        "README.md",
        "1_Pooling/config.json",
    ],
)
def test_what_is_taken(path: str) -> None:
    """Weights, configuration, tokenizer, licence and card, also in folders below."""
    assert path in {file.path for file in chosen(*CORE, path).taken}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("pytorch_model.bin", "a pickle"),
        ("original/consolidated.00.pth", "a pickle"),
        ("training_args.bin", "a pickle"),
        ("model.ckpt", "a pickle"),
        ("pytorch_model.bin.index.json", "the index of pickles"),
        ("model.Q4_K_M.gguf", "weights for llama.cpp"),
        ("onnx/model.onnx", "weights for ONNX"),
        ("tf_model.h5", "weights for another framework"),
        ("flax_model.msgpack", "weights for another framework"),
        ("modeling_acme.py", "code; Carwright runs none that comes with a model"),
        ("licensing.py", "code; Carwright runs none that comes with a model"),
        ("consolidated.safetensors", "a second copy of the weights, in another layout"),
        ("picture.png", "not a part of a checkpoint"),
    ],
)
def test_what_is_skipped(path: str, why: str) -> None:
    """Each with a word."""
    assert skipped(path) == {path: why}


def test_a_vendors_layout_alone_is_taken() -> None:
    """consolidated.safetensors is a copy only where there is something that it copies."""
    assert "consolidated.safetensors" in {
        file.path for file in chosen("config.json", "tokenizer.json", "consolidated.safetensors").taken
    }


def test_hidden_files_are_passed_over_in_silence() -> None:
    selection = chosen(*CORE, ".gitattributes", ".cache/huggingface/model.safetensors")
    assert len(selection.taken) == len(CORE)
    assert not selection.skipped


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["config.json", "tokenizer.json", "pytorch_model.bin"], r"only as pickles \(pytorch_model\.bin\)"),
        (["config.json", "tokenizer.json", "a.pt", "b.pt", "c.pt"], r"\(a\.pt, b\.pt and 1 more\)"),
        (["config.json", "tokenizer.json"], "has no safetensors files"),
        (["tokenizer.json", "model.safetensors"], r"has no config\.json"),
        (["sub/config.json", "tokenizer.json", "model.safetensors"], r"has no config\.json"),
        (["config.json", "model.safetensors"], "has no tokenizer"),
        (["config.json", "model.safetensors", "vocab.json"], "has no tokenizer"),
        (["config.json", "model.safetensors", "tokenizer_config.json"], "has no tokenizer"),
        ([], "has no safetensors files"),
    ],
)
def test_what_is_no_checkpoint(paths: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as failure:
        chosen(*paths)
    assert failure.value.remedy


@pytest.mark.parametrize("tokenizer", [["tokenizer.model"], ["vocab.json", "merges.txt"], ["qwen.tiktoken"]])
def test_other_tokenizers(tokenizer: list[str]) -> None:
    taken = {file.path for file in chosen("config.json", "model.safetensors", *tokenizer).taken}
    assert taken == {"config.json", "model.safetensors", *tokenizer}


@pytest.mark.parametrize(
    "path", ["../model.safetensors", "a/../b.json", "a//b.json", "/etc/x.json", "a\nb.json", "a\\b.json"]
)
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    """A listing comes from somebody else: its names are joined to folders only when they stay below them."""
    with pytest.raises(BadInput, match="has a file with the name"):
        chosen(*CORE, path)


def test_the_pin_of_a_listing() -> None:
    """sha256 of [["a.json",1,"x"],["b.json",2,"y"]], whatever the order (computed with sha256sum)."""
    files = [Remote("b.json", 2, mark="y"), Remote("a.json", 1, mark="x")]
    assert listing_digest(files).hex == "ad2931b371510bc9e7ccbe6cd172e70da8124d7769c0f8431328366ba964fb58"
    assert listing_digest(reversed(files)) == listing_digest(files)


@pytest.mark.parametrize("files", [[Remote("a.json", 2, mark="x")], [Remote("a.json", 1, mark="z")], []])
def test_another_listing_has_another_pin(files: list[Remote]) -> None:
    assert listing_digest(files) != listing_digest([Remote("a.json", 1, mark="x")])


def small(folder: Path, index: object, *shards: str) -> None:
    """Check a checkpoint with this index and these shards."""
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    selection = chosen("config.json", "tokenizer.json", "model.safetensors.index.json", *shards)
    check_small_files(selection, folder, "hf://acme/tiny")


def test_an_index_with_all_its_shards(tmp_path: Path) -> None:
    small(tmp_path, {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}, "a.safetensors", "b.safetensors")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}, r"names b\.safetensors, which is missing"),
        (
            {"weight_map": {"u": "a.safetensors", "v": "b.x", "w": "c.x"}},
            r"names b\.x, which is missing \(and 1 more\)",
        ),
        ({"weight_map": ["a.safetensors"]}, "has no weight_map"),
        ({"weight_map": {"w": 1}}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "is not a JSON object"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path: Path, index: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        small(tmp_path, index, "a.safetensors")


def test_a_config_nested_too_deep(tmp_path: Path) -> None:
    """Python's parser gives up at some depth: that is bad input and no bug."""
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match=r"config\.json is nested more than"):
        check_small_files(chosen(*CORE), tmp_path, "hf://acme/tiny")


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\nlanguage: en\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: llama3.1\n---\n", "llama3.1"),
        ("---\nlicense: other\n---\n", "other"),
        ("# x\nlicense: mit\n", None),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("---\nlicense: [mit, 'apache-2.0']\n---\n", ["mit", "apache-2.0"]),
        ("---\nlicense:\n  - mit\n  - gemma  # both\nlanguage:\n- en\n---\n", ["mit", "gemma"]),
        ("---\nlicense:\n- mit\n- mit\n---\n", "mit"),
        ("---\nlicense:\nlanguage:\n- en\n- de\n---\n", None),
    ],
)
def test_the_licence_of_a_card(tmp_path: Path, card: str, name: str | list[str] | None) -> None:
    """Out of the front matter, and nothing else."""
    (tmp_path / "README.md").write_text(card)
    assert licence(tmp_path) == name


def test_no_card_no_licence(tmp_path: Path) -> None:
    assert licence(tmp_path) is None
