"""A tokenizer in the form that sentencepiece writes, in the environment that measures with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from containers.contract import Step
from containers.process import inherited, run
from infra.environments.environment import prepare
from infra.settings import Settings

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[1] / "support" / "sentencepiece_model.py"


def test_tokenizer_model_alone_is_a_tokenizer(tmp_path: Path) -> None:
    """Llama 2's and Mistral's first checkpoints can be had so. By sentencepiece's own names for them, the tokens make up the text."""
    folder = tmp_path / "model"
    folder.mkdir()
    python = prepare(Step.EVALUATE, Settings(), lambda event: None)
    variables = {**inherited(), **python.environment()}
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], str(SCRIPT.parents[2])])
    found = json.loads(run([str(python.python), str(SCRIPT), str(folder)], env=variables, timeout=200).stdout)
    assert found["files"] == ["config.json", "tokenizer.model"]
    assert "".join(found["pieces"]).replace("\u2581", " ").strip() == "the quick brown fox jumps over 7 lazy dogs"
    assert len(found["pieces"]) < 20
