"""Scans all watched models: their current state beside what was shipped. It changes nothing but the cached hub answers."""

from __future__ import annotations

import fnmatch
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from containers.contract import Frozen
from containers.digest import Digest
from containers.errors import BadInput, Error
from containers.oci.access import open_repository
from containers.oci.reference import Reference
from containers.oci.repository import found, image
from containers.parameters import BASES
from containers.trust.policy import Policy
from containers.trust.verify import check_base
from flows.watching import changes, records
from flows.watching.changes import BuildInputs, Change
from flows.watching.hub import HubClient, HubUnavailable, NotFoundOnHub
from flows.watching.models import WatchedModel
from flows.watching.records import Attempt, ShipRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from containers.store import Store
    from infra.settings import Settings

_PLATFORM: Final = "linux/amd64"  # what the chain builds for


class ModelState(Frozen):
    """The state of one product. `commit` is the newest that the entry's revision selects, "" if unknown.

    `problem` says what could not be checked; then `wanted` is None and `changes` is empty, because nothing is rebuilt
    from incomplete information. `temporary`: the next scan may succeed. `notes` are for people.
    """

    entry: WatchedModel
    to: str
    record: ShipRecord | None = None
    attempt: Attempt | None = None
    commit: str = ""
    wanted: BuildInputs | None = None
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    temporary: bool = False

    @property
    def product(self) -> str:
        return records.product(self.entry.model, self.entry.recipe.scheme, self.to)

    @property
    def reason(self) -> str:
        """Why a run would start, in one line."""
        return f"{self.entry.name}: " + "; ".join(map(str, self.changes))

    @property
    def announced_before(self) -> bool:
        """Whether the same change was announced before."""
        return self.attempt is not None and self.wanted is not None and self.attempt.change == self.wanted.fingerprint

    @property
    def reruns(self) -> tuple[str, ...]:
        """The steps whose cached results are useless, in the order of the chain."""
        found = {step for change in self.changes for step in change.reruns}
        return tuple(step for step in changes.CHAIN if step in found)


def scan(entries: Sequence[WatchedModel], settings: Settings, store: Store) -> list[ModelState]:
    """The state of every product, in the order of the file. An error of one entry is in its state; the store's are raised."""
    cached = records.read_hub_answers(store)
    hub = HubClient(settings, cached)
    with ThreadPoolExecutor(settings.watch.parallel, thread_name_prefix="watch") as pool:
        names = sorted({entry.base for entry in entries})
        bases = dict(zip(names, pool.map(lambda name: _base(name, settings), names), strict=True))
        scanner = _Scanner(settings, store, hub, bases, cache(changes.tools_now))
        found = [seen for several in pool.map(scanner.scan_entry, entries) for seen in several]
    if hub.used != cached:
        records.write_hub_answers(store, hub.used)
    return found


def newest_tag(tags: Iterable[str], pattern: str) -> str | None:
    """The newest matching tag: the greatest version (PEP 440; v1.2 is 1.2), or the last by text if none is a version."""

    def rank(tag: str) -> tuple[bool, Version, str]:
        try:
            return True, Version(tag), tag
        except InvalidVersion:
            return False, Version("0"), tag

    return max((tag for tag in tags if fnmatch.fnmatchcase(tag, pattern)), key=rank, default=None)


@dataclass(frozen=True)
class _Base:
    """The current state of a base: `pinned` is the value for a run, `error` why it could not be read."""

    pinned: str
    digest: str = ""
    error: Error | None = None


def _base(base: str, settings: Settings) -> _Base:
    """The digest of the platform's image, as a modelcar's annotation names it."""
    if base in BASES:
        return _Base(base, changes.built_in_base(base))
    try:
        reference = Reference.parse(base)
        with open_repository(reference, settings) as repository:
            top = found(repository, reference.what).digest  # asked for once: a tag may move between two answers
            stored, _ = image(repository, str(top), _PLATFORM)
            if settings.trust.policy is not None:
                check_base(repository, top, Policy.read(settings.trust.policy))
    except Error as error:
        return _Base(base, error=error)
    return _Base(str(reference.at(stored.digest)), str(stored.digest))


