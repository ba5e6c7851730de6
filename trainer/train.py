"""Train a character LSTM on a text and keep it where ml5.js can load it.

    python -m trainer.train --data_dir=./data

One story, top to bottom: settings → text → network → resume → loop → log → checkpoint → export.
The flags are those of ml5's training script; `--help` lists them.
"""

import argparse
import faulthandler
import json
import math
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from trainer import TrainerError, checkpoint, data, export
from trainer.files import write_whole

SECONDS_BETWEEN_LINES = 0.5
MOST_SHARDS = 8


@dataclass(frozen=True)
class Settings:
    """The flags, under their own names. `print_every` None: whenever half a second has passed."""

    data_dir: Path | None
    data_path: Path
    save_model: Path
    save_checkpoints: Path
    log_dir: Path
    rnn_size: int
    num_layers: int
    model: str
    batch_size: int
    seq_length: int
    num_epochs: int
    steps: int | None
    print_every: int | None
    save_every: int
    grad_clip: float
    learning_rate: float
    decay_rate: float
    output_keep_prob: float
    input_keep_prob: float
    total_time: int
    init_from: Path | None
    resume: str
    seed: int

    def identity(self, text: data.Text) -> dict[str, Any]:
        """What makes this training another than the next; a checkpoint fits if all of it is the same.

        How long to train, and where to write what, can change from one start to the next.
        """
        names = (
            "model rnn_size num_layers batch_size seq_length grad_clip learning_rate decay_rate"
            " output_keep_prob input_keep_prob seed"
        )
        identity = {name: getattr(self, name) for name in names.split()}
        return {**identity, "init_from": self.init_from and str(self.init_from), "text": text.digest}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 trained, 2 the user can put it right, 1 anything else, 143 or 130 stopped and saved."""
    settings = parse(arguments)
    try:
        return train(settings)
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def train(settings: Settings) -> int:
    started = time.monotonic()
    stop = StopRequest()

    # Text. Before TensorFlow, so that a wrong path is answered at once.
    text = data.read_text(settings.data_dir or settings.data_path)
    identity = settings.identity(text)
    found, remarks = checkpoint.find(settings.save_checkpoints, identity) if settings.resume == "auto" else (None, [])
    first = found or (checkpoint.newest(settings.init_from) if settings.init_from else None)
    if first and not found:
        check_shape(first, settings)
    characters = first.characters if first else data.vocabulary(text.text)
    batches = data.make_batches(data.encode(text.text, characters), settings.batch_size, settings.seq_length)
    total = settings.steps or settings.num_epochs * len(batches)

    # Network.
    tf = import_tensorflow()
    gpus = use_devices(tf, batches.batch_size)
    device = ", ".join(gpus) if gpus else f"{cores()} CPU cores, no GPU"
    say(f"TensorFlow {tf.__version__}, Python {platform.python_version()}, on {device}")
    if not gpus and Path("/dev/nvidia0").exists():
        why = "driver, libraries or age of the GPU" if tf.test.is_built_with_cuda() else "it was built without CUDA"
        say(f"warning: there is an NVIDIA GPU, but this TensorFlow cannot use it ({why})")
    from trainer import model as network

    hyper = network.Hyperparameters(
        rnn_size=settings.rnn_size,
        num_layers=settings.num_layers,
        batch_size=batches.batch_size,
        grad_clip=settings.grad_clip,
        input_keep_prob=settings.input_keep_prob,
        output_keep_prob=settings.output_keep_prob,
        seed=settings.seed,
    )
    weights = network.new_weights(len(characters), settings.rnn_size, settings.num_layers, settings.seed)
    if first and not found:
        weights = {name: first.arrays[f"weights/{name}"] for name in weights}
    model = network.Model(weights, hyper, shards=1 if gpus else shards_for(batches.batch_size), jit=can_compile(tf))

    file = str(text.files[0]) if len(text.files) == 1 else f"{len(text.files)} files"
    say(
        f"text: {file}, {len(text.text):,} characters, {len(characters)} different;"
        f" an epoch is {len(batches)} batches of {batches.batch_size} x {settings.seq_length}"
    )
    if batches.batch_size < settings.batch_size:
        say(f"the text is too short for --batch_size {settings.batch_size}: using {batches.batch_size}")
    say(f"model: {settings.num_layers} LSTM layers of {settings.rnn_size}, {model.parameters:,} parameters")
    if settings.num_layers != export.ML5_LAYERS:
        say(f"warning: ml5.js is right for 2 layers only, not for {settings.num_layers}; trainer.generate reads any")

    # Resume.
    for remark in remarks:
        say(remark)
    step = 0
    if found:
        step = found.step
        model.restore(found.arrays)
        say(f"resuming at step {step} from {checkpoint.path_of(settings.save_checkpoints, step, identity)}")
    elif first:
        say(f"starting from the weights of {settings.init_from}, which had learned for {first.step} steps")

    def rate() -> float:
        """Falls once an epoch."""
        epoch = max(step - 1, 0) // len(batches)
        return settings.learning_rate * float(settings.decay_rate**epoch)

    def save() -> None:
        saved = checkpoint.save(
            settings.save_checkpoints, checkpoint.Checkpoint(step, identity, characters, model.arrays())
        )
        export.write_model(
            settings.save_model,
            model.weights(),
            characters,
            learning_rate=rate(),
            largest_logits=model.largest_logits(),
        )
        say(f"Model saved to {settings.save_model}, checkpoint to {saved}")

    # Loop. Steps count from 1; epochs, as in ml5's script, from 0.
    log = Log(settings.log_dir / "metrics.jsonl", step, total, settings.print_every)
    began, saved, warm = step, step, time.monotonic()
    while step < total and not stop.requested:
        epoch, batch = divmod(step, len(batches))
        if batch == 0:
            model.reset_state()
        step += 1
        loss = model.train_step(batches.inputs[batch], batches.targets[batch], rate=rate(), step=step)
        if step == began + 1:
            float(loss)  # waits for the compiler
            warm = time.monotonic()
        due_to_save = step % settings.save_every == 0
        if due_to_save or log.due(step):
            log.write(step, epoch, finite(float(loss), step), rate())
        if due_to_save:
            save()
            saved = step

    # The end, whether it came by itself or was asked for.
    if step > saved:
        log.write(step, epoch, finite(float(loss), step), rate())
        save()
    if stop.requested:
        say(f"stopped by {stop.requested.name} at step {step} of {total}; the same command goes on from there")
        return 128 + stop.requested
    if step == began:
        save()  # the model may have been moved away since
        say(f"nothing to do: step {step} was reached before; --num_epochs or --steps trains on, --resume never anew")
    elif step > began + 1:
        speed = (step - began - 1) * batches.inputs[0].size / (time.monotonic() - warm)
        say(f"done: {step} steps, {speed:,.0f} characters/s, train_loss = {float(loss):.3f}")
    if settings.total_time:
        say(f"total time = {time.monotonic() - started:.1f} s")
    return 0


class StopRequest:
    """SIGTERM or SIGINT, remembered until the step is done. A second one ends the program at once."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        for again in (signal.SIGTERM, signal.SIGINT):
            signal.signal(again, signal.SIG_DFL)


