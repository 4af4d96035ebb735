"""Programs are started in one place, and nothing of them is left behind, whatever ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from containers.errors import BadInput
from containers.process import (
    Child,
    ProcessFailed,
    TimedOut,
    empty_directory,
    inherited,
    run,
    start_time,
    stop_by_pid,
)
from tests.support.waiting import PATIENCE, until

# A program with a child that leaves its session and its parent: what a careless daemon does. Each writes its pid.
FAMILY = textwrap.dedent("""
    import os, signal, sys, time
    folder = sys.argv[1]
    if len(sys.argv) > 2 and sys.argv[2] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    def note(name):
        with open(f"{folder}/.{name}", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{folder}/.{name}", f"{folder}/{name}")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            note("grandchild")
            time.sleep(600)
        note("child")
        time.sleep(600)
    note("main")
    print("up", flush=True)
    if len(sys.argv) > 2 and sys.argv[2] == "leave":
        while not (os.path.exists(f"{folder}/child") and os.path.exists(f"{folder}/grandchild")):
            time.sleep(0.01)
        sys.exit(7)
    time.sleep(600)
""")
MEMBERS = ("main", "child", "grandchild")


def pids(folder: Path) -> list[int]:
    until(lambda: all((folder / name).exists() for name in MEMBERS), "the family is up")
    return [int((folder / name).read_text()) for name in MEMBERS]


def all_gone(family: list[int]) -> bool:
    return all(start_time(pid) is None for pid in family)


def family_argv(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", FAMILY, str(folder), *words]


def test_a_program_is_run_to_its_end() -> None:
    done = run([sys.executable, "-c", "import sys; print(input()); print('e', file=sys.stderr)"], stdin="hello")
    assert (done.code, done.stdout, done.stderr) == (0, "hello\n", "e\n")


def test_a_failure_carries_code_and_output() -> None:
    with pytest.raises(ProcessFailed, match="ended with code 3:\nbroken") as caught:
        run([sys.executable, "-c", "import sys; print('broken', file=sys.stderr); sys.exit(3)"])
    assert (caught.value.code, caught.value.output) == (3, "broken\n")
    assert run([sys.executable, "-c", "raise SystemExit(3)"], check=False).code == 3


def test_output_need_not_be_text() -> None:
    assert run([sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'a\xff')"]).stdout == "a\ufffd"


def test_a_missing_program_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no-such-program is not installed"):
        run(["no-such-program"])
    with pytest.raises(BadInput, match="no folder"):
        run(["true"], cwd=tmp_path / "absent")


def test_a_deadline_ends_children_too(tmp_path: Path) -> None:
    """A child that holds the output open must not hold up its parent's parent."""
    with pytest.raises(TimedOut, match="did not end within 2 seconds"):
        run(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"], timeout=2)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: start_time(pid) is None, "sleep has ended")


def test_a_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_HOME", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "x")
    seen = run([sys.executable, "-c", "import os; print(*os.environ)"]).stdout.split()
    assert "PATH" in seen
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_HOME", "PIP_INDEX_URL"} & set(seen)
    assert "PIP_INDEX_URL" in inherited("PIP_")


def test_lines_reach_the_listener_and_the_log(tmp_path: Path) -> None:
    lines: list[str] = []
    argv = ["sh", "-c", "echo one; echo two >&2; exit 4"]
    with Child(argv, inherited(), log_file=tmp_path / "a" / "log", on_line=lines.append) as child:
        assert child.wait(PATIENCE) == 4
    assert lines == ["one", "two"]
    assert child.tail == "one\ntwo"
    assert (tmp_path / "a" / "log").read_text() == "one\ntwo\n"


def test_a_broken_listener_does_not_stall_the_program(caplog: pytest.LogCaptureFixture) -> None:
    """More output than a pipe holds: 64 KiB."""

    def listen(line: str) -> None:
        raise ConnectionError(line)

    script = "for i in range(3000): print('x' * 100)"
    with Child([sys.executable, "-c", script], inherited(), on_line=listen) as child:
        assert child.wait(PATIENCE) == 0
    assert "could not be forwarded" in caplog.text


def test_a_program_that_cannot_start_says_so() -> None:
    with Child(["/no/such/program"], inherited()) as child:
        assert child.wait(PATIENCE) == 127
    assert "cannot start /no/such/program" in child.tail


def test_a_signal_is_reported_as_shells_do() -> None:
    with Child(["sh", "-c", "kill -KILL $$"], inherited()) as child:
        assert child.wait(PATIENCE) == 128 + signal.SIGKILL


def test_waiting_does_not_stop(tmp_path: Path) -> None:
    with Child(["sleep", "600"], inherited()) as child:
        with pytest.raises(TimedOut, match="still running"):
            child.wait(0.1)
        assert child.poll() is None


def test_stop_ends_the_whole_family(tmp_path: Path) -> None:
    """Descendants that left session and parent are found; a second stop is harmless."""
    with Child(family_argv(tmp_path), inherited()) as child:
        family = pids(tmp_path)
        code = child.stop()
        assert code == 128 + signal.SIGTERM
        assert all_gone(family)
        assert child.stop() == code


def test_who_is_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    with Child(family_argv(tmp_path, "deaf"), inherited(), grace=0.5) as child:
        family = pids(tmp_path)
        assert child.stop() == 128 + signal.SIGKILL
    assert all_gone(family)


def test_what_the_program_leaves_is_ended_with_it(tmp_path: Path) -> None:
    """The program's own exit code is kept."""
    with Child(family_argv(tmp_path, "leave"), inherited()) as child:
        assert child.wait(PATIENCE) == 7
    assert all_gone(pids(tmp_path))


PARENT = textwrap.dedent("""
    import os, sys, time
    from pathlib import Path
    from containers.process import Child, inherited
    scratch = os.environ.get("SCRATCH")
    own = {"cwd": Path(scratch), "scratch": True} if scratch else {}
    child = Child(sys.argv[2:], inherited(), detached=sys.argv[1] == "detached", **own).start()
    print(child.pid, flush=True)
    time.sleep(600)
""")


def parent(mode: str, argv: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A process that has started `argv` as a Child, and the supervisor's pid."""
    command = [sys.executable, "-c", PARENT, mode, *argv]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    return started, int(started.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_parent_that_dies(tmp_path: Path, number: signal.Signals) -> None:
    started, supervisor = parent("attached", family_argv(tmp_path))
    family = pids(tmp_path)
    started.send_signal(number)
    started.communicate()
    until(lambda: all_gone([*family, supervisor]), "the family has ended")


def test_its_temporary_files_go_when_the_parent_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "deep").mkdir(parents=True)
    (scratch / "deep/half-done").touch()
    monkeypatch.setenv("SCRATCH", str(scratch))
    started, _ = parent("attached", family_argv(tmp_path))
    pids(tmp_path)
    assert (scratch / "deep/half-done").exists()
    started.kill()
    started.communicate()
    until(lambda: not scratch.exists(), "the folder has gone")


def test_a_detached_program_outlives_its_parent(tmp_path: Path) -> None:
    """And is stopped by pid, by whoever knows when it started."""
    started, supervisor = parent("detached", family_argv(tmp_path))
    family = pids(tmp_path)
    started.kill()
    started.communicate()
    mark = start_time(supervisor)
    assert mark is not None
    assert not any(start_time(pid) is None for pid in family)
    assert not stop_by_pid(supervisor, "0")  # another process with the same pid is left alone
    assert start_time(supervisor) == mark
    assert stop_by_pid(supervisor, mark)
    assert all_gone([*family, supervisor])
    assert not stop_by_pid(supervisor, mark)


def test_a_killed_supervisor_takes_the_program_along(tmp_path: Path) -> None:
    """Not even SIGKILL to the supervisor leaves its program running."""
    with Child(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600"], inherited()) as child:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), "sh is up")
        pid = int((tmp_path / "pid").read_text())
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: start_time(pid) is None, "the program has ended")


def test_stop_during_wait(tmp_path: Path) -> None:
    """Cancellation comes from another thread than the one that waits."""
    with Child(family_argv(tmp_path), inherited()) as child:
        family = pids(tmp_path)
        thread = threading.Thread(target=child.stop)
        thread.start()
        assert child.wait(PATIENCE) == 128 + signal.SIGTERM
        thread.join()
    assert all_gone(family)


def test_a_zombie_counts_as_gone() -> None:
    ended = subprocess.Popen(["true"])
    until(lambda: Path(f"/proc/{ended.pid}/stat").read_text().split()[2] == "Z", "true is a zombie")
    assert start_time(ended.pid) is None
    ended.wait()
    assert start_time(os.getpid()) is not None


def test_a_program_runs_in_an_empty_folder_that_goes_with_it() -> None:
    script = "import os; print(os.getcwd(), os.listdir())"
    folder, listed = run([sys.executable, "-c", script]).stdout.rsplit(" ", 1)
    assert listed.strip() == "[]"
    assert Path(folder) != Path.cwd()
    assert not Path(folder).exists()


def test_a_childs_folder_goes_with_it_whatever_lies_in_it() -> None:
    said: list[str] = []
    script = "import os, pathlib; print(os.listdir()); pathlib.Path('left').write_text('x'); print(os.getcwd())"
    with Child([sys.executable, "-c", script], inherited(), on_line=said.append) as child:
        assert child.wait(30) == 0
    assert said[0] == "[]"
    assert Path(said[1]) != Path.cwd()
    assert not Path(said[1]).exists()


@pytest.mark.parametrize("how", ["run", "child"])
def test_no_module_comes_from_the_working_directory(tmp_path: Path, how: str) -> None:
    """Not even where a program is given that folder, or finds it as an empty entry in a list of folders."""
    (tmp_path / "argparse.py").write_text("print('from the folder')")
    (tmp_path / "tool").write_text("#!/bin/sh\necho from the folder\n")
    (tmp_path / "tool").chmod(0o755)
    variables = {"PATH": f":.:{os.environ['PATH']}", "PYTHONPATH": f"{os.pathsep}.{os.pathsep}relative"}
    argv = [
        sys.executable,
        "-c",
        "import argparse, os, shutil; print(os.environ.get('PYTHONPATH'), shutil.which('tool'))",
    ]
    if how == "run":
        said = run(argv, env=variables, cwd=tmp_path).stdout.splitlines()
    else:
        said = []
        with Child(argv, variables, cwd=tmp_path, on_line=said.append) as child:
            child.wait(30)
    assert said == ["None None"]
    with pytest.raises(BadInput, match="tool is not installed"):
        run(["tool"], env=variables, cwd=tmp_path)


def test_the_working_directory_is_empty_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.toml").touch()
    with empty_directory() as folder:
        assert Path.cwd() == folder
        assert list(folder.iterdir()) == []
    assert Path.cwd() == tmp_path
    assert not folder.exists()


def test_what_names_a_file_names_it_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child works in another folder than the person who set the variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", "certificates/ca.pem")
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels /other https://wheels.example.com/")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.com/simple")
    variables = inherited("PIP_")
    assert variables["SSL_CERT_FILE"] == f"{tmp_path}/certificates/ca.pem"
    assert variables["PIP_FIND_LINKS"] == f"{tmp_path}/wheels /other https://wheels.example.com/"
    assert variables["PIP_INDEX_URL"] == "https://index.example.com/simple"
