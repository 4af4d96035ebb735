"""The model card: README.md in the structure of the reference card, with Hugging Face's metadata in front.

It contains scores, so it is not part of the image but attached to its digest as a referrer.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from containers.contract import Frozen
from containers.digest import Digest
from containers.errors import BadInput
from containers.events import amount
from containers.foreign_values import code, markdown, visible_line
from containers.verdict import Decision, Score, Serving, SpeedComparison

_TEMPLATES: Final = Path(__file__).with_name("templates")
_LABEL: Final = (
    50  # characters of a name in a cluster, of letters, digits and hyphens: KServe adds more, and 63 are the limit
)
_ADDRESS: Final = re.compile(r"https://[A-Za-z0-9.:-]+(/[A-Za-z0-9._~%/@+-]*)?")
_PLAIN: Final = re.compile(r"[A-Za-z0-9._/:@-]+")  # a scalar of YAML that needs no quotes
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


def _link(address: str) -> str:
    """A link that shows where it leads; text for what is no plain address of the web."""
    return f"[{address}]({address})" if _ADDRESS.fullmatch(address) else markdown(address)


def _line(text: str) -> str:
    """A line of a code block, which it cannot end."""
    return visible_line(text).replace("```", "'''")


def _yaml(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _string(text)


def _string(text: str) -> str:
    """A string of Python, and of YAML."""
    return json.dumps(_line(text), ensure_ascii=False)


# One for each place that a value may stand in: text, code in text, an address, a command, a string, a line of a code block.
_FILTERS: Final = {
    "markdown": markdown,
    "code": code,
    "path": quote,
    "link": _link,
    "shell": lambda text: shlex.quote(_line(text)),
    "string": _string,
    "yaml": _yaml,
    "line": _line,
}


class CardFacts(Frozen):
    """The contents of the card; sizes in bytes. `reference` holds the digest: `oci:DIR@sha256:...` or a registry's.

    `source` is the pinned source of the base model (`hf://org/name@<commit>`). `override` is the reason for a promotion
    against the verdict; `gate_profile` decides when the verdict is inconclusive. The images are the engines' of two targets.
    """

    name: str
    base_model: str
    base_revision: str
    source: str
    license: str
    license_link: str = ""
    architecture: str
    languages: tuple[str, ...] = ()
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
    server: str
    baseline_server: str = ""
    suite: str
    decision: Decision
    reasons: tuple[str, ...] = ()
    override: str = ""
    gate_profile: str = "release"
    scores: tuple[Score, ...] = ()
    commands: tuple[str, ...] = ()
    serving: tuple[Serving, ...] = ()
    speed: SpeedComparison | None = None
    podman_image: str
    kserve_image: str


def render(facts: CardFacts) -> str:
    """The card as Markdown; raises BadInput if the result is not a valid card."""
    environment = Environment(  # noqa: S701 - the output is Markdown: every value has a filter for where it stands
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= _FILTERS
    content = environment.get_template("card.md.j2").render(_template_values(facts))
    card = f"---\n{_metadata(facts).to_yaml()}\n---\n\n{content}"
    check(card)
    return card


def check(content: str) -> ModelCard:
    """Parse a card with huggingface_hub's own classes; raises BadInput if a required part is missing."""
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
        if score.data_set
    ]
    return ModelCardData(
        language=list(facts.languages) or None,
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


def _template_values(facts: CardFacts) -> dict[str, Any]:
    """Values for the template that are computed from the facts."""
    local = facts.reference.startswith("oci:")
    place = facts.reference.partition("@")[0]
    short = facts.name.rpartition("/")[2].lower()
    repository = f"registry.example.com/models/{short}" if local else place
    return {
        **facts.model_dump(mode="json"),
        "ignore": json.dumps([_line(name) for name in facts.ignore]),
        "ignored": ", ".join(code(name) for name in facts.ignore),
        "size_before": amount(facts.size_before, "B"),
        "size_after": amount(facts.size_after, "B"),
        "saved": 100 * (1 - facts.size_after / facts.size_before) if facts.size_before else 0.0,
        "base_name": facts.base_model.rpartition("/")[2],
        "short_name": short,
        "resource_name": re.sub(r"[^a-z0-9]+", "-", short)[:_LABEL].strip("-"),
        "model_path": "/mnt/models",
        "local": local,
        "from_hub": facts.source.startswith("hf://"),
        "undecided": facts.decision == "inconclusive" and not facts.override,
        "layout": place,
        "destination": place,
        "ship_source": facts.source.partition("#")[0],
        "folder": facts.source.partition("#")[0].removeprefix("file://"),
        "repository": repository,
        "pinned": f"{repository}@{facts.digest}",
        "last": repository.rpartition("/")[2],
        "versions_text": ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items())),
        "speed_rows": [row.cells() for row in facts.speed.rows if row.shown] if facts.speed else [],
        "rows": [_row(score) for score in facts.scores],
    }


def _row(score: Score) -> dict[str, str]:
    recovery = score.recovery
    bounds = score.recovery_bounds
    known = score.lower is not None and score.upper is not None
    interval = f" ({score.lower:+.2f} to {score.upper:+.2f})" if known else ""
    spread = f" ({bounds[0]:.1f} to {bounds[1]:.1f})" if bounds else ""
    return {
        "category": score.category,
        "title": score.title,
        "baseline": f"{score.baseline:.2f}",
        "candidate": f"{score.candidate:.2f}",
        "recovery": "N/A" if recovery is None else f"{recovery:.1f}%{spread}",
        "interval": f"{score.difference:+.2f}{interval}",
    }
