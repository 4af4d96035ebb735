"""The documents that a promotion attaches to the image besides the verdict: the model card with scores, and statements.

They are stored as an artifact of kind `card` (README.md, bom.cdx.json, *.intoto.json) and passed to the promote step by
reference. Its name says nothing of the run that wrote it, so repeating a shipment attaches nothing new.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from containers import in_toto, suites
from containers.checkpoint_files import CONFIG, is_licence
from containers.contract import Kind
from containers.digest import Digest, canonical_json
from containers.foreign_json import CONFIGURATION, parse_object
from containers.sources import HUB
from containers.store import FileEntry, Manifest
from containers.verdict import BOM_FILE, CARD_FILE, REPORT_FILE, VERDICT_FILE, grounds_for_promotion
from flows.release import attestations, card, gate_result, ml_bom
from flows.release.shipment import Shipment
from flows.release.summary import Shipped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containers.contract import ArtifactRef
    from containers.parameters import PromotedImage, PushedImage, QuantizeParameters, ResolvedSource
    from containers.store import Store
    from containers.verdict import Verdict
    from flows.release.report import ReportLocation
    from flows.release.shipment import RunFacts
    from flows.release.summary import Approval, Timeline
    from flows.runners.service import Lease
    from flows.ship_request import ShipRequest
    from infra.settings import DeploySettings

_ARCHITECTURES: Final = 16


@dataclass(frozen=True)
class Release:
    """The results of a run up to its verdict; `before` and `after` are the checkpoints, `sizes` their bytes, `images` those
    that the card names, `outside` the image's reference where a person reads and types it, `approval` what a person said, where
    one was asked.
    """

    request: ShipRequest
    source: ResolvedSource
    recipe: QuantizeParameters
    image: PushedImage
    before: ArtifactRef
    after: ArtifactRef
    sizes: tuple[int, int]
    verdict: Verdict
    images: DeploySettings
    outside: str
    approval: Approval | None = None

    @property
    def promotable(self) -> bool:
        """Whether the verdict, the override or the gate profile promotes the candidate, and no person refused it."""
        grounds = grounds_for_promotion(
            self.verdict.decision, override=self.request.override_gate, profile=self.request.gate_profile
        )
        return grounds is not None and (self.approval is None or self.approval.approved)

    @property
    def tag(self) -> str:
        """The tag of the request; else the first digits of the commit, or of the checkpoint's digest without a commit."""
        return self.request.tag or (self.source.commit or self.before.digest.hex)[:12]

    def outcome(
        self,
        timeline: Timeline,
        artifacts: Iterable[ArtifactRef],
        *,
        worked: float,
        page: ReportLocation | None,
        kept: Lease | None,
        promoted: PromotedImage | None,
    ) -> Shipped:
        """The outcome of the run; `worked` is the seconds that steps worked, `kept` the lease of a model that keeps serving."""
        return Shipped(
            model=self.source.source,
            commit=self.source.commit,
            scheme=self.recipe.scheme,
            size_before=self.sizes[0],
            size_after=self.sizes[1],
            reference=self.image.reference,
            outside=self.outside,
            digest=self.image.digest,
            tags=(self.tag,) if self.promotable else (),
            verdict=self.verdict,
            gate_profile=self.request.gate_profile,
            override=self.request.override_gate,
            report=page.shown(promoted=self.promotable) if page is not None else "",
            steps=tuple(timeline.steps),
            endpoint=(kept.endpoint.published or kept.endpoint.url) if kept is not None else None,
            served_model_name=self.request.name,
            seconds=timeline.seconds,
            work_seconds=round(worked, 3),
            reason=self.request.reason,
            attached=promoted.attached if promoted is not None else {},
            artifacts=tuple(dict.fromkeys(artifacts)),
            approval=self.approval,
        )

    def write_documents(self, store: Store, verdict: ArtifactRef, run: RunFacts) -> ArtifactRef:
        """Write card, statements and bill of materials into the store; `verdict` is the artifact of the verdict.

        Named by what does not change with the run: the same product shipped again finds the documents of the run that
        shipped it first, and nothing is attached anew.
        """
        before, after = store.load(self.before), store.load(self.after)
        facts = self._facts(store, before, after)
        judged = {one.path: one for one in store.load(verdict).files}
        shipment = Shipment(
            request=self.request,
            source=self.source,
            recipe=self.recipe,
            image=self.image,
            before=before,
            after=after,
            verdict=self.verdict,
            suite=suites.read(self.request.suite),
            name=facts.name,
            base_model=facts.base_model,
            base_revision=facts.base_revision,
            architecture=facts.architecture,
            tag=self.tag,
            decisions=gate_result.decisions(store.read_bytes(judged[REPORT_FILE].sha256))
            if REPORT_FILE in judged
            else {},
            verdict_file=judged[VERDICT_FILE].sha256 if VERDICT_FILE in judged else None,
            approval=self.approval.reason if self.approval is not None else "",
        )
        rendered = card.render(facts).encode()
        lasting = Digest.of(canonical_json(_digests(_documents(rendered, shipment.anonymous())))).hex
        if (known := store.find(Kind.CARD, lasting)) is not None:
            return known.ref
        files = tuple(
            FileEntry(path=path, size=len(content), sha256=store.put_bytes(content))
            for path, content in sorted(_documents(rendered, replace(shipment, run=run)).items())
        )
        return store.commit(Manifest(kind=Kind.CARD, fingerprint=lasting, files=files))

    @property
    def tensor_parallel_size(self) -> int:
        """How many GPUs served the candidate."""
        return next((max(1, one.gpus) for one in self.verdict.serving if one.role == "candidate"), 1)

    @property
    def max_model_len(self) -> int:
        """The context length in tokens that it was measured with."""
        return max(self.request.max_model_len, suites.read(self.request.suite).max_model_len)

    def _facts(self, store: Store, before: Manifest, after: Manifest) -> card.CardFacts:
        config = _config(store, before)
        base, revision = self._base()
        quantization: Any = after.metadata.get("quantization") or {}
        link = _licence_link(before, base, revision) if self.source.source.startswith(HUB) else ""
        return card.CardFacts(
            name=f"{base.rpartition('/')[2]}-{_suffix(self.recipe.scheme)}",
            base_model=base,
            base_revision=revision,
            source=self.source.pinned,
            license=_licence(before),
            license_link=link,
            architecture=_architecture(config),
            scheme=self.recipe.scheme,
            ignore=self.recipe.ignore,
            reference=self.outside,
            tag=self.tag,
            digest=self.image.digest,
            size_before=before.size,
            size_after=after.size,
            versions=quantization.get("versions") or {},
            max_model_len=self.max_model_len,
            server=self.verdict.server or "vLLM",
            baseline_server=self.verdict.baseline_server,
            suite=self.verdict.suite,
            decision=self.verdict.decision,
            reasons=self.verdict.reasons,
            override=self.request.override_gate,
            gate_profile=self.request.gate_profile,
            scores=self.verdict.scores,
            serving=self.verdict.serving,
            speed=self.verdict.speed,
            tensor_parallel_size=self.tensor_parallel_size,
            commands=(self._command(), *self.verdict.commands),
            podman_image=self.images.podman_image,
            kserve_image=self.images.kserve_image,
        )

    def _base(self) -> tuple[str, str]:
        """Name and revision of the base model; for a source other than the hub, the folder's name and the digest."""
        name = self.source.source.removeprefix(HUB).partition("@")[0].rstrip("/")
        if self.source.source.startswith(HUB):
            return name, self.source.commit or self.source.revision or "main"
        return name.rpartition("/")[2], str(self.before.digest)

    def _command(self) -> str:
        """The command that repeats the evaluation: same digest, same baseline, same suite."""
        argv = ["carwright", "eval", self.outside, "--baseline", self.source.pinned.partition("#")[0]]
        argv += ["--suite", self.verdict.suite]
        if self.request.max_model_len:
            argv += ["--max-model-len", str(self.request.max_model_len)]
        argv += [word for argument in self.request.vllm_argument for word in ("--vllm-argument", argument)]
        chosen = {
            "--tool-call-parser": self.request.tool_call_parser,
            "--reasoning-parser": self.request.reasoning_parser,
        }
        argv += [word for option, name in chosen.items() if name for word in (option, name)]
        return shlex.join(argv)


