"""The namespace of Carwright's own labels and annotations: the domain carwright.dev, as each format writes one.

Annotations are part of a modelcar's manifest, and so of its digest: their names cannot change.
"""

from __future__ import annotations

from typing import Final

LABEL: Final = "dev.carwright."  # in front of annotations of OCI manifests and labels of images and containers
KUBERNETES_LABEL: Final = "carwright.dev/"  # in front of labels of Kubernetes objects
URI: Final = "https://carwright.dev/"  # in front of types in statements, which are URIs

FLOW_RUNS: Final = f"{LABEL}flow-runs"  # on containers of flow runs that workers start; its value is the project

# The files of a model layer: canonical JSON of [[path, size, sha256], ...]. What `verify` compares and what ties the
# modelcar to the raw artifact.
FILES: Final = f"{LABEL}files"
