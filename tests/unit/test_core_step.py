"""The main function of a step, run as what it is: a program with files, lines and an exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step, StepRequest, StepResult
from containers.events import Event

if TYPE_CHECKING:
    from pathlib import Path

# A step whose work is what its parameters say.
PROGRAM = textwrap.dedent('''
    import errno, os, sys, time
    from containers import errors, step
    from containers.contract import Step, StepResult
    from containers.parameters import QuantizeParameters

    def work(request, context):
        """Do what the parameters say."""
        (context.scratch / "file").write_text("x")
        print(context.scratch, flush=True)
        match request.parameters["do"]:
            case "finish":
                context.report.log("working")
                return StepResult(step=request.step, metrics={"files": 1.0}, timings={"work": 0.5})
            case "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/shard")
            case "memory":
                raise MemoryError
            case "files":
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x/shard")
            case "threads":
                raise RuntimeError("can't start new thread")
            case "library":
                try:
                    raise ImportError("libtorch_cpu.so: cannot open shared object file: Too many open files")
                except ImportError as error:
                    raise RuntimeError("could not import quantization") from error
            case "read":
                QuantizeParameters.read({"colour": "red"})
            case "wait":
                time.sleep(600)
            case "bug":
                raise RuntimeError("a bug")
            case name:
                raise getattr(errors, name)("what is wrong", remedy="what to do")

    step.run(Step.QUANTIZE, work)
''')


def start(folder: Path, request: object, *arguments: str) -> subprocess.Popen[str]:
    (folder / "request.json").write_text(request if isinstance(request, str) else json.dumps(request))
    argv = arguments or ("--request", str(folder / "request.json"), "--result", str(folder / "result.json"))
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def request(do: str) -> dict[str, object]:
    return StepRequest(step=Step.QUANTIZE, run="r", parameters={"do": do}).model_dump(mode="json")


def finish(program: subprocess.Popen[str]) -> tuple[int, list[Event], str]:
    stdout, stderr = program.communicate()
    return program.returncode, [Event.parse(line) for line in stderr.splitlines()], stdout


def test_a_step_that_is_done(tmp_path: Path) -> None:
    began = time.monotonic()
    code, events, scratch = finish(start(tmp_path, request("finish")))
    whole = time.monotonic() - began
    assert code == 0
    assert [event.message for event in events] == ["working"]
    result = StepResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.metrics == {"files": 1.0}
    assert result.timings["work"] == 0.5
    assert 0 < result.timings["total"] < whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "result.json"]
    assert not tmp_path.joinpath(scratch.strip()).exists()


@pytest.mark.parametrize(
    ("do", "code", "message"),
    [
        ("BadInput", 2, "what is wrong"),
        ("GateRefused", 3, "what is wrong"),
        ("GateInconclusive", 4, "what is wrong"),
        ("Temporary", 75, "what is wrong"),
        ("NotReady", 75, "what is wrong"),
        ("disk", 75, "no space left while quantize wrote /x/shard"),
        ("memory", 75, "quantize needed more memory than this machine lets it have"),
        ("files", 75, "quantize needed more open files than this machine lets it have"),
        ("threads", 75, "quantize needed more processes or threads than this machine lets it have"),
        ("library", 75, "quantize needed more open files than this machine lets it have"),
        ("read", 2, "not QuantizeParameters: colour: Extra inputs are not permitted"),
    ],
)
def test_a_step_that_fails_says_why_once(tmp_path: Path, do: str, code: int, message: str) -> None:
    """One error event, the documented code, no result, no scratch files."""
    ended, events, scratch = finish(start(tmp_path, request(do)))
    assert ended == code
    (error,) = events
    assert (error.event, error.message, error.exit_code) == ("error", message, code)
    assert not (tmp_path / "result.json").exists()
    assert not tmp_path.joinpath(scratch.strip()).exists()


@pytest.mark.parametrize(
    ("room", "code", "message"),
    [
        (2 << 20, 75, "quantize needed more memory than this machine lets it have"),
        (1 << 40, 1, "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_libraries_that_do_not_fit_are_no_bug(tmp_path: Path, room: int, code: int, message: str) -> None:
    """The dynamic linker's own error while a step's work is imported; a missing module stays what it is."""
    program = textwrap.dedent(f"""
        import resource
        from pathlib import Path
        from containers.contract import Step
        from containers.step import loading

        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + {room}
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        with loading(Step.QUANTIZE):
            import numpy
            import nowhere
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == code
    assert message in done.stderr


def test_a_bug_shows_where_it_is(tmp_path: Path) -> None:
    code, events, _ = finish(start(tmp_path, request("bug")))
    assert code == 1
    assert events[0].message.startswith("Traceback")
    assert events[-1].message == "RuntimeError: a bug"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_step_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    program = start(tmp_path, request("wait"))
    assert program.stdout is not None
    scratch = program.stdout.readline().strip()
    assert (tmp_path / scratch / "file").exists()
    program.send_signal(number)
    code, events, _ = finish(program)
    assert code == 130
    assert events[-1].message == "quantize was interrupted"
    assert not (tmp_path / scratch).exists()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a StepRequest"),
        (json.dumps({"step": "quantize"}), "is not a StepRequest: run: Field required"),
        (json.dumps(request("finish") | {"extra": 1}), "extra: Extra inputs"),
        (json.dumps(request("finish") | {"step": "push"}), "is a request for push, and this is quantize"),
    ],
)
def test_a_request_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    code, events, _ = finish(start(tmp_path, text))
    assert code == 2
    assert message in events[-1].message


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """Both are noticed before any work."""
    code, events, _ = finish(start(tmp_path, "", "--request", "absent", "--result", "result.json"))
    assert (code, events[-1].message) == (2, "cannot read the request absent: No such file or directory")
    code, events, scratch = finish(start(tmp_path, request("finish"), "--request", "request.json", "--result", "a/b"))
    assert (code, events[-1].message) == (2, "cannot write a/b: there is no folder a")
    assert scratch == ""


def test_usage_is_bad_input(tmp_path: Path) -> None:
    code, _, _ = finish(start(tmp_path, "", "--request", "x"))
    assert code == 2


@pytest.mark.parametrize(
    ("name", "named"), [("CARWRIGHT_LOG_FORMAT", "log_format"), ("CARWRIGHT_STORE__TIER", "CARWRIGHT_STORE__TIER")]
)
def test_settings_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, named: str) -> None:
    monkeypatch.setenv(name, "3")
    code, events, _ = finish(start(tmp_path, request("finish")))
    assert code == 2
    assert named in events[-1].message
