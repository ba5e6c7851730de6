"""The flags: those of ml5's training script under their names and defaults, and some more. `--help` lists them."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import data
from trainer.export import CELLS
from trainer.flags import Parser
from trainer.schedule import SCHEDULES
from trainer.tokens import LEVELS

SIZES = ("rnn_size", "num_layers", "batch_size", "seq_length")


@dataclass(frozen=True)
class Settings:
    """The flags, under their own names; `typed` are the names of those that were given.

    `auto` None: if none of `SIZES` was typed. `print_every` None: few lines. `save_every` None: auto decides.
    """

    typed: frozenset[str] = frozenset()
    data_dir: Path | None = None
    data_path: Path = Path("data/input.txt")
    level: str = "char"
    reverse: bool = False
    val_fraction: float = 0.0
    auto: bool | None = None
    model: str = "lstm"
    rnn_size: int = 128
    num_layers: int = 2
    batch_size: int = 50
    seq_length: int = 50
    input_keep_prob: float = 1.0
    output_keep_prob: float = 1.0
    num_epochs: int = 50
    steps: int | None = None
    learning_rate: float = 0.002
    schedule: str = "decay"
    decay_rate: float = 0.97
    grad_clip: float = 5.0
    seed: int = 1
    save_model: Path = Path("models")
    save_checkpoints: Path = Path("checkpoints")
    log_dir: Path = Path("logs")
    save_every: int | None = 1000
    print_every: int | None = None
    total_time: int = 0
    init_from: Path | None = None
    resume: str = "auto"

    @property
    def chooses(self) -> bool:
        """Whether sizes are chosen by the text, as `--auto` asks."""
        return self.auto if self.auto is not None else not self.typed.intersection(SIZES)

    @property
    def resume_folders(self) -> list[Path]:
        """Where a checkpoint to go on from may be: the training's own folder, and the one named by `--resume`."""
        others = [] if self.resume in ("auto", "never") else [Path(self.resume)]
        return [] if self.resume == "never" else [self.save_checkpoints, *others]

    def with_unless_typed(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with `values` for what was not typed. A typed decay rate asks for the schedule `decay`."""
        wanted = {name: value for name, value in values.items() if name not in self.typed}
        if "decay_rate" in self.typed and "schedule" in wanted:
            wanted["schedule"] = "decay"
        return replace(self, **wanted)

    def identity(self, text: data.Text) -> dict[str, Any]:
        """The settings by which trainings differ: a checkpoint fits if all of them are the same.

        How long to train, how often to save and where to write what can change from one start to the next.
        """
        names = (
            "model level reverse rnn_size num_layers batch_size seq_length grad_clip learning_rate schedule decay_rate"
            " output_keep_prob input_keep_prob val_fraction seed"
        )
        identity = {name: getattr(self, name) for name in names.split()}
        return {**identity, "init_from": self.init_from and str(self.init_from), "text": text.digest}


def parse(arguments: Sequence[str] | None) -> Settings:
    """Unknown flags and wrong values end the program with status 2."""
    typed = vars(_parser().parse_args(arguments))
    return Settings(typed=frozenset(typed), **typed)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m trainer.train",
        usage="%(prog)s [--data_dir FOLDER] [OPTION ...]",
        description="Train a character model on a text; ml5.js can load it.",
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("text").add_argument
    add("--data_dir", type=Path, metavar="FOLDER", help="holds input.txt, or else .txt files to learn from")
    add("--data_path", type=Path, metavar="FILE", help="text to learn from")
    add("--level", choices=LEVELS, help="what is read and written one of at a time")
    add("--reverse", action="store_true", help="learn the text backwards, from its end to its beginning")
    add("--val_fraction", type=_fraction, metavar="X", help="share at the text's end to be tried on, not learned from")

    add = parser.add_argument_group(
        "network", "if none of the four sizes is typed, they and more are chosen by the size of the text"
    ).add_argument
    add("--auto", action=argparse.BooleanOptionalAction, help="choose what is not typed; or take ml5's defaults")
    add("--model", type=_cell, metavar="CELL", help=f"{', '.join(CELLS)}; ml5.js has lstm only")
    add("--rnn_size", type=_positive, metavar="N", help="units in a layer")
    add("--num_layers", type=_positive, metavar="N", help="layers; ml5.js can have 1 or 2")
    add("--batch_size", type=_positive, metavar="N", help="sequences in a batch")
    add("--seq_length", type=_positive, metavar="N", help="characters in a sequence")
    add("--input_keep_prob", type=_share, metavar="X", help="share of each layer's inputs kept (1 - dropout)")
    add("--output_keep_prob", type=_share, metavar="X", help="share of each layer's outputs kept (1 - dropout)")

    add = parser.add_argument_group("training").add_argument
    add("--num_epochs", type=_positive, metavar="N", help="times to read the text")
    add("--steps", type=_positive, metavar="N", help="end after this many batches, instead of --num_epochs")
    add("--learning_rate", type=_above_zero, metavar="X", help="Adam's learning rate at its highest")
    add("--schedule", choices=SCHEDULES, help="how the learning rate falls")
    add("--decay_rate", type=_above_zero, metavar="X", help="factor on the learning rate after each epoch")
    add("--grad_clip", type=_above_zero, metavar="X", help="largest norm of the gradients")
    add("--seed", type=int, metavar="N", help="for the first weights and dropout")

    add = parser.add_argument_group("files, and going on").add_argument
    add("--save_model", type=Path, metavar="FOLDER", help="for the model in ml5.js's format")
    add("--save_checkpoints", type=Path, metavar="FOLDER", help="for checkpoints")
    add("--log_dir", type=Path, metavar="FOLDER", help="for metrics.jsonl, TensorBoard's log and the loss curve")
    add("--save_every", type=_positive, metavar="N", help="batches between checkpoints")
    add(
        "--print_every",
        type=_positive,
        metavar="N",
        help="batches between progress lines (default: a sixth of all)",
    )
    add("--total_time", type=int, metavar="1", help="print the total time at the end")
    add("--resume", metavar="auto|never|FOLDER", help="go on from a checkpoint of the same training")
    add("--init_from", type=Path, metavar="PATH", help="checkpoint, or a folder of them, whose weights to start from")
    return parser


class _Help(argparse.HelpFormatter):
    """Adds the defaults, which are those of `Settings`."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = getattr(Settings, action.dest, None)
        return action.help if default in (None, False) else f"{action.help} (default: {default})"


def _cell(text: str) -> str:
    if text not in CELLS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(CELLS)}; ml5.js can load lstm only")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 0.5")
    return number


# For argparse's errors.
_positive.__name__, _above_zero.__name__, _share.__name__, _fraction.__name__ = "whole number", *["number"] * 3
