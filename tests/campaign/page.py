"""The results as a page of docs/measurements."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from tests.campaign.cases import GROUPS
from tests.support.fault_proxy import KINDS

_OUTCOMES: Final = {
    "unharmed": "the ship ended well, with the same digest",
    "told": "it ended with one clear error and a documented exit code; the next one ended well, with the same digest",
    "resumed": "the command itself was killed; the next one ended well, with the same digest",
    "failed": "something else: the problems are below",
    "missed": "the victim had ended, or the call was not made: nothing was tried",
    "skipped": "this machine lacks what it needs",
    "error": "the campaign's own failure",
}
_WRITTEN: Final = "## What it found"
_GOOD: Final = ("unharmed", "told", "resumed")


def counts(records: list[dict[str, Any]]) -> str:
    """One line for each group, and the problems."""
    lines = []
    for group in GROUPS:
        found = Counter(record["outcome"] for record in records if record["group"] == group)
        lines.append(
            f"{group}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(found.items())) or 'none'}"
        )
    for record in records:
        lines += [f"{record['name']} {record['victim']} {record['what']}: {problem}" for problem in record["problems"]]
    return "\n".join(lines)


def render(records: list[dict[str, Any]], before: str = "") -> str:
    """Markdown: what was tried, of whom, with which outcome; what people wrote at the end of the page `before` stays."""
    seeds = ", ".join(sorted({str(record["seed"]) for record in records}))
    lines = [
        "# Campaign",
        "",
        "Ships of a tiny model with real services (an S3 server, docker-registry, the hub's API, Prefect, vLLM on the CPU). Each is",
        "disturbed once, at an instant or a call that a seed chooses. After every case these are checked for leftovers: processes, ports,",
        "locks, leases, slots, temporary files, half-written objects, tags and artifacts. `python -m tests.campaign --render` writes this",
        f"page from the results; seed {seeds}.",
        "",
        *(f"- {outcome}: {meaning}" for outcome, meaning in _OUTCOMES.items()),
        "",
        "## Kills",
        "",
        "SIGKILL at a random instant of the victim's life. `measure` is a measurement; `fetch`, `serve` and `engine` are the",
        "service that a ship starts. `worker`, `flow run`, `command` and `Prefect server` belong to a run of a deployment.",
        "",
        *_table("killed", [record for record in records if record["group"] == "kill"], "victim"),
        "",
        "## Faults",
        "",
        "One call fails, or three in a row, or all from one on.",
        "",
        *_table("of", [record for record in records if record["group"] == "fault"], "victim"),
        "",
        *_table("kind", [record for record in records if record["group"] == "fault"], "what"),
        "",
        *(f"- {kind}: {meaning}" for kind, meaning in KINDS.items()),
        "",
        "## Beside each other",
        "",
        *_table("what", [record for record in records if record["group"] == "beside"], "what"),
    ]
    if any(record["group"] in {"container", "engine"} for record in records):
        lines += ["", *_in_containers(records)]
    codes = Counter(
        str(record["first"]["code"]) for record in records if record["outcome"] == "told" and record.get("first")
    )
    if codes:
        lines += ["", "Exit codes of the ships that told what happened: " + ", ".join(f"{code} ({number})" for code, number in sorted(codes.items())) + "."]  # fmt: skip
    problems = [record for record in records if record["problems"]]
    if problems:
        lines += ["", "## Problems", "", "| case | victim | what | problems |", "|---|---|---|---|"]
        lines += [
            f"| {record['name']} | {record['victim']} | {record['what']} | {'; '.join(record['problems'])} |".replace(
                "\n", " "
            )
            for record in problems
        ]
    _, found, written = before.partition(_WRITTEN)
    return "\n".join(lines) + "\n" + (f"\n{found}{written}" if found else "")


def _in_containers(records: list[dict[str, Any]]) -> list[str]:
    killed = [record for record in records if record["group"] == "container"]
    hit = [record for record in records if record["group"] == "engine"]
    return [
        "## Steps in containers",
        "",
        "Ships with the docker runner and a real engine. After each there is no container of it, no volume that a container had, and",
        "no network either. SIGKILL of a container: of a step, `server` of vLLM, `modelcar` of what it reads, `fetch` of what fetches",
        "for it; `flow` is the command that waits for them.",
        "",
        *_table("killed", killed, "victim"),
        "",
        "Calls of the engine's socket that fail: one, or some in a row. While nothing listens, the socket is gone, as when an engine ends.",
        "",
        *_table("kind", hit, "what"),
    ]


def _table(title: str, records: list[dict[str, Any]], key: str) -> list[str]:
    if not records:
        return ["None yet."]
    outcomes = [outcome for outcome in _OUTCOMES if any(record["outcome"] == outcome for record in records)]
    lines = [f"| {title} | tried | survived | {' | '.join(outcomes)} |", f"|---|{'---|' * (len(outcomes) + 2)}"]
    names = list(dict.fromkeys(record[key] for record in sorted(records, key=lambda one: str(one[key]))))
    for name in [*names, None]:
        found = Counter(record["outcome"] for record in records if name is None or record[key] == name)
        tried = sum(found.values()) - found["missed"] - found["skipped"] - found["error"]
        row = [name or "all", str(tried), str(sum(found[one] for one in _GOOD)), *(str(found[one]) for one in outcomes)]
        lines.append(f"| {' | '.join(row)} |")
    return lines
