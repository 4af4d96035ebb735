"""The parsers' names beside the locked vLLM: what it registers, read from its source as it is installed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from containers.contract import Step
from containers.vllm_parsers import known
from infra.environments.environment import prepare
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def registered(module: Path, table: str) -> set[str]:
    """The names of a table of parsers. vLLM is not imported: that takes 10 s."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == table:
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no {table}")


def test_the_locked_vllm_knows_every_name() -> None:
    python = prepare(Step.SERVE, Settings(), lambda event: None).python
    (package,) = python.parents[1].glob("lib/python3.*/site-packages/vllm")
    calls = registered(package / "tool_parsers" / "__init__.py", "_TOOL_PARSERS_TO_REGISTER")
    thinking = registered(package / "reasoning" / "__init__.py", "_REASONING_PARSERS_TO_REGISTER")
    assert {one.tool_call for one in known().values()} - {""} <= calls
    assert {one.reasoning for one in known().values()} - {""} <= thinking
    assert {"hermes", "llama3_json"} <= calls  # what the messages and the documentation name
    assert {"qwen3", "deepseek_r1"} <= thinking
