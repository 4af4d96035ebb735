"""A look at all watched models: what is there now, beside what was shipped. Nothing in here changes anything."""

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
from containers.oci.repository import image
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
    """One product of one line. `commit` is the newest that the line's policy wants, "" when it is not known.

    `problem` says what could not be looked at ("" when all could be), and then `wanted` is None and `changes` empty:
    nothing is rebuilt on half of the facts. `temporary`: the next look may see more. `notes` are for people.
    """

    line: WatchedModel
    to: str
    record: ShipRecord | None = None
    attempted: Attempt | None = None
    commit: str = ""
    wanted: BuildInputs | None = None
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    temporary: bool = False

    @property
    def product(self) -> str:
        return records.product(self.line.model, self.line.recipe.scheme, self.to)

    @property
    def reason(self) -> str:
        """Why a run is to start, in one line."""
        return f"{self.line.name}: " + "; ".join(map(str, self.changes))

    @property
    def tried(self) -> bool:
        """The very same change was announced before."""
        return (
            self.attempted is not None and self.wanted is not None and self.attempted.change == self.wanted.fingerprint
        )

    @property
    def reruns(self) -> tuple[str, ...]:
        """The steps that no cache answers for, in the order of the chain."""
        found = {step for change in self.changes for step in change.reruns}
        return tuple(step for step in changes.CHAIN if step in found)


def scan(lines: Sequence[WatchedModel], settings: Settings, store: Store) -> list[ModelState]:
    """Every product of every line, in the order of the file. Raises what the store raises, and nothing for one line."""
    kept = records.kept(store)
    hub = HubClient(settings, kept)
    with ThreadPoolExecutor(settings.watch.parallel, thread_name_prefix="watch") as pool:
        names = sorted({line.base for line in lines})
        bases = dict(zip(names, pool.map(lambda name: _base(name, settings), names), strict=True))
        eye = _Eye(settings, store, hub, bases, cache(changes.tools_now))
        found = [seen for several in pool.map(eye.line, lines) for seen in several]
    if hub.used != kept:
        records.keep(store, hub.used)
    return found


def newest(tags: Iterable[str], pattern: str) -> str | None:
    """The newest tag that fits: the greatest version (PEP 440; v1.2 is 1.2), or the last text where none is a version."""

    def rank(tag: str) -> tuple[bool, Version, str]:
        try:
            return True, Version(tag), tag
        except InvalidVersion:
            return False, Version("0"), tag

    return max((tag for tag in tags if fnmatch.fnmatchcase(tag, pattern)), key=rank, default=None)


@dataclass(frozen=True)
class _Base:
    """A base as it is now: `pinned` is what a run is given. `error` when it could not be found out."""

    pinned: str
    digest: str = ""
    error: Error | None = None


def _base(base: str, settings: Settings) -> _Base:
    """The digest of the platform's image, which is what a modelcar's annotation names too."""
    if base in {"busybox", "none"}:
        return _Base(base, changes.made_here(base))
    try:
        reference = Reference.parse(base)
        with open_repository(reference, settings) as repository:
            stored, _ = image(repository, reference.what, _PLATFORM)
    except Error as error:
        return _Base(base, error=error)
    return _Base(str(reference.at(stored.digest)), str(stored.digest))


