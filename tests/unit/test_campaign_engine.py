"""The campaign's cases for ships in containers, and that a container is killed when it has lived for as long as the case says."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any, cast

from infra.settings import DockerSettings
from tests.campaign.cases import CONTAINERS, GROUPS, SERVING, Case, containers, every
from tests.campaign.engine import Seen, disturbance
from tests.campaign.page import counts, render
from tests.campaign.world import Usual


def test_every_group_has_its_cases_under_names_that_a_project_may_have() -> None:
    cases = every(17, GROUPS)
    assert len({case.name for case in cases}) == sum(GROUPS.values())
    assert {case.victim for case in containers(17, GROUPS["container"])} == {*CONTAINERS, *SERVING}
    names = {case.name for case in cases if case.in_containers} | {f"usual-{case.way}" for case in cases}
    pattern = next(one.pattern for one in DockerSettings.model_fields["project"].metadata if hasattr(one, "pattern"))
    assert all(re.match(pattern, f"camp-4194304-{name}") for name in names)


def test_a_container_that_ended_too_soon_is_followed_by_the_next() -> None:
    killed: list[str] = []
    now = time.monotonic()
    seen = [Seen("first", "push", now - 9, ended=now - 8), Seen("second", "push", now - 0.5)]
    engine = SimpleNamespace(
        of=lambda label: [one for one in seen if one.label == label], kill=lambda one: not killed.append(one)
    )
    usual = Usual(steps={"push 1": 4.0, "evaluate 1": 1.0})
    case = Case("container-002", "container", "push", "SIGKILL", 0.5)
    act = disturbance(case, cast("Any", SimpleNamespace(engine=engine, proxies={})), usual)
    assert not act(0, 1.0)
    assert (killed, act.done) == ([], "")
    assert act(0, 1.0)
    assert killed == ["second"]
    assert act.done.startswith("push 1, ")


def test_the_page_has_tables_of_containers_and_of_the_socket() -> None:
    records = [
        {"name": name, "group": group, "victim": victim, "what": what, "outcome": "unharmed", "problems": [], "seed": 1}
        for name, group, victim, what in (
            ("a", "container", "push", "SIGKILL"),
            ("b", "engine", "container engine", "lost"),
        )
    ]
    page = render(records)
    assert "| push | 1 | 1 | 1 |" in page.partition("## Steps in containers")[2]
    assert "| lost | 1 | 1 | 1 |" in page
    assert "engine: 1 unharmed" in counts(records)
