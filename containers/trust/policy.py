"""The policy: one file that says which models may be served, read once and frozen.

    keys:
      - name: release
        file: release.pub
    require:
      statements: [signature, provenance, verdict]

The file is YAML. `docs/trust.md` has every field. Whatever it does not know is refused with the line and the field: a rule
that is misspelt would else be a rule that is not there.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from containers.contract import Frozen
from containers.digest import Digest, canonical_json
from containers.errors import BadInput, Error, faults
from containers.in_toto import PROVENANCE, TEST_RESULT
from containers.signing_settings import read_text
from containers.trust.keys import PublicKey
from containers.trust.statement import MODEL, NAMES, SIGNATURE
from containers.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

P = TypeVar("P", bound="Policy")
_REMEDY: Final = "docs/trust.md has the fields of a policy"
_NOBODY: Final = "name the keys, or the identities, whose signatures count"


def _statement(text: str) -> str:
    uri = NAMES.get(text, text)
    if ":" not in uri:
        raise ValueError(f"{text!r} is none of {', '.join(NAMES)} and no URI of a predicate")
    return uri


StatementName = Annotated[str, AfterValidator(_statement)]
# What is allowed. A list with nothing in it would read as if nothing were, so it is refused: what is left out allows all.
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class PolicyKey(Frozen):
    """A key that is trusted: `file` beside the policy, or `pem` in it. `statements` are those that it may sign; left out: all.

    From the day after `until` it is trusted no more, and before `since` not yet. What it signed falls with it, because
    nobody but the holder of the key says when that was.
    """

    name: str = Field(min_length=1)
    file: str = ""
    pem: str = ""
    statements: tuple[StatementName, ...] = Field(default=(), min_length=1)
    since: date | None = None
    until: date | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.file) == bool(self.pem):
            raise ValueError("give one of file and pem")
        return self

    @property
    def public(self) -> PublicKey:
        """Raises BadInput where the text is no public key; `read` replaces files by their text."""
        return PublicKey.parse(self.pem, f"the key {self.name!r} of the policy")

    def why_not(self, today: date) -> str:
        """Why it is not trusted today; empty if it is."""
        if self.until is not None and today > self.until:
            return f"the key {self.name!r} expired on {self.until}"
        if self.since is not None and today < self.since:
            return f"the key {self.name!r} is trusted from {self.since} on, and today is {today}"
        return ""


class Identity(Frozen):
    """Somebody who is trusted without a key: whom certificates name as `subject`, on the word of `issuer`.

    `issuer` is compared as it is. In `subject`, `*` stands for anything, and before its end for anything without an `@`; the whole of
    it must fit. The host of an address and the domain of an e-mail address must be written out, and a pattern of the one never
    fits the other. `repository`, compared as it is, is the one whose build it was: a workflow that others may call signs under one
    name for all of them. `since` and `until` are held against the time that the transparency log gives a signature, so what was signed
    in time stays trusted.
    """

    name: str = Field(min_length=1)
    issuer: str = Field(min_length=1)
    subject: str = Field(min_length=1)
    repository: str = ""
    statements: tuple[StatementName, ...] = Field(default=(), min_length=1)
    since: date | None = None
    until: date | None = None

    @model_validator(mode="after")
    def _of_somebody(self) -> Self:
        if "*" in self.issuer:
            raise ValueError("the issuer is compared as it is, without `*`")
        scheme, colon, rest = self.subject.partition("://")
        fixed = scheme + rest.partition("/")[0] if colon else self.subject.rpartition("@")[2]
        # Of `*@refs/heads/main` the part after the @ is no domain, but the end of everybody's workflow.
        if "*" in fixed or (not colon and "*" in self.subject and "/" in fixed):
            raise ValueError("the subject must name its host or domain without `*`, or it is anybody's")
        return self

    def fits(self, subject: str) -> bool:
        """Whether a certificate's subject is this one."""
        alike = ("://" in subject) == ("://" in self.subject)
        return alike and re.fullmatch(self.expression(re.escape), subject, re.DOTALL) is not None

    def expression(self, escape: Callable[[str], str]) -> str:
        """The subject as a regular expression, without anchors; `escape` makes text of it that means itself.

        Branches and tags are named by whoever may push one, so in `.../*@refs/heads/main` no `@` may be within the `*`: a
        branch could be called `x@refs/heads/main`.
        """
        first, *rest = self.subject.split("*")
        inner = "[^@]*" if "://" in self.subject else "[^@/]*"
        last = len(rest) - 1
        return escape(first) + "".join(
            (".*" if number == last and not text else inner) + escape(text) for number, text in enumerate(rest)
        )

    def why_not(self, logged: date) -> str:
        """Why what was signed on that day does not count; empty if it does."""
        if self.until is not None and logged > self.until:
            return f"{self.name!r} was trusted until {self.until}, and this was signed on {logged}"
        if self.since is not None and logged < self.since:
            return f"{self.name!r} is trusted from {self.since} on, and this was signed on {logged}"
        return ""


