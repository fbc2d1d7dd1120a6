"""Is this map any good? Numbers ``[N]``, one per example, for what a method found: ``metric(explained, model, x, ...)``."""

from ._agreement import agreement
from ._compare import compare
from ._curves import Curve, curve, deletion, insertion
from ._infidelity import infidelity
from ._randomisation import randomisation
from ._regions import pointing_game, relevance_mass
from ._sensitivity import sensitivity_max
from ._shares import comprehensiveness, sufficiency

__all__ = [
    "Curve",
    "agreement",
    "compare",
    "comprehensiveness",
    "curve",
    "deletion",
    "infidelity",
    "insertion",
    "pointing_game",
    "randomisation",
    "relevance_mass",
    "sensitivity_max",
    "sufficiency",
]