class Log:
    """Progress: a line on the terminal for people, a line of JSON in the log folder for programs."""

    def __init__(self, path: Path, step: int, total: int, every: int | None) -> None:
        """A training that resumes at `step` takes back what was logged after it; one that starts, everything."""
        self._path, self._total, self._every = path, total, every
        self._started = self._last_time = time.monotonic()
        self._last_step = step
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = list(_lines_until(path, step)) if step and path.exists() else []
        write_whole(path, lambda file: file.writelines(kept))

    def due(self, step: int) -> bool:
        if self._every:
            return step % self._every == 0
        return self._last_step == 0 or time.monotonic() - self._last_time >= SECONDS_BETWEEN_LINES

    def write(self, step: int, epoch: int, loss: float, rate: float) -> None:
        """May be called again for the same step, which changes nothing."""
        if step == self._last_step:
            return
        now = time.monotonic()
        each = (now - self._last_time) / (step - self._last_step)
        self._last_time, self._last_step = now, step
        say(f"{step}/{self._total} (epoch {epoch}), train_loss = {loss:.3f}, time/batch = {each:.3f}")
        record = {
            "step": step,
            "total": self._total,
            "epoch": epoch,
            "train_loss": loss,
            "learning_rate": rate,
            "seconds_per_batch": each,
            "seconds": now - self._started,
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            try:
                if json.loads(line)["step"] <= step:
                    yield line
            except (ValueError, KeyError, TypeError):
                continue  # half a line: the one written when the program was killed


def say(line: str) -> None:
    print(line, flush=True)


def finite(loss: float, step: int) -> float:
    """Stops a training that has run away, before it is saved over a good one."""
    if not math.isfinite(loss):
        raise TrainerError(f"train_loss is {loss} at step {step}, not saved: try a smaller --learning_rate")
    return loss


def check_shape(first: checkpoint.Checkpoint, settings: Settings) -> None:
    for name in ("model", "rnn_size", "num_layers"):
        theirs, ours = first.settings[name], getattr(settings, name)
        if theirs != ours:
            raise TrainerError(f"{settings.init_from} has --{name} {theirs}, asked for is {ours}: they must be equal")


def import_tensorflow() -> Any:
    try:
        with quiet_import():
            import tensorflow
    except ModuleNotFoundError as error:
        raise TrainerError(f"TensorFlow is not installed ({error}): `pip install tensorflow`") from error
    return tensorflow


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep back what TensorFlow's libraries write to the terminal as they are loaded, unless the import fails.

    The environment variable alone does not silence what they say before they have read it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        faulthandler.enable(stderr)  # a processor TensorFlow was not built for ends the import by a signal
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            faulthandler.disable()
            os.dup2(stderr, 2)
            os.close(stderr)


def use_devices(tf: Any, batch_size: int) -> list[str]:
    """Set TensorFlow up for the GPUs, or else the cores, of this machine. Gives the GPUs' names."""
    tf.config.threading.set_inter_op_parallelism_threads(shards_for(batch_size) + 1)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)  # leave memory to others on the machine
    return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]


