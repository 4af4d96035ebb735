"""The model card: README.md in the structure of the reference card, with Hugging Face's metadata in front.

It carries scores, so it is no part of the image: it is attached to the image's digest as a referrer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from containers.contract import Frozen
from containers.digest import Digest
from containers.errors import BadInput
from containers.events import amount

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATES: Final = Path(__file__).with_name("templates")
_SECTIONS: Final = (
    "## Model overview",
    "### Model optimizations",
    "## Quick start",
    "## Deployment",
    "### Red Hat AI Inference Server",
    "### Red Hat Enterprise Linux AI",
    "### Red Hat OpenShift AI",
    "## Creation",
    "## Evaluation",
    "### Accuracy",
    "## License",
)


class Score(Frozen):
    """One row of the accuracy table. For `lower_is_better` recovery is baseline / candidate, as for perplexity.

    `lower` and `upper` bound the difference candidate minus baseline. `not_applicable` is the card's N/A: a baseline
    so low that a ratio says nothing.
    """

    category: str
    title: str
    data_set: str
    baseline: float
    candidate: float
    metric: str = "accuracy"
    lower_is_better: bool = False
    lower: float | None = None
    upper: float | None = None
    not_applicable: bool = False

    @property
    def recovery(self) -> float | None:
        """Percent; None where it says nothing."""
        over, under = (self.baseline, self.candidate) if self.lower_is_better else (self.candidate, self.baseline)
        return None if self.not_applicable or not under else 100 * over / under


class CardFacts(Frozen):
    """Everything that the card says; sizes in bytes. `reference` holds the digest: `oci:DIR@sha256:...` or a registry's."""

    name: str
    base_model: str
    base_revision: str
    license: str
    license_link: str = ""
    architecture: str
    languages: tuple[str, ...] = ("en",)
    scheme: str = "FP8_DYNAMIC"
    ignore: tuple[str, ...] = ("lm_head", "re:.*embed_tokens.*")
    reference: str
    tag: str = "latest"
    digest: Digest
    size_before: int
    size_after: int
    versions: dict[str, str]
    tensor_parallel_size: int = 1
    max_model_len: int = 2048
    engine: str
    suite: str
    decision: Literal["pass", "refuse", "inconclusive"]
    reasons: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    commands: tuple[str, ...] = ()


def smoke_scores(measures: Mapping[str, float]) -> tuple[Score, ...]:
    """The rows that a smoke suite's verdict gives: perplexity of both over the shipped text."""
    if not {"perplexity_baseline", "perplexity_candidate"} <= measures.keys():
        return ()
    return (
        Score(
            category="Smoke",
            title="Perplexity, shipped text",
            data_set="carwright/smoke",
            baseline=measures["perplexity_baseline"],
            candidate=measures["perplexity_candidate"],
            metric="perplexity",
            lower_is_better=True,
        ),
    )


def render(facts: CardFacts) -> str:
    """The whole card; raises BadInput when what came out is no valid card."""
    environment = Environment(  # noqa: S701 - the output is Markdown, and names are checked by the contract
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    content = environment.get_template("card.md.j2").render(_words(facts))
    card = f"---\n{_metadata(facts).to_yaml()}\n---\n\n{content}"
    check(card)
    return card


def check(content: str) -> ModelCard:
    """Parse a card with huggingface_hub's own classes; raises BadInput when it lacks what a card of ours has."""
    card = ModelCard(content)
    missing = [name for name in ("base_model", "license", "tags", "pipeline_tag") if not card.data.get(name)]
    missing += [section for section in _SECTIONS if section not in card.text]
    if missing:
        raise BadInput(f"the model card lacks {', '.join(missing)}")
    return card


def _metadata(facts: CardFacts) -> ModelCardData:
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.data_set,
            dataset_name=score.title,
            metric_type=score.metric,
            metric_value=round(score.candidate, 4),
        )
        for score in facts.scores
    ]
    return ModelCardData(
        language=list(facts.languages),
        license=facts.license,
        license_link=facts.license_link or None,
        base_model=facts.base_model,
        base_model_relation="quantized",
        library_name="vllm",
        pipeline_tag="text-generation",
        tags=["fp8", "vllm", "compressed-tensors", "llm-compressor", "carwright"],
        model_name=facts.name,
        eval_results=results or None,
        ignore_metadata_errors=False,
    )


def _words(facts: CardFacts) -> dict[str, Any]:
    """What the template needs beside the facts themselves."""
    local = facts.reference.startswith("oci:")
    place = facts.reference.partition("@")[0]
    short = facts.name.rpartition("/")[2].lower()
    repository = f"registry.example.com/models/{short}" if local else place
    parent, _, last = repository.rpartition("/")
    return {
        **facts.model_dump(mode="json"),
        "ignore": json.dumps(list(facts.ignore)),
        "ignored": ", ".join(f"`{name}`" for name in facts.ignore),
        "size_before": amount(facts.size_before, "B"),
        "size_after": amount(facts.size_after, "B"),
        "saved": 100 * (1 - facts.size_after / facts.size_before) if facts.size_before else 0.0,
        "base_name": facts.base_model.rpartition("/")[2],
        "short_name": short,
        "model_path": "/mnt/models",
        "local": local,
        "layout": place,
        "repository": repository,
        "pinned": f"{repository}@{facts.digest}",
        "raw_repository": f"{parent}/{last}-raw",
        "raw_name": f"{last}-raw",
        "versions_text": ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
        "rows": [_row(score) for score in facts.scores],
    }


def _row(score: Score) -> dict[str, str]:
    recovery = score.recovery
    known = score.lower is not None and score.upper is not None
    interval = f" ({score.lower:+.2f} to {score.upper:+.2f})" if known else ""
    return {
        "category": score.category,
        "title": score.title,
        "baseline": f"{score.baseline:.2f}",
        "candidate": f"{score.candidate:.2f}",
        "recovery": "N/A" if recovery is None else f"{recovery:.1f}%",
        "interval": f"{score.candidate - score.baseline:+.2f}{interval}",
    }
