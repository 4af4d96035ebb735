"""`carwright size`, `render` and `deploy`: from one digest to every place where it can be served."""

from __future__ import annotations

import functools
import inspect
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from containers.errors import BadInput
from flows.admission import admit
from flows.cli import terminal
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from flows.cli.trust import PolicyFile  # noqa: TC001 -- typer reads the annotation
from flows.targets import TARGETS
from flows.targets.target import DeploymentAttempt, ModelSource, Storage, TargetOptions
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flows.targets.description import Deployment, DeploymentRequest, Rendered
    from flows.targets.size import Sizing
    from flows.targets.target import DeploymentTarget

app = typer.Typer()

_DEPLOYED = [one for one in TARGETS.values() if one.deploy is not None]
# mypy knows only enums whose members are written out.
TargetName = StrEnum("TargetName", [(name, name) for name in (*TARGETS, "policy")])  # type: ignore[misc]
DeployTarget = StrEnum("DeployTarget", [(one.name, one.name) for one in _DEPLOYED])  # type: ignore[misc]


def _places(targets: Iterable[DeploymentTarget]) -> str:
    """The help of the argument `target`."""
    return "\n\n".join(["Where it is to be served.", *(f"{one.name}: {one.help}" for one in targets)])


ReferenceArgument = Annotated[str, typer.Argument(help="registry/repository[:tag|@digest] or oci:DIR.")]
Gpu = Annotated[
    str, typer.Option(help="Kind of GPU (H100, H200, L40S, ...), its memory (96GB), or cpu.", show_default=True)
]
MaxModelLen = Annotated[
    int, typer.Option(help="Tokens of context; 0: as long as the model can, at most 32768.", show_default=True)
]
Concurrency = Annotated[int, typer.Option(help="Sequences of that length that must fit at once.")]
TensorParallel = Annotated[int, typer.Option(help="GPUs to split the model over; 0 chooses.")]
KvCache = Annotated[str, typer.Option("--kv-cache-dtype", help="auto or fp8.")]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", help="Folder with the model's config.json: the registry is then not asked at all."),
]
Name = Annotated[
    str, typer.Option(help="Name of the deployment and of the model in requests.", show_default="the repository's")
]
Image = Annotated[str, typer.Option(help="vLLM's image, best by digest.", show_default="the target's own")]
From = Annotated[str, typer.Option("--from", help="registry/repository that the target pulls from: a mirror.")]
Port = Annotated[int, typer.Option(help="Port on the host (docker, podman, compose).")]
Listen = Annotated[str, typer.Option(help="Address on the host; vLLM does not ask for a key.")]
Argument = Annotated[list[str] | None, typer.Option("--argument", help="One more argument for vLLM; may be repeated.")]
ToolCallParser = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="vLLM's parser of tool calls; `none` leaves it out.", show_default="by architecture"
    ),
]
ReasoningParser = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="vLLM's parser of reasoning; `none` leaves it out.", show_default="by architecture"
    ),
]
StorageOption = Annotated[Storage, typer.Option("--storage", help="How KServe gets at the model.")]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace (kserve).", show_default="the current one")
]


@app.command()
def size(  # noqa: PLR0917 -- typer makes options of them
    reference: Annotated[str, typer.Argument(help="A modelcar, or a folder with config.json.")],
    gpu: Gpu = "H100",
    max_model_len: MaxModelLen = 0,
    concurrency: Concurrency = 1,
    tensor_parallel_size: TensorParallel = 0,
    kv_cache_dtype: KvCache = "auto",
    json_: Json = False,
) -> None:
    """Calculate how many GPUs a model needs: its weights, its KV cache, and what vLLM takes beside them."""
    from flows.targets import size as sizes
    from flows.targets.model import of_folder, of_reference

    folder = Path(reference)
    facts = of_folder(folder) if folder.is_dir() else of_reference(reference, Settings())[0]
    sizing = sizes.choose(
        facts,
        gpu,
        max_model_len or min(facts.longest or 4096, 32768),
        concurrency=concurrency,
        tensor_parallel_size=tensor_parallel_size,
        fp8_cache=_fp8(kv_cache_dtype),
    )
    if json_:
        print(json.dumps({"model": facts.model_dump(mode="json"), "sizing": sizing.model_dump(mode="json")}, indent=2))
        return
    show_sizing(sizing, f"{reference}: {facts.architecture}", facts.weights_from)


