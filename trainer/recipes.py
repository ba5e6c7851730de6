"""Which network for how much text: what `--auto` chooses.

ml5's script comes with advice by the size of the text, 256 units for 2 MB up to 2048 for 25 MB and more. The sizes
here follow it where it was tried; README.md has the trials. A recipe names flags of train.py; what was typed wins.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """For texts of less than `below` characters."""

    below: float
    rnn_size: int
    num_layers: int
    batch_size: int
    seq_length: int
    num_epochs: int
    learning_rate: float
    schedule: str
    output_keep_prob: float
    val_fraction: float

    @property
    def size(self) -> str:
        """The texts it is for, in words."""
        return (
            f"{RECIPES[-2].below:,} characters and more"
            if self.below == math.inf
            else f"less than {self.below:,} characters"
        )

    def flags(self) -> dict[str, Any]:
        """The flags it sets, by name."""
        return {name: value for name, value in asdict(self).items() if name != "below"}


# fmt: off
RECIPES = (
    #      below     units layers batch  seq epochs   rate  schedule  keep  validation
    Recipe(500_000,    128,    2,    32,  64,   20,  0.004, "cosine", 0.90, 0.05),
    Recipe(4_000_000,  256,    2,    32,  64,    7,  0.003, "cosine", 1.00, 0.05),
    Recipe(10_000_000, 512,    2,    64, 128,    7,  0.002, "cosine", 0.75, 0.05),
    Recipe(20_000_000, 1024,   2,   128, 128,    7,  0.001, "cosine", 0.75, 0.05),
    Recipe(math.inf,   2048,   2,   128, 256,    7,  0.001, "cosine", 0.75, 0.05),
)
# fmt: on

# Between checkpoints, in batches: an epoch, within these bounds.
SAVE_EVERY = (100, 1000)


def recipe_for(characters: int) -> Recipe:
    return next(recipe for recipe in RECIPES if characters < recipe.below)


def save_every(batches_an_epoch: int) -> int:
    least, most = SAVE_EVERY
    return max(least, min(most, batches_an_epoch))
