"""Measure, judge and read the results: `carwright eval`, `compare`, `report`, `card` and `statement`."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from containers import in_toto, suites
from containers.errors import BadInput, GateInconclusive, GateRefused
from containers.foreign_json import parse_object
from containers.foreign_text import clean
from containers.oci import referrers
from containers.verdict import CARD_FILE, PAGE_FILE, PROVENANCE_FILE, VERDICT_FILE, Verdict, grounds_for_promotion
from flows.cli import terminal
from flows.cli.options import Device, Json, Output, Verbose, takes_options_of
from flows.ship_request import ServingOptions
from infra.settings import Settings

if TYPE_CHECKING:
    from containers.verdict import Score

app = typer.Typer()

Suite = Annotated[
    str, typer.Option(help=f"The suite to measure by: {', '.join(suites.names())}, or a folder with one of your own.")
]
Attached = Annotated[
    str,
    typer.Option(metavar="DIGEST", help="The referrer to take, if several differ: whoever may push can attach one."),
]
_WHAT = (
    "A modelcar by reference, a model source (hf://, file://, s3://), an endpoint (http://HOST:PORT/v1, followed by #NAME "
    "if it serves several models), or a stored measurement (measurement:FINGERPRINT)."
)


@app.command(name="eval")
@takes_options_of(ServingOptions, "serving")
def evaluate(  # noqa: PLR0917 - typer makes options of them
    candidate: Annotated[str, typer.Argument(help=_WHAT)],
    serving: ServingOptions,
    baseline: Annotated[
        str, typer.Option(help="Model to compare with; without it, the candidate is only measured.")
    ] = "",
    suite: Suite = "smoke",
    gate_profile: Annotated[
        Literal["smoke", "release"],
        typer.Option(help="If the gate cannot decide: release exits with code 4, smoke warns and exits with 0."),
    ] = "release",
    device: Device = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this file.")] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a candidate and judge it against its baseline. Exits 3 if it is refused, 4 if the gate cannot decide.

    A modelcar or a model source is served and measured once; an endpoint is measured each time.

    docs/reference/evaluation.md describes the gate and what each suite needs.

    [bold]carwright eval[/] registry.example.com/models/name:1.0 --baseline hf://org/name

    [bold]carwright eval[/] http://127.0.0.1:8000/v1 --baseline hf://org/name -o page.html
    """
    from flows.cli.session import session as open_session

    _writable(output)
    with open_session(verbose=verbose, device=device) as session:
        session.check(suite, candidate, *([baseline] if baseline else []))
        if not baseline:
            measured = session.measure(candidate, "candidate", suite, serving)
            if json_:
                print(measured.ref.model_dump_json(indent=2))
            else:
                terminal.out.print(f"measured {candidate} by {suite}: measurement:{measured.ref.fingerprint}")
            return
        verdict = session.judge(candidate, baseline, suite, serving, page=output)
        _show(verdict, as_json=json_)
    grounds = grounds_for_promotion(verdict.decision, override="", profile=gate_profile)
    if verdict.decision == "refuse":
        raise GateRefused(f"{candidate} was refused by {suite}")
    if grounds is None:
        raise GateInconclusive(
            f"{suite} could not decide about {candidate}", remedy="--gate-profile smoke makes it a warning"
        )
    if grounds == "profile":
        terminal.err.print(f"warning: {suite} could not decide about {candidate}; the profile is smoke", style="yellow")


