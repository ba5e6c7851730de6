"""The learning rate of each step.

decay     falls by a factor each epoch, as in ml5's script
cosine    rises in a straight line over the first steps, then falls along a half cosine to next to nothing
"""

import math
from dataclasses import dataclass

SCHEDULES = ("decay", "cosine")
WARM_UP = 0.02  # of all steps
MOST_WARM_UP = 200  # steps
FLOOR = 0.01  # of the highest rate, at the last step


@dataclass(frozen=True)
class Schedule:
    """`peak`: the highest rate. `epoch`: steps in one. `total`: steps of the whole training."""

    kind: str
    peak: float
    decay_rate: float
    epoch: int
    total: int

    def rate(self, step: int) -> float:
        """The learning rate of `step`; the first step is 1."""
        if self.kind == "decay":
            return self.peak * float(self.decay_rate ** ((step - 1) // self.epoch))
        warm_up = min(MOST_WARM_UP, int(self.total * WARM_UP))
        if step <= warm_up:
            return self.peak * step / warm_up
        done = (step - warm_up) / max(1, self.total - warm_up)
        return self.peak * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
