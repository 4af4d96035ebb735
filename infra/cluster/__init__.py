"""One namespace of a Kubernetes cluster. The only place that imports the cluster's client."""

from infra.cluster.client import MANAGER, Cluster, is_going
from infra.cluster.refusals import Conflict, NotAllowed, StillThere, refusal

__all__ = ["MANAGER", "Cluster", "Conflict", "NotAllowed", "StillThere", "is_going", "refusal"]
