"""One model of a shipment's parameters: a field added to it appears wherever parameters are taken, carried or kept."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from containers.digest import Digest
from containers.errors import BadInput
from flows.cli.options import takes_options_of
from flows.cli.ship import ship
from flows.quantize_and_ship import quantize_and_ship
from flows.ship_request import CommandLine, ShipOptions, ShipRequest, command_line, fields, takes_fields_of
from flows.watching.models import WatchedModel
from flows.watching.records import ShipRecord


class Larger(ShipRequest):
    """The request with a parameter more."""

    seed: Annotated[int, CommandLine(metavar="NUMBER")] = Field(default=7, ge=0, description="Where samples begin.")


OUTCOME: dict[str, Any] = {
    "commit": "a" * 40, "reference": "r", "digest": str(Digest.of(b"image")), "tags": ["t"], "decision": "pass",
    "measures": {}, "base_digest": "", "tools": {}, "shipped": datetime.now(UTC).isoformat(), "run": "run",
}  # fmt: skip
WITHOUT_OPTION = {"reason", "change"}  # only watch-releases gives them
FROM_THE_SCAN = {"model", "revision", "to", "scheme", "gate_profile"}  # an entry has them in a form of its own
PER_RUN = {
    "keep",
    "force",
    "reason",
    "change",
    "baseline_endpoint",
    "candidate_endpoint",
}  # no business of an entry of models.yaml


def _app(model: type[ShipRequest], given: list[ShipRequest]) -> typer.Typer:
    app = typer.Typer()

    def command(request: ShipRequest, verbose: Annotated[bool, typer.Option("--verbose")] = False) -> None:
        """Take a request."""
        given.append(request)

    app.command()(takes_options_of(model)(command))
    return app


def test_a_new_field_is_an_option_of_the_command_line() -> None:
    given: list[ShipRequest] = []
    app = _app(Larger, given)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160"})
    assert "Where samples begin." in shown.output
    assert CliRunner().invoke(app, ["hf://a/b", "--seed", "9", "--keep", "--verbose"]).exit_code == 0
    assert given == [Larger(model="hf://a/b", seed=9, keep=True)]


def test_a_new_field_is_a_parameter_of_the_flow() -> None:
    """With its description and default in the schema that Prefect makes, and its value in the request."""
    from prefect import flow

    given: list[ShipRequest] = []

    @takes_fields_of(Larger)
    def body(request: ShipRequest) -> None:
        """Do nothing."""
        given.append(request)

    made = flow(name="larger", validate_parameters=False)(body)
    seed = made.parameters.properties["seed"]
    assert (seed["default"], seed["type"], seed["description"]) == (7, "integer", "Where samples begin.")
    assert made.parameters.required == ["model"]
    body("hf://a/b", "main", seed=3)
    assert given == [Larger(model="hf://a/b", revision="main", seed=3)]
    with pytest.raises(BadInput, match="seed"):
        body("hf://a/b", seed=-1)


def test_the_flow_and_the_command_line_have_exactly_the_fields() -> None:
    names = ShipRequest.model_fields.keys()
    assert inspect.signature(quantize_and_ship.fn).parameters.keys() == names
    options = inspect.signature(ship).parameters.keys() - {"profile", "device", "json_", "verbose"}
    assert options == names - WITHOUT_OPTION
    assert {name for name, field in fields(ShipRequest).items() if command_line(field).hidden} == WITHOUT_OPTION


def test_an_entry_of_models_yaml_has_the_options_and_a_scan_gives_the_rest() -> None:
    """A new field has to be put on one side or the other."""
    assert ShipOptions.model_fields.keys() <= WatchedModel.model_fields.keys()
    assert ShipRequest.model_fields.keys() == ShipOptions.model_fields.keys() | FROM_THE_SCAN | PER_RUN


def test_a_record_has_every_field_and_an_older_one_is_read_with_defaults() -> None:
    assert ShipRequest.model_fields.keys() <= ShipRecord.model_fields.keys()
    older = {
        "model": "hf://a/b", "scheme": "FP8_DYNAMIC", "to": "r/x", "suite": "smoke", "revision": "main",
        "base": "busybox", "reason": "new",
    }  # fmt: skip
    record = ShipRecord.model_validate_json(json.dumps(older | OUTCOME))
    assert (record.reason, record.max_model_len, record.gate_profile) == ("new", 0, "release")


def test_prefect_is_told_names_types_and_defaults_as_before() -> None:
    """Written by hand: runs that people and automations start name these."""
    schema = quantize_and_ship.parameters
    told = {name: (one.get("type", "text or null"), one.get("default")) for name, one in schema.properties.items()}
    assert told == {
        "model": ("string", None), "revision": ("text or null", None), "to": ("string", ""),
        "scheme": ("string", "FP8_DYNAMIC"), "suite": ("string", "smoke"), "base": ("string", "minimal"),
        "baseline_endpoint": ("string", ""), "candidate_endpoint": ("string", ""),
        "tag": ("string", ""), "max_model_len": ("integer", 0), "override_gate": ("string", ""),
        "approval": ("boolean", False),
        "tensor_parallel_size": ("integer", 0), "pipeline_parallel_size": ("integer", 0),
        "gpu_memory_utilization": ("number", 0.0), "vllm_argument": ("array", []), "concurrency": ("integer", 0),
        "tool_call_parser": ("string", ""), "reasoning_parser": ("string", ""),
        "ignore": ("array", []), "ignore_only": ("array", []),
        "gate_profile": ("string", "release"), "keep": ("boolean", False), "force": ("boolean", False),
        "reason": ("string", ""), "change": ("string", ""),
    }  # fmt: skip
    assert list(told) == sorted(told, key=lambda name: schema.properties[name]["position"])
    assert schema.required == ["model"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model": "hf://a/b", "max_model_len": -1}, "max_model_len"),
        ({"model": "hf://a/b", "gate_profile": "none"}, "gate_profile"),
        ({"model": "hf://a/b", "base": "No Reference"}, "base"),
        ({"model": "hf://a/b", "nonsense": 1}, "nonsense"),
        ({"model": "hf://a/b", "vllm_argument": ["--port=80"]}, "Carwright gives --port itself"),
        (
            {"model": "hf://a/b", "vllm_argument": ["--tensor_parallel_size", "2"]},
            "Carwright gives --tensor-parallel-size",
        ),
        ({"model": "hf://a/b", "vllm_argument": ["kv-cache-dtype"]}, "not an argument of vLLM"),
        ({"model": "hf://a/b", "vllm_argument": ["--a=b\nc"]}, "not an argument of vLLM"),
        ({"model": "hf://a/b", "gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({}, "model"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        ShipRequest.read(values)


def test_a_deployment_is_given_what_differs_from_the_defaults() -> None:
    """It has defaults, and a model, of its own."""
    assert ShipRequest(model="").overrides() == {}
    assert ShipRequest(model="hf://a/b", keep=True).overrides() == {"model": "hf://a/b", "keep": True}