def show_sizing(sizing: Sizing, title: str, weights_from: str) -> None:
    """The table: what lies on each GPU, and what that leaves room for."""
    from flows.targets.size import GIB, UTILIZATION

    length = sizing.max_model_len
    rows: list[tuple[str, ...]] = []

    def row(what: str, whole: float | None, each: float, why: str) -> None:
        rows.append((what, f"{whole / GIB:.2f} GiB" if whole is not None else "", f"{each / GIB:.2f} GiB", why))

    row("weights", sizing.weights, sizing.weights_per_gpu, f"from {weights_from}")
    per_gpu = f"{sizing.kv_per_token_per_gpu:,} bytes a token on each GPU"
    row(f"KV cache, {length:,} tokens", sizing.kv_per_token * length, sizing.kv_needed, per_gpu)
    row("reserve", None, sizing.reserve, "activations of 8192 tokens, logits, CUDA context and graphs")
    row("usable", None, sizing.usable, f"{UTILIZATION:.0%} of {sizing.gpu_memory / 1e9:.0f} GB")
    terminal.out.print(title)
    terminal.show_table(("what", "of the model", "on each GPU", ""), rows, right={1, 2})
    for count, why in sizing.tried.items():
        terminal.out.print(f"{count} x {sizing.gpu}: {why}")
    terminal.out.print(
        f"{sizing.tensor_parallel_size} x {sizing.gpu}: --tensor-parallel-size {sizing.tensor_parallel_size}; room for "
        f"{sizing.cache_tokens:,} tokens, {sizing.sequences} sequence(s) of {length:,} at once"
    )
    for note in sizing.notes:
        terminal.out.print(f"note: {note}")


def _wanted(  # noqa: PLR0917 -- typer makes options of them
    gpu: Gpu = "H100",
    max_model_len: MaxModelLen = 0,
    concurrency: Concurrency = 1,
    tensor_parallel_size: TensorParallel = 0,
    kv_cache_dtype: KvCache = "auto",
    name: Name = "",
    image: Image = "",
    port: Port = 8000,
    listen: Listen = "127.0.0.1",
    tool_call_parser: ToolCallParser = "",
    reasoning_parser: ReasoningParser = "",
    argument: Argument = None,
) -> DeploymentRequest:
    """What may be said about a deployment, whether it is written down or brought there."""
    from flows.targets.description import DeploymentRequest

    return DeploymentRequest(
        name=name,
        image=image,
        gpu=gpu,
        max_model_len=max_model_len,
        concurrency=concurrency,
        tensor_parallel_size=tensor_parallel_size,
        fp8_cache=_fp8(kv_cache_dtype),
        port=port,
        listen=listen,
        tool_call_parser=tool_call_parser,
        reasoning_parser=reasoning_parser,
        arguments=tuple(argument or ()),
    )


