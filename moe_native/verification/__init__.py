"""Two computations of the same calls, compared: the cases, the measures, and the runs of ``moe-native verify``."""

from moe_native.verification.measures import Measure as Measure
from moe_native.verification.measures import compare as compare