def can_compile(tf: Any) -> bool:
    """Whether XLA works here; on a GPU it needs parts of CUDA that not every installation has."""
    try:
        tf.function(lambda: tf.exp(tf.zeros([2])), jit_compile=True)()
    except tf.errors.OpError as error:
        say(f"warning: training without XLA, slower: {str(error).splitlines()[0]}")
        return False
    return True


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shards_for(batch_size: int) -> int:
    """Into how many equal parts to cut a batch so that every core has its own."""
    return max(shards for shards in range(1, min(cores(), MOST_SHARDS) + 1) if batch_size % shards == 0)


def parse(arguments: Sequence[str] | None) -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.train",
        description="Train a character LSTM on a text; the model can be loaded with ml5.js.",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--data_dir", type=Path, help="folder with input.txt, or else with .txt files")
    text.add_argument("--data_path", type=Path, default=Path("data/input.txt"), help="text file to learn from")
    add("--save_model", type=Path, default=Path("models"), help="folder for the model in ml5.js's format")
    add("--save_checkpoints", type=Path, default=Path("checkpoints"), help="folder for checkpoints")
    add("--log_dir", type=Path, default=Path("logs"), help="folder for metrics.jsonl")
    add("--rnn_size", type=_positive, default=128, help="size of the hidden state")
    add("--num_layers", type=_positive, default=2, help="LSTM layers; ml5.js needs 2")
    add("--model", type=_lstm, default="lstm", help="only lstm")
    add("--batch_size", type=_positive, default=50, help="sequences in a batch")
    add("--seq_length", type=_positive, default=50, help="characters in a sequence")
    add("--num_epochs", type=_positive, default=50, help="times to read the text")
    add("--steps", type=_positive, help="end after this many batches, instead of --num_epochs")
    add("--print_every", type=_positive, help="batches between progress lines (default: 1, but two lines a second)")
    add("--save_every", type=_positive, default=1000, help="batches between checkpoints")
    add("--grad_clip", type=_above_zero, default=5.0, help="largest norm of the gradients")
    add("--learning_rate", type=_above_zero, default=0.002, help="Adam's learning rate in the first epoch")
    add("--decay_rate", type=_above_zero, default=0.97, help="factor on the learning rate after each epoch")
    add("--output_keep_prob", type=_share, default=1.0, help="share of outputs kept (1 - dropout)")
    add("--input_keep_prob", type=_share, default=1.0, help="share of inputs kept (1 - dropout)")
    add("--total_time", type=int, default=0, help="1: print the total time at the end")
    add("--init_from", type=Path, help="checkpoint (or a folder of them) whose weights to start from")
    add("--resume", choices=("auto", "never"), default="auto", help="go on from a checkpoint with the same settings")
    add("--seed", type=int, default=1, help="for the first weights and dropout")
    return Settings(**vars(parser.parse_args(arguments)))


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _lstm(text: str) -> str:
    if text != "lstm":
        raise argparse.ArgumentTypeError(f"{text!r}: only lstm, the one kind of model ml5.js can load")
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


_positive.__name__, _above_zero.__name__, _share.__name__ = "whole number", "number", "number"  # for argparse's errors


if __name__ == "__main__":
    sys.exit(main())
