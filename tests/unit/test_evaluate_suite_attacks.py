"""A suite is data inside its folder, whoever wrote it: no code in its YAML, no path out of it, no YAML that takes the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers import suites
from containers.errors import BadInput
from containers.evaluate import suite
from containers.evaluate.harness import task_files
from containers.plain_yaml import load_yaml
from containers.safe_path import name_fault, path_fault
from containers.suites import SuiteFiles
from flows.release import report

if TYPE_CHECKING:
    from pathlib import Path

TASK = "task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files: {test: tasks/mine.jsonl}\n"
FILES = {"suite.yaml": "name: mine\n", "tasks/mine.jsonl": "{}\n"}
_NINE = ", ".join(["x"] * 9)
BOMB = f"a: &a [{_NINE}]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

PATHS = (
    "../x", "../../x", "a/../../x", "a/..", "..", "/etc/passwd", "//x", "~/x", "~root/x", ".", "./x", "a//b", "a/", "",
    "a\0b", "a\nb", "a\x1b[31mb", "a\u202eb", "a\ud800", "a\\..\\b", "C:\\x", "a" * 256, "a/" * 600 + "a",
)  # fmt: skip
# A line of a task, and what is said of it.
TASKS = [
    ("process_docs: !function utils.drawn", "process_docs has the tag !function"),
    ("doc_to_text: !function os.system", "doc_to_text has the tag !function"),
    ("process_results: !function subprocess.run", "process_results has the tag"),
    ("metric_list: [{metric: !function x.y}]", "metric_list[0].metric has the tag"),
    ("metric_list: [{metric: acc, aggregation: !function x.y}]", "metric_list[0].aggregation has the tag"),
    ("filter_list: [{name: a, filter: [{function: custom, filter_fn: !function x.y}]}]", "filter_fn has the tag"),
    ("fewshot_config: {samples: !function x.y}", "fewshot_config.samples has the tag"),
    ("class: !function x.Task", "class has the tag"),
    ("custom_dataset: !function x.y", "custom_dataset has the tag"),
    ("? !function x.y\n: 1", "has the tag !function"),
    ("a: !!python/object/apply:os.system [id]", "a has the tag"),
    ("a: !!python/name:os.system ''", "a has the tag"),
    ("a: !!python/module:os ''", "a has the tag"),
    ("a: !include /etc/passwd", "a has the tag !include"),
    ("a: !<tag:evil,2000:x> 1", "a has the tag"),
    ("class: utils.Task", "class is not for tasks of a suite"),
    ("custom_dataset: utils.drawn", "custom_dataset is not for"),
    ("use_prompt: 'promptsource:*'", "use_prompt is not for"),
    ("unsafe_code: true", "unsafe_code is not for"),
    ("metric_list: [{metric: someone/evil, hf_evaluate: true}]", "metric_list[0].hf_evaluate is not for"),
    ("dataset_kwargs: {trust_remote_code: true}", "dataset_kwargs.trust_remote_code is not for"),
    ("dataset_kwargs: {data_dir: /etc}", "dataset_kwargs.data_dir is not for"),
    ("dataset_kwargs: {cache_dir: /tmp/x}", "dataset_kwargs.cache_dir is not for"),
    ("dataset_kwargs: {storage_options: {a: b}}", "dataset_kwargs.storage_options is not for"),
    ("dataset_kwargs: {data_files: {test: ../../x}}", "data_files has the path '../../x', which leaves its folder"),
    ("dataset_kwargs: {data_files: /etc/passwd}", "which is not relative to the folder"),
    ("dataset_kwargs: {data_files: [a, [~/x]]}", "which is not relative to the folder"),
    ('dataset_kwargs: {data_files: "a\\0b"}', "which holds a character"),
    ("dataset_kwargs: {data_files: 'https://example.org/x'}", "has the path 'https://example.org/x'"),
    ("dataset_kwargs: {data_files: 'zip://a::/etc/passwd'}", "has the path"),
    ("dataset_path: /etc", "dataset_path is '/etc'"),
    ("dataset_path: ../x", "dataset_path is '../x'"),
    ("dataset_path: ./script.py/../x", "dataset_path is"),
    ("dataset_path: https://example.org/x", "dataset_path is"),
    ("dataset_path: [a]", "dataset_path is"),
    ("include: /etc/passwd", "include has the path '/etc/passwd', which is not a file of the suite"),
    ("include: ../../other/task.yaml", "include has the path"),
    ("include: [../mine.jsonl, ~/x]", "include has the path '~/x'"),
    ("include: nothing", "include has the path 'nothing'"),
    ("group: g\ntask: [{task: x, dataset_path: /etc}]", "task[0].dataset_path is '/etc'"),
    ("task: [{task: x, class: y}]", "task[0].class is not for"),
]
YAML = [
    ("brackets", "[" * 500, "levels deep"),
    ("braces", "{a: " * 5_000, "levels deep"),
    ("dashes", "- " * 3_000 + "x", "levels deep"),
    ("aliases", BOMB, "stands for more than"),
    ("an alias of itself", "a: &a [*a]", "stands for more than"),
    ("a merge of itself", "a: &a\n  <<: *a\n", ""),
    ("a long text", "a: " + "x" * 300_000, "more than 250000 characters"),
    ("a long number", "a: " + "9" * 5_000, "is not YAML"),
    ("no date", "a: 2020-13-45", "is not YAML"),
    ("no number", "a: !!int x", "is not YAML"),
    ("a null byte", "a: \0", "is not YAML"),
    ("half a surrogate", "a: \ud800", "is not YAML"),
    ("a list as a key", "? [a]\n: b", "is not YAML"),
    ("a tag's own prefix", "%TAG ! tag:evil,2000:\n---\na: !x 1", "a has the tag"),
    ("an object", "!!python/object:os.PathLike {}", "the file has the tag"),
]
ATTACKS = [
    *(("path", path) for path in PATHS),
    *(("task", task) for task in TASKS),
    *(("yaml", text) for text in YAML),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:30])
def test_a_path_out_of_a_suite_is_bad_input(path: str) -> None:
    """In a request as in a folder; nothing is written before."""
    with pytest.raises(BadInput) as raised:
        SuiteFiles(name="mine", files={**FILES, path: "x"})
    assert f"the file {path!r} of the suite mine {path_fault(path)}" in raised.value.message
    parameters = suites.read("smoke").parameters(suite="mine", subject="x")
    with pytest.raises(BadInput, match="of the suite mine"):
        suite.of_request(parameters, suites.read("smoke").options(suite_files={path: "x"}), lambda _: b"")


@pytest.mark.parametrize("path", ["suite.yaml", "tasks/a b.yaml", "texte/übung.txt", "a/b/c.d", "...", "a..b"])
def test_a_path_inside_is_none_of_these(path: str) -> None:
    assert path_fault(path) == ""


def test_a_file_that_is_a_folder_too_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"'a' of the suite mine is a file and the folder of 'a/b/c'"):
        SuiteFiles(name="mine", files={"a": "x", "a/b/c": "x"})


@pytest.mark.parametrize(("line", "said"), TASKS, ids=[line.replace("\n", " ") for line, _ in TASKS])
def test_a_task_that_brings_code_or_leaves_its_folder_is_bad_input(line: str, said: str) -> None:
    text = "".join(
        part for part in TASK.splitlines(keepends=True) if not part.startswith((line.partition(":")[0], " "))
    )
    with pytest.raises(BadInput) as raised:
        task_files.check(SuiteFiles(name="mine", files={**FILES, "tasks/deep/mine.yaml": f"{text}{line}\n"}))
    assert "tasks/deep/mine.yaml of the suite mine" in raised.value.message
    assert said in raised.value.message
    assert raised.value.exit_code == 2


def test_what_a_task_includes_is_checked_too() -> None:
    files = {**FILES, "tasks/mine.yaml": f"include: base/_base\n{TASK}", "tasks/base/_base": "include: ../more.txt\n"}
    more = SuiteFiles(name="mine", files={**files, "tasks/more.txt": "process_docs: !function x.y\n"})
    with pytest.raises(BadInput, match=r"tasks/more.txt of the suite mine, line 1: process_docs has the tag !function"):
        task_files.check(more)
    task_files.check(SuiteFiles(name="mine", files={**files, "tasks/more.txt": "include: mine.yaml\n"}))


def test_tasks_that_ship_and_columns_of_any_name_are_fine() -> None:
    for name in suites.names():
        task_files.check(suites.read(name))
    columns = "fewshot_config:\n  samples: [{class: a, token: b}]\nunsafe_code: false\n"
    task_files.check(SuiteFiles(name="mine", files={**FILES, "tasks/mine.yaml": TASK + columns}))


@pytest.mark.parametrize(("text", "said"), [one[1:] for one in YAML], ids=[one[0] for one in YAML])
def test_yaml_that_is_no_data_is_bad_input(text: str, said: str) -> None:
    with pytest.raises(BadInput) as raised:
        load_yaml(text, "this file")
    assert said in raised.value.message
    assert raised.value.message.startswith("this file")
    assert SuiteFiles(name="mine", files={"suite.yaml": text}).max_model_len == 0


def test_links_that_leave_a_suite_are_bad_input(tmp_path: Path) -> None:
    """A link to a file or to a folder elsewhere; one inside is as good as a file."""
    folder, secret = tmp_path / "mine", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    (secret / "x").write_text("mine alone")
    (folder / "suite.yaml").write_text("name: mine\n")
    (folder / "text.txt").symlink_to("suite.yaml")
    assert set(suites.read(str(folder)).files) == {"suite.yaml", "text.txt"}
    for target in (secret / "x", secret, "/etc/passwd"):
        (folder / "evil").symlink_to(target)
        with pytest.raises(BadInput, match=r"evil in the suite .* is a link that leaves its folder"):
            suites.read(str(folder))
        (folder / "evil").unlink()


def test_a_suite_by_a_name_that_is_no_path_is_bad_input() -> None:
    with pytest.raises(BadInput, match="there is no suite"):
        suites.read("a\0b")


@pytest.mark.parametrize("name", ["../x", "../../x", "/etc", "a/b", "..", "a\0b", "~", "a\nb"])
def test_a_runs_name_that_is_a_path_is_bad_input(tmp_path: Path, name: str) -> None:
    page = tmp_path / "x" / "report.html"
    page.parent.mkdir()
    page.write_text("not a run's")
    (tmp_path / "home" / "runs").mkdir(parents=True)
    assert name_fault(name)
    with pytest.raises(BadInput, match="the name of a run"):
        report.of_run(tmp_path / "home", name)


def test_a_runs_name_is_no_pattern_and_its_page_no_link(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "20260101T000000"
    run.mkdir(parents=True)
    (run / "report.html").write_text("page")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "report.html").write_text("another")
    (tmp_path / "runs" / "99").symlink_to(tmp_path / "elsewhere")
    assert report.of_run(tmp_path, "") == report.of_run(tmp_path, "2026") == run / "report.html"
    for name in ("*", "[0-9]", "99"):
        with pytest.raises(BadInput, match="no run"):
            report.of_run(tmp_path, name)