class Requirements(Frozen):
    """`statements` that must be there and signed, at least one, or everything would pass; `signers`: by how many different keys
    or identities each.
    """

    statements: tuple[StatementName, ...] = Field(default=(NAMES["signature"],), min_length=1)
    signers: int = Field(default=1, ge=1, le=16)


class BaseModels(Frozen):
    """Where models may come from: patterns of sources (`hf://org/*`), and of revisions or commits; left out: any."""

    sources: Patterns = ()
    revisions: Patterns = ()


class RecipeRule(Frozen):
    schemes: Patterns = ()


class GateRule(Frozen):
    """What the gate must have decided, by which suites (names or digests); left out: any. Without `override` nobody may
    overrule it.
    """

    decisions: tuple[Decision, ...] = Field(default=("pass",), min_length=1)
    suites: Patterns = ()
    override: bool = False


class BaseImage(Frozen):
    """Images under `repository`, a pattern, may be a modelcar's base if one of `keys`, which may be identities, signed them."""

    repository: str = Field(min_length=1)
    keys: tuple[str, ...] = Field(min_length=1)


class Policy(Frozen):
    """What must hold of a model before it is served. Sections that are left out demand nothing.

    `revoked` are fingerprints of keys, `deny` digests of images that never pass. `max_age_days` is counted from the date in
    the image's signature; `repositories` are patterns of the places that images may come from. `trusted_root` is the file with
    what vouches for identities, or `public` for the public Sigstore's; once read, it is the root itself.
    """

    version: Literal[1] = 1
    keys: tuple[PolicyKey, ...] = ()
    identities: tuple[Identity, ...] = ()
    trusted_root: str = ""
    revoked: tuple[Digest, ...] = ()
    require: Requirements = Requirements()
    repositories: Patterns = ()
    base: BaseModels | None = None
    recipe: RecipeRule | None = None
    gate: GateRule | None = None
    max_age_days: int | None = Field(default=None, ge=1, le=999_999)
    base_images: tuple[BaseImage, ...] | None = None
    deny: tuple[Digest, ...] = ()

    @classmethod
    def parse(cls, text: str, what: str, folder: Path | None = None) -> Self:
        """A policy out of YAML; key files are read from `folder`. Raises BadInput with the line and the field."""
        from containers.plain_yaml import load_yaml  # the serve step gets JSON, and needs no YAML

        value = load_yaml(text, what, once=True)
        if not isinstance(value, dict):
            raise BadInput(f"{what} is not a mapping of fields", remedy=_REMEDY)
        try:
            policy = cls.model_validate(value)
        except ValidationError as error:
            raise BadInput(f"{what}, {_first(text, error)}", remedy=_REMEDY) from error
        for place in _without_value(value):
            raise BadInput(
                f"{what}, line {_line(text, place)}: {'.'.join(map(str, place))}: it has no value, and would demand nothing",
                remedy="give it one, `{}` for a section with the values that are usual, or leave it out",
            )
        if not policy.keys and not policy.identities:
            raise BadInput(f"{what}, line {_line(text, ('keys',))}: keys: nobody is trusted", remedy=_NOBODY)
        return _with_root(_with_keys(policy, text, what, folder), text, what, folder)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The policy in a file, with the keys that it names beside it; raises BadInput."""
        return cls.parse(read_text(path), str(path), path.expanduser().absolute().parent)

    @property
    def demanded(self) -> tuple[str, ...]:
        """The predicates that must be there: those that it names, and those that a section of it is about.

        The signature of a model's files says nothing of an image's digest, and an image may list files that it does not hold. So
        where that would be all, the image's own signature is demanded, too.
        """
        found = [*self.require.statements]
        found += [PROVENANCE] if self.base or self.recipe else []
        found += [TEST_RESULT] if self.gate else []
        found += [SIGNATURE] if self.max_age_days or {*found} <= {MODEL} else []
        return tuple(dict.fromkeys(found))

    def dump(self) -> str:
        """As JSON that needs no other file, for a step that cannot read them."""
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True)).decode()

    @classmethod
    def load(cls, text: str) -> Self:
        """What `dump` wrote; raises BadInput for anything else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(f"not a policy: {faults(error)}", remedy=_REMEDY) from error


