"""A small local server that speaks the part of the Hugging Face hub's HTTP API that `huggingface_hub` uses.

Loopback only. It serves repositories from a folder (`Repositories`) with commits, branches, tags, gates and redirects to a
"CDN" on a port of its own, so that the real client can be exercised and the demo model offered without the network.
"""

from infra.hub.faults import Fault, Faults
from infra.hub.repositories import Repositories
from infra.hub.server import Hub
from infra.hub.state import AnsweredRequest

__all__ = ["AnsweredRequest", "Fault", "Faults", "Hub", "Repositories"]
