"""space: parameters, boxes, the map to the unit cube, constraints and designs. No torch here."""

from alearn.space.constraints import Constraint, Linear, Python
from alearn.space.parameters import Categorical, Continuous, Integer, Ordinal, Parameter
from alearn.space.pool import Pool
from alearn.space.relations import Condition, Correlation
from alearn.space.space import Space

__all__ = [
    "Categorical",
    "Condition",
    "Constraint",
    "Continuous",
    "Correlation",
    "Integer",
    "Linear",
    "Ordinal",
    "Parameter",
    "Pool",
    "Python",
    "Space",
]