@dataclass(frozen=True)
class _Eye:
    settings: Settings
    store: Store
    hub: HubClient
    bases: Mapping[str, _Base]
    tools: Callable[[str], dict[str, dict[str, str]]]

    def line(self, line: WatchedModel) -> list[ModelState]:
        """One answer for each target; whatever cannot be looked at is said in it."""
        found = []
        for to in line.targets:
            product = records.product(line.model, line.recipe.scheme, to)
            known = ModelState(
                line=line,
                to=to,
                record=records.shipped(self.store, product),
                attempted=records.attempt(self.store, product),
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
                            "commit": self._last_known(line) if isinstance(error, HubUnavailable) else "",
                        }
                    )
                )
        return found

    def _target(self, known: ModelState) -> ModelState:
        line, record = known.line, known.record
        commit, notes = self._commit(line)
        base = self.bases[line.base]
        if base.error is not None:
            raise base.error
        repair, registry_notes = self._repair(record, known.to)
        wanted = BuildInputs(
            model=line.model,
            commit=commit,
            to=known.to,
            scheme=line.recipe.scheme,
            suite=line.suite,
            base=base.pinned,
            base_digest=base.digest,
            tools=self.tools(line.suite),
            gate=line.gate,
            override=line.override_gate,
            repair=repair,
        )
        found = changes.changes(record, wanted)
        found, hub_notes = self._of_the_hub(line, record, found)
        if repair and record is not None:
            found += (Change(kind="image", what=f"tag {record.tags[0]}", before=str(record.digest), after=""),)
        if found:
            self.hub.readable(line.repository, commit)
        notes += registry_notes + hub_notes
        return known.model_copy(update={"commit": commit, "wanted": wanted, "changes": found, "notes": notes})

    def _commit(self, line: WatchedModel) -> tuple[str, tuple[str, ...]]:
        """Where the policy points now."""
        policy = line.revision
        name = policy.branch or policy.commit
        if policy.tag is not None:
            tags = self.hub.tags(line.repository)
            name = newest(tags, policy.tag)
            if name is None:
                raise BadInput(
                    f"{line.repository} has no tag like {policy.tag!r}",
                    remedy=f"it has {', '.join(sorted(tags)[:5]) or 'none'}",
                )
        assert name is not None
        head = self.hub.head(line.repository, name)
        notes = [f"tag {name}"] if policy.tag is not None else []
        return head.commit, (*notes, *(["gated"] if head.gated else []))

    def _last_known(self, line: WatchedModel) -> str:
        return self.hub.last_known(line.repository, line.revision.branch or line.revision.commit or "") or ""

    def _of_the_hub(
        self, line: WatchedModel, record: ShipRecord | None, found: tuple[Change, ...]
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        """Without the change of revision when nothing that counts differs; with a word when the history was rewritten."""
        revision = next((change for change in found if change.kind == "revision"), None)
        if revision is None or record is None or record.commit is None:
            return found, ()
        rest = tuple(change for change in found if change is not revision)
        try:
            compared = self.hub.compare(line.repository, record.commit, revision.after)
        except NotFoundOnHub:
            why = "the shipped commit is gone from the hub: the history was rewritten"
            return (revision.model_copy(update={"note": why}), *rest), ()
        if not compared.decisive:
            paths = ", ".join(compared.other[:3]) + (
                f" and {len(compared.other) - 3} more" if compared.other[3:] else ""
            )
            return rest, (f"only {paths or 'the commit'} changed since {record.commit[:12]}: not rebuilt",)
        said = [f"{len(compared.decisive)} files" if compared.decisive[1:] else compared.decisive[0]]
        said += (
            ["the history was rewritten: it does not lead there from what was shipped"] if compared.rewritten else []
        )
        return (revision.model_copy(update={"note": "; ".join(said)}), *rest), ()

    def _repair(self, record: ShipRecord | None, to: str) -> tuple[str, tuple[str, ...]]:
        """What is missing at the target of what was shipped there; a tag that somebody moved is told and left alone."""
        if record is None or not record.tags:
            return "", ()
        tag = record.tags[0]
        with open_repository(Reference.parse(to).tagged(tag), self.settings) as repository:
            stored = repository.get(tag)
        if stored is None:
            return f"{tag} of {record.shipped.isoformat()}", ()
        if stored.digest != record.digest:
            return "", (f"{to}:{tag} was moved to {stored.digest.short} by somebody else",)
        return "", ()


def base_digest(reference: str, settings: Settings) -> str:
    """The digest of the base image under a modelcar, from the modelcar's own annotation; "" when it names none."""
    parsed = Reference.parse(reference)
    with open_repository(parsed, settings) as repository:
        _, manifest = image(repository, parsed.what, _PLATFORM)
    name = (manifest.annotations or {}).get("org.opencontainers.image.base.name", "")
    found = name.rpartition("@")[2] or name
    return str(Digest.parse(found)) if found.startswith("sha256:") else ""