@dataclass(frozen=True)
class _Scanner:
    """What the scan of every entry needs."""

    settings: Settings
    store: Store
    hub: HubClient
    bases: Mapping[str, _Base]
    tools: Callable[[str], dict[str, dict[str, str]]]

    def scan_entry(self, entry: WatchedModel) -> list[ModelState]:
        """One state for each target; `problem` says what could not be checked."""
        found = []
        for to in entry.targets:
            product = records.product(entry.model, entry.recipe.scheme, to)
            known = ModelState(
                entry=entry,
                to=to,
                record=records.read_shipped(self.store, product),
                attempt=records.read_attempt(self.store, product),
            )
            try:
                found.append(self._target(known))
            except Error as error:
                problem = f"{error.message} ({error.remedy})" if error.remedy else error.message
                found.append(
                    known.model_copy(
                        update={
                            "problem": problem,
                            "temporary": error.temporary,
                            "commit": self._last_known(entry) if isinstance(error, HubUnavailable) else "",
                        }
                    )
                )
        return found

    def _target(self, known: ModelState) -> ModelState:
        entry, record = known.entry, known.record
        commit, notes = self._commit(entry)
        base = self.bases[entry.base]
        if base.error is not None:
            raise base.error
        repair, registry_notes = self._repair(record, known.to)
        wanted = BuildInputs(
            model=entry.model,
            commit=commit,
            to=known.to,
            scheme=entry.recipe.scheme,
            suite=entry.suite,
            base=base.pinned,
            base_digest=base.digest,
            tools=self.tools(entry.suite),
            gate=entry.gate,
            override=entry.override_gate,
            repair=repair,
        )
        found = changes.changes(record, wanted)
        found, hub_notes = self._check_revision(entry, record, found)
        if repair and record is not None:
            found += (Change(kind="image", what=f"tag {record.tags[0]}", before=str(record.digest), after=""),)
        if found:
            self.hub.check_access(entry.repository, commit)
        notes += registry_notes + hub_notes
        return known.model_copy(update={"commit": commit, "wanted": wanted, "changes": found, "notes": notes})

    def _commit(self, entry: WatchedModel) -> tuple[str, tuple[str, ...]]:
        """The commit that the entry's revision selects now, with notes."""
        selection = entry.revision
        name = selection.branch or selection.commit
        if selection.tag is not None:
            tags = self.hub.tags(entry.repository)
            name = newest_tag(tags, selection.tag)
            if name is None:
                raise BadInput(
                    f"{entry.repository} has no tag that matches {selection.tag!r}",
                    remedy=f"its tags: {', '.join(sorted(tags)[:5]) or 'none'}",
                )
        assert name is not None
        head = self.hub.head(entry.repository, name)
        notes = [f"tag {name}"] if selection.tag is not None else []
        return head.commit, (*notes, *(["gated"] if head.gated else []))

    def _last_known(self, entry: WatchedModel) -> str:
        return self.hub.last_known(entry.repository, entry.revision.branch or entry.revision.commit or "") or ""

    def _check_revision(
        self, entry: WatchedModel, record: ShipRecord | None, found: tuple[Change, ...]
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        """Drop the change of revision if no decisive file differs; add a note if the history was rewritten."""
        revision = next((change for change in found if change.kind == "revision"), None)
        if revision is None or record is None or record.commit is None:
            return found, ()
        rest = tuple(change for change in found if change is not revision)
        try:
            compared = self.hub.compare(entry.repository, record.commit, revision.after)
        except NotFoundOnHub:
            why = "the shipped commit is gone from the hub: the history was rewritten"
            return (revision.model_copy(update={"note": why}), *rest), ()
        if not compared.decisive:
            paths = ", ".join(compared.other[:3]) + (
                f" and {len(compared.other) - 3} more" if compared.other[3:] else ""
            )
            return rest, (f"only {paths or 'the commit'} changed since {record.commit[:12]}: not rebuilt",)
        notes = [f"{len(compared.decisive)} files" if compared.decisive[1:] else compared.decisive[0]]
        notes += ["the history was rewritten: the shipped commit is not part of it"] if compared.rewritten else []
        return (revision.model_copy(update={"note": "; ".join(notes)}), *rest), ()

    def _repair(self, record: ShipRecord | None, to: str) -> tuple[str, tuple[str, ...]]:
        """What is missing at the target; a tag that was moved to another image is noted and left alone."""
        if record is None or not record.tags:
            return "", ()
        tag = record.tags[0]
        with open_repository(Reference.parse(to).tagged(tag), self.settings) as repository:
            stored = repository.get(tag)
        if stored is None:
            return f"{tag} of {record.shipped.isoformat()}", ()
        if stored.digest != record.digest:
            return "", (f"{to}:{tag} was moved to {stored.digest.short}, not by Carwright",)
        return "", ()


def base_digest(reference: str, settings: Settings) -> str:
    """The digest of the base image under a modelcar, from the modelcar's own annotation; "" when it names none."""
    parsed = Reference.parse(reference)
    with open_repository(parsed, settings) as repository:
        _, manifest = image(repository, parsed.what, _PLATFORM)
    name = (manifest.annotations or {}).get("org.opencontainers.image.base.name", "")
    found = name.rpartition("@")[2] or name
    return str(Digest.parse(found)) if found.startswith("sha256:") else ""
