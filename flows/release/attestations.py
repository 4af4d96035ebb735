"""The statements that a promotion attaches to an image, and that are signed where there is a key: one function.

They are functions of the shipment alone. The same shipment gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers import in_toto
from flows.release import gate_result, ml_bom, provenance

if TYPE_CHECKING:
    from containers.in_toto import Statement
    from flows.release.shipment import Shipment


def of(shipment: Shipment) -> tuple[Statement, ...]:
    """The provenance, the verdict and the bill of materials, each about the digest that ships."""
    predicates = {
        in_toto.PROVENANCE: provenance.predicate(shipment),
        in_toto.TEST_RESULT: gate_result.predicate(shipment),
        in_toto.BOM: ml_bom.document(shipment),
    }
    return tuple(
        in_toto.write(shipment.place, shipment.image.digest, kind, predicate) for kind, predicate in predicates.items()
    )