@app.command()
@takes_options_of(ServingOptions, "serving")
def compare(  # noqa: PLR0917 - typer makes options of them
    a: Annotated[str, typer.Argument(help=_WHAT)],
    b: Annotated[str, typer.Argument(help="Model to compare with the first.")],
    serving: ServingOptions,
    suite: Suite = "smoke",
    device: Device = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this file.")] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show how B differs from A: scores and measures with intervals. There is no verdict, so the exit code is 0.

    [bold]carwright compare[/] hf://org/name registry.example.com/models/name:1.0
    """
    from flows.cli.session import session as open_session

    _writable(output)
    with open_session(verbose=verbose, device=device) as session:
        session.check(suite, a, b)
        verdict = session.judge(b, a, suite, serving, page=output)
        _show(verdict, as_json=json_, names=("A", "B"), heading=f"The gate of {suite} would say {verdict.decision}:")


@app.command()
def report(  # noqa: PLR0917 - typer makes options of them
    what: Annotated[
        str,
        typer.Argument(help="A run of this folder or a promoted image. Default: the last run.", show_default=False),
    ] = "",
    output: Output = None,
    attached: Attached = "",
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    form: Annotated[
        str,
        typer.Option(
            "--export",
            metavar="FORMAT",
            help="Print the scores instead, as every-eval-ever (JSON) or hf-eval-results (YAML for .eval_results/); or, as "
            "kubeflow-catalog, write them into the folder --output for Kubeflow's model catalog.",
        ),
    ] = "",
    model_id: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name of the model in every-eval-ever and in Kubeflow's catalog.",
            show_default="the image's repository",
        ),
    ] = "",
    json_: Json = False,
) -> None:
    """Write the report of an evaluation as a self-contained HTML page, and print its path."""
    from flows.release import report as reports
    from flows.release import statements

    settings = Settings()
    home = settings.home.resolve()
    if form and json_:
        raise BadInput("--json and --export exclude each other", remedy="every-eval-ever is JSON by itself")
    if model_id and not form:
        raise BadInput("--model-id is the model's name in an export", remedy="give --export, too, or leave it out")
    if form:
        _export(form, what, settings, output, attached, model_id)
        return
    if _reference(what):
        said = statements.of_reference(
            what, settings, referrers.EVALUATION, PAGE_FILE, name="evaluation", chosen=attached
        )
        terminal.err.print(f"note: this report was {said.whose}", soft_wrap=True)
        page, path = said.content, output or Path(PAGE_FILE)
        if show and not said.run:
            raise BadInput(
                "this page was written by somebody else, and a browser runs what is in it",
                remedy="write it to a file with --output, and open it where that is safe",
            )
    else:
        found = reports.of_run(home, what)
        page, path = found.read_bytes(), output or found
    _writable(path)
    if not path.exists() or path.read_bytes() != page:
        path.write_bytes(page)
    if json_:
        terminal.document({"page": str(path.resolve())})
    else:
        terminal.line(str(path))
    if show:
        webbrowser.open(path.resolve().as_uri())


def _export(  # noqa: PLR0917 - the options of the command
    form: str, what: str, settings: Settings, output: Path | None, attached: str, model_id: str
) -> None:
    """The scores of a run of this folder, or of a promoted image, in the form of others."""
    from flows.local.run_record import outcome_of
    from flows.release import exports, statements
    from flows.release import report as reports

    folder = output if form == exports.FOLDER else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is not a folder", remedy="give --output a folder, which may be new")
    _writable(folder / "metadata.json" if folder is not None and folder.is_dir() else output)
    if _reference(what):
        said = statements.of_reference(
            what, settings, referrers.EVALUATION, VERDICT_FILE, name="evaluation", chosen=attached
        )
        terminal.err.print(f"note: these scores were {said.whose}", soft_wrap=True)
        verdict, reference = Verdict.read(parse_object(said.content, VERDICT_FILE)), what
    else:
        shipped = outcome_of(reports.of_run(settings.home.resolve(), what).parent)
        verdict, reference = shipped.verdict, shipped.reference
    if folder is not None:
        made = exports.export_folder(verdict, reference, int(time.time()), model_id)
        folder.mkdir(exist_ok=True)
        for name in exports.FOLDER_FILES:
            (folder / name).unlink(missing_ok=True)  # one of an older export would be taken for part of this one
        for name, content in made.items():
            (folder / name).write_text(content)
            terminal.line(str(folder / name))
        return
    text = exports.export(form, verdict, reference, int(time.time()), model_id)
    if output is None:
        print(clean(text), end="")
    else:
        output.write_text(text)
        terminal.line(str(output))


@app.command()
def card(
    reference: Annotated[
        str, typer.Argument(help="A promoted image: registry/repository:tag or oci:DIR:TAG, or by @digest.")
    ],
    output: Output = None,
    attached: Attached = "",
) -> None:
    """Print the model card, with scores, that is attached to an image.

    [bold]carwright card[/] registry.example.com/models/name:1.0 -o README.md
    """
    from flows.release import statements

    _writable(output)
    said = statements.of_reference(reference, Settings(), referrers.CARD, CARD_FILE, name="card", chosen=attached)
    terminal.err.print(f"note: this card was {said.whose}", soft_wrap=True)
    if output is None:
        print(clean(said.content.decode(errors="replace")), end="")
    else:
        output.write_bytes(said.content)
        terminal.line(str(output))


@app.command()
def statement(
    kind: Annotated[
        Literal["provenance", "test-result", "bom"],
        typer.Argument(help="provenance: SLSA. test-result: the verdict. bom: the bill of materials, CycloneDX."),
    ],
    reference: Annotated[
        str, typer.Argument(help="A promoted image: registry/repository:tag or oci:DIR:TAG, or by @digest.")
    ],
    output: Output = None,
    attached: Attached = "",
) -> None:
    """Print a statement about an image, in the format of in-toto; it is checked to be about that image.

    [bold]carwright statement[/] bom registry.example.com/models/name:1.0 | jq .predicate
    """
    from flows.release import statements

    _writable(output)
    title = next(title for title, name in in_toto.NAMES.items() if name == kind)
    before = (referrers.PROVENANCE, PROVENANCE_FILE) if kind == "provenance" else None
    said = statements.of_reference(
        reference, Settings(), in_toto.MEDIA_TYPE, title, name=kind, chosen=attached, before=before
    )
    in_toto.read(said.content, f"the {kind} of {reference}", said.subject)
    terminal.err.print(f"note: this statement was {said.whose}", soft_wrap=True)
    if output is None:
        print(clean(said.content.decode()), end="")
    else:
        output.write_bytes(said.content)
        terminal.line(str(output))


def _reference(what: str) -> bool:
    return what.startswith("oci:") or "/" in what


def _writable(output: Path | None) -> None:
    """Raises BadInput for an output path that cannot be written, before any measuring."""
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise BadInput(
            f"{output} is a folder" if output.is_dir() else f"there is no folder {output.parent}",
            remedy="give a file in an existing folder",
        )


def _show(
    verdict: Verdict, *, as_json: bool, names: tuple[str, str] = ("baseline", "candidate"), heading: str = ""
) -> None:
    if as_json:
        print(verdict.model_dump_json(indent=2))
        return
    if verdict.speed is not None:
        rows = [(*row.cells(), row.slo, row.decision or "") for row in verdict.speed.rows if row.shown]
        terminal.show_table(("load", "measure", *names, f"{names[1]} / {names[0]}", "objective", "decision"), rows)
    else:
        headings = ("benchmark", *names, "recovery", "difference", "interval")
        terminal.show_table(headings, [_row(score) for score in verdict.scores])
        measures = [(measure, f"{value:.4g}") for measure, value in verdict.measures.items()]
        terminal.show_table(("measure", "value"), measures)
    terminal.out.print(heading or f"{verdict.decision.upper()}:")
    for reason in verdict.reasons:
        terminal.out.print(f"  {reason}")


def _row(one: Score) -> tuple[str, ...]:
    known = one.lower is not None and one.upper is not None
    return (
        one.title,
        f"{one.baseline:.2f}",
        f"{one.candidate:.2f}",
        "N/A" if one.recovery is None else f"{one.recovery:.1f} %",
        f"{one.difference:+.2f}",
        f"{one.lower:+.2f} to {one.upper:+.2f}" if known else "",
    )