def matches(text: str, patterns: Sequence[str]) -> bool:
    """Whether the text is one of the patterns, in which `*` stands for anything; no pattern allows everything."""
    return not patterns or any(fnmatch.fnmatchcase(text, one) for one in patterns)


def _first(text: str, error: ValidationError) -> str:
    """Line, field and fault of the first error, and what the field might have been meant as."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = first["loc"]
    field = ".".join(map(str, place)) or "the whole"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "too_short":
        message = "the list is empty; name what is meant, or leave the field out"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), _fields(place[:-1]), n=1)
        message = "there is no such field" + (f"; did you mean {near[0]}?" if near else "")
    return f"line {_line(text, place)}: {field}: {message}"


def _without_value(value: Any, place: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """The places of fields that have none, as where all lines below one are comments."""
    if value is None:
        yield place
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from _without_value(inner, (*place, name))


def _fields(place: tuple[int | str, ...]) -> list[str]:
    """The names of the fields of the model at a place in a policy."""
    model: Any = {
        "keys": PolicyKey,
        "identities": Identity,
        "require": Requirements,
        "base": BaseModels,
        "recipe": RecipeRule,
        "gate": GateRule,
        "base_images": BaseImage,
    }.get(str(place[0]) if place else "", Policy)
    return list(model.model_fields)


def _line(text: str, place: tuple[int | str, ...]) -> int:
    """The line of a field, or of the innermost field around it that is there."""
    import yaml

    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _with_keys(policy: P, text: str, what: str, folder: Path | None) -> P:
    """With every key in the policy itself; raises BadInput for a key that cannot be used, and for names without one."""
    keys: list[PolicyKey] = []
    for number, key in enumerate(policy.keys):
        if key.file and folder is None:
            raise BadInput(f"{what}: the key {key.name!r} is in a file, and only `pem` can be read here")
        held = key.model_copy(update={"file": "", "pem": read_text(folder / key.file)}) if key.file and folder else key
        try:
            mark = held.public.fingerprint
        except Error as error:
            where = _line(text, ("keys", number))
            raise BadInput(f"{what}, line {where}: keys.{number}: {error.message}", remedy=error.remedy) from error
        if any(one.name == held.name or one.public.fingerprint == mark for one in keys):
            where = _line(text, ("keys", number))
            raise BadInput(f"{what}, line {where}: keys.{number}: {held.name!r} is there twice", remedy=_REMEDY)
        keys.append(held)
    names = {one.name for one in keys}
    for number, identity in enumerate(policy.identities):
        if identity.name in names:
            where = _line(text, ("identities", number))
            raise BadInput(
                f"{what}, line {where}: identities.{number}: {identity.name!r} is there twice", remedy=_REMEDY
            )
        names.add(identity.name)
    for number, rule in enumerate(policy.base_images or ()):
        if unknown := set(rule.keys) - names:
            where = _line(text, ("base_images", number, "keys"))
            raise BadInput(
                f"{what}, line {where}: base_images.{number}.keys: no key or identity is named {', '.join(sorted(unknown))}",
                remedy=f"the keys are {', '.join(sorted(names))}",
            )
    return policy.model_copy(update={"keys": tuple(keys)})


def _with_root(policy: P, text: str, what: str, folder: Path | None) -> P:
    """With the trusted root in the policy itself; raises BadInput for one that cannot be used, or is not named."""
    from containers.trust import certified  # late, and its library later still: most policies name keys alone

    named = policy.trusted_root
    if not policy.identities:
        return policy.model_copy(update={"trusted_root": ""})
    where = f"{what}, line {_line(text, ('trusted_root',) if named else ('identities',))}"
    if not named:
        raise BadInput(
            f"{where}: identities: no trusted_root says who vouches for them",
            remedy=f"give `trusted_root: FILE`, or `trusted_root: {certified.PUBLIC}` for the public Sigstore",
        )
    if named == certified.PUBLIC:
        return policy.model_copy(update={"trusted_root": certified.public_root()})
    if folder is None:
        raise BadInput(f"{where}: trusted_root: it is in a file, which cannot be read here", remedy=_REMEDY)
    try:
        root = certified.read_root(read_text(folder / named), str(folder / named))
    except Error as error:
        raise BadInput(f"{where}: trusted_root: {error.message}", remedy=error.remedy) from error
    return policy.model_copy(update={"trusted_root": root})
