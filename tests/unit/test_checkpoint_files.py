"""What a file of a checkpoint is for, by its name."""

from __future__ import annotations

import pytest

from containers.checkpoint_files import is_legal, is_licence, is_pickle, is_secret, never_belongs


@pytest.mark.parametrize(
    "path",
    ["LICENSE", "LICENCE.md", "license.txt", "LICENSES.txt", "sub/COPYING", "MODEL_LICENSE.pdf", "LICENSE-MODEL"],
)
def test_licences(path: str) -> None:
    """They are legal text, too."""
    assert is_licence(path)
    assert is_legal(path)


@pytest.mark.parametrize(
    "path", ["Notice", "NOTICE.txt", "THIRD_PARTY_NOTICES.txt", "USE_POLICY.md", "use-policy.md", "Acceptable_Use.md"]
)
def test_other_legal_text(path: str) -> None:
    """It travels with the weights and is not the licence."""
    assert is_legal(path)
    assert not is_licence(path)


@pytest.mark.parametrize(
    "path", ["README.md", "config.json", "licensing.py", "LICENSE.json", "unlicensed.txt", "NOTICE/a.json"]
)
def test_what_is_not_legal_text(path: str) -> None:
    """A word inside a word, a folder's name, and what is no text do not count."""
    assert not is_legal(path)


def test_pickles() -> None:
    """By the last suffix, in upper case too; an index of pickles is none."""
    assert is_pickle("a/pytorch_model.BIN")
    assert is_pickle("x.ckpt")
    assert not is_pickle("pytorch_model.bin.index.json")
    assert not is_pickle("model.safetensors")


# What tools and people leave in a folder with a checkpoint.
LEFTOVERS = [
    ".env",
    ".env.production",
    ".git/config",
    ".cache/huggingface/download/model.safetensors.lock",
    ".ipynb_checkpoints/config-checkpoint.json",
    ".DS_Store",
    ".gitattributes",
    "__pycache__/modeling.pyc",
    "model-00001-of-00002.safetensors.incomplete",
    "model.safetensors.part",
    "model.safetensors.aria2",
    "config.json~",
    "config.json.bak",
    "tokenizer.json.swp",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX/config.json",
    "training.log",
]
SECRETS = [
    ".env",
    "sub/.netrc",
    ".ssh/id_ed25519",
    "id_rsa",
    "server.pem",
    "tls.KEY",
    ".git-credentials",
    ".aws/config",
]


@pytest.mark.parametrize("path", [*LEFTOVERS, *SECRETS])
def test_what_belongs_in_no_checkpoint(path: str) -> None:
    assert never_belongs(path)


@pytest.mark.parametrize("path", SECRETS)
def test_secrets(path: str) -> None:
    assert is_secret(path)


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "model-00001-of-00002.safetensors",
        "environment.json",
        "tokenizer.model",
        "chat_template.jinja",
        "vocab.txt",
        "original/params.json",
        "onnx/model.onnx",
        "monkey.json",
        "keys.json",
        "partial.json",
        "LICENSE",
    ],
)
def test_what_belongs(path: str) -> None:
    assert not never_belongs(path)
    assert not is_secret(path)