def _documents(rendered: bytes, shipment: Shipment) -> dict[str, bytes]:
    """The files by name: the card, the statements, and the bill of materials by itself."""
    bom = in_toto.document(ml_bom.document(shipment))
    return {CARD_FILE: rendered, BOM_FILE: bom} | {one.title: one.content for one in attestations.of(shipment)}


def _digests(documents: dict[str, bytes]) -> list[list[str]]:
    return [[path, str(Digest.of(content))] for path, content in sorted(documents.items())]


def _config(store: Store, checkpoint: Manifest) -> dict[str, Any]:
    entry = next((one for one in checkpoint.files if one.path == CONFIG), None)
    if entry is None:
        return {}
    return parse_object(store.read_bytes(entry.sha256), "config.json of the checkpoint", CONFIGURATION)


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return ", ".join(str(one) for one in named[:_ARCHITECTURES]) if isinstance(named, list) and named else "unknown"


def _licence(checkpoint: Manifest) -> str:
    """The licence as the hub's metadata take one; a model with several, or none, has another than those it knows."""
    named = checkpoint.metadata.get("license")
    return named if isinstance(named, str) and named else "other"


def _licence_link(checkpoint: Manifest, base: str, revision: str) -> str:
    found = next((one.path for one in checkpoint.files if "/" not in one.path and is_licence(one.path)), None)
    return f"https://huggingface.co/{base}/blob/{revision}/{quote(found)}" if found else ""


def _suffix(scheme: str) -> str:
    """The scheme as model names spell it: FP8_DYNAMIC becomes FP8-dynamic."""
    first, _, rest = scheme.partition("_")
    return "-".join([first, *([rest.lower().replace("_", "-")] if rest else [])])