def _takes_wanted(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_wanted` in the place of its parameter `wanted`; typer reads the signature."""
    options = _parameters(_wanted)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(wanted=_wanted(**{name: given.pop(name) for name in options}), **given)

    own = _parameters(command).items()
    found = [one for name, each in own for one in (options.values() if name == "wanted" else [each])]
    run.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in found}
    return run


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """With annotations that are no texts; the module of `DeploymentRequest` is slow to load and not needed for the help."""
    hints = get_type_hints(function, localns={"DeploymentRequest": object}, include_extras=True)
    given = inspect.signature(function).parameters
    return {name: one.replace(annotation=hints[name]) for name, one in given.items()}


@app.command()
@_takes_wanted
def render(  # noqa: PLR0917 -- typer makes options of them
    target: Annotated[
        TargetName,
        typer.Argument(help=f"{_places(TARGETS.values())}\n\npolicy: a trust policy, for the program named next."),
    ],
    reference: Annotated[
        str,
        typer.Argument(
            help="registry/repository[:tag|@digest] or oci:DIR; of a policy: podman, policy-controller, kyverno or conforma."
        ),
    ],
    wanted: DeploymentRequest,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the files into this folder.")] = None,
    model: ModelFolder = None,
    pulled_from: From = "",
    storage: StorageOption = "oci",
    namespace: Namespace = "",
    policy: PolicyFile = None,
    json_: Json = False,
) -> None:
    """Write what a target needs to serve a modelcar, by digest, with resources that fit the model.

    `render policy TARGET` writes the trust policy as another program enforces it.
    """
    from flows.targets.description import describe

    settings = Settings()
    if target == "policy":
        _render_policy(reference, policy or settings.trust.policy, output, as_json=json_)
        return
    if policy is not None:
        raise BadInput("--policy is for `render policy` and for `deploy`", remedy="leave it out")
    options = TargetOptions(storage=storage, namespace=namespace)
    TARGETS[target].check(options)
    deployment = describe(reference, wanted, settings, folder=model, pulled_from=pulled_from)
    source = ModelSource(reference, settings if model is None else None)
    rendered = TARGETS[target].render(deployment, source, options)
    if json_:
        print(json.dumps(_document(deployment, rendered), indent=2))
        return
    _write(rendered, output)
    for note in (*deployment.model.notes, *rendered.notes):
        terminal.err.print(f"note: {note}")


def _render_policy(target: str, path: Path | None, output: Path | None, *, as_json: bool) -> None:
    from containers.trust.policy import Policy
    from flows.targets import policies

    if path is None:
        raise BadInput("there is no policy to render", remedy="give --policy FILE, or the setting trust.policy")
    rendered = policies.render(target, Policy.read(path))
    if as_json:
        print(rendered.model_dump_json(indent=2))
        return
    _write(rendered, output)
    for note in rendered.notes:
        terminal.err.print(f"note: {note}")


def _write(rendered: Rendered, output: Path | None) -> None:
    """Print the files, or put them into the folder."""
    for file in rendered.files:
        if output is None:
            terminal.out.print(f"# {file.name}", style="bold")
            print(file.text)
        else:
            output.mkdir(parents=True, exist_ok=True)
            path = output / file.name
            path.write_text(file.text)
            if path.suffix == ".sh":
                path.chmod(0o755)
            terminal.line(str(path))


@app.command()
@_takes_wanted
def deploy(  # noqa: PLR0917 -- typer makes options of them
    target: Annotated[DeployTarget, typer.Argument(help=_places(_DEPLOYED))],
    reference: ReferenceArgument,
    wanted: DeploymentRequest,
    pulled_from: From = "",
    storage: StorageOption = "oci",
    namespace: Namespace = "",
    timeout: Annotated[
        float, typer.Option(help="Seconds until it must be ready; 0: as the model's size needs.", show_default=True)
    ] = 0,
    gpu_patience: Annotated[float, typer.Option(help="Seconds to wait for a node with free GPUs (kserve).")] = 180,
    url: Annotated[str, typer.Option(help="URL to ask instead of the service's own (kserve).")] = "",
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that other managers have set (kserve).")
    ] = False,
    podman_option: Annotated[
        list[str] | None, typer.Option(help="Option for podman itself, such as --runtime=runc; may be repeated.")
    ] = None,
    policy: PolicyFile = None,
    json_: Json = False,
) -> None:
    """Serve a modelcar by digest: start it, wait until it answers a request, and roll back if it does not.

    With a policy, only a model that passes it is deployed. Exit code 5: it did not; the message says why.
    """
    from flows.targets.description import describe

    settings = Settings()
    options = TargetOptions(
        storage=storage,
        namespace=namespace,
        gpu_patience=gpu_patience,
        url=url,
        force_conflicts=force_conflicts,
        podman_option=tuple(podman_option or ()),
    )
    chosen = TARGETS[target]
    assert chosen.deploy is not None  # else it is none of `DeployTarget`
    chosen.check(options)
    admitted = admit(reference, policy, settings, _say)
    subject = admitted.reference if admitted is not None else reference
    deployment = describe(subject, wanted, settings, pulled_from=pulled_from)
    terminal.err.print(f"{deployment.name}: {deployment.reference}")
    with terminal.display(verbose=False) as show:
        attempt = DeploymentAttempt(
            settings, timeout or deployment.startup_seconds, _say, lambda event: show("deploy", event), admitted
        )
        served = chosen.deploy(deployment, attempt, options)
    if json_:
        print(served.model_dump_json(indent=2))
        return
    word = "serves" if served.changed else "served already"
    terminal.line(f"{served.name} {word} at {served.url}")


def _say(line: str) -> None:
    terminal.err.print(line)


def _document(deployment: Deployment, rendered: Rendered) -> dict[str, object]:
    return {"deployment": deployment.model_dump(mode="json"), **rendered.model_dump(mode="json")}


def _fp8(kv_cache_dtype: str) -> bool:
    if kv_cache_dtype not in ("auto", "fp8"):
        raise BadInput(f"--kv-cache-dtype {kv_cache_dtype}: auto or fp8")
    return kv_cache_dtype == "fp8"
