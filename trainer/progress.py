"""What a training reports: a line on the terminal for people, and all numbers for programs.

A line takes 79 columns at most, so that it does not wrap on the narrowest of usual terminals.

logs/metrics.jsonl            a line of JSON for each number: {"step", "name", "value", "time"}
logs/events.out.tfevents.…    for TensorBoard
"""

import json
import math
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.files import write_whole

WIDTH = 79
# Seconds between numbers that are logged: few at first, as all is new; more later.
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSE_SHARE = 0.5, 5.0, 1 / 60
# Lines are fewer, as a log is read in the morning: so many beside those of checkpoints, and one a minute.
LINES, LONGEST_SILENCE = 6, 60.0


def say(line: str) -> None:
    print(line, flush=True)


def wrapped(line: str) -> str:
    """It as lines of the width of ours, the further ones indented."""
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def bits(nats: float, characters_a_token: float) -> float:
    """A loss in nats a token as bits a character."""
    return nats / math.log(2) / characters_a_token


def duration(seconds: float) -> str:
    """Seconds as text, such as 0:04:59."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole_seconds:02}"


def train_line(step: int, total: int, epoch: int, loss: float, seconds: float, left: str) -> str:
    """It begins as the line of ml5's script does, so that tools that read that log can read ours."""
    return f"{step}/{total} (epoch {epoch}), train_loss = {loss:.3f}, time/batch = {seconds:.3f}, {left} left"


def validation_line(step: int, total: int, loss: float, best: bool) -> str:
    """`best`: no validation before had a lower loss."""
    return f"{step}/{total}, val_loss = {loss:.3f}{', best' if best else ''}"


class Log:
    """Progress of one training, from where it starts or goes on to its end."""

    def __init__(
        self, folder: Path, tf: Any, *, step: int, validated: int, total: int, every: int | None, tokens_a_batch: int,
        characters_a_token: float,
    ) -> None:  # fmt: skip
        """For a training that goes on from `step` and was last validated at step `validated`: what was logged of later
        steps is removed. `step` 0 is a new training, which removes everything.

        `every`: steps between lines; None: `LINES`. `tf`: TensorFlow.
        """
        self._metrics, self._events = Metrics(folder / "metrics.jsonl", step, validated), Events(folder, tf, step)
        self._total, self._every = total, every
        self._tokens_a_batch, self._characters_a_token = tokens_a_batch, characters_a_token
        self._started = self._warm = self._last_time = time.monotonic()
        self._last_step = self._warm_step = self._said_step = step
        self._said, self._line = self._started, ""

    def warmed_up(self, step: int) -> None:
        """Called after the first step, which includes the compiler's work: the time left is estimated from here on."""
        self._warm, self._warm_step = time.monotonic(), step

    @property
    def speed(self) -> float:
        """Mean characters a second since `warmed_up`."""
        return self._characters(self._last_step - self._warm_step) / max(1e-9, time.monotonic() - self._warm)

    def due(self, step: int) -> bool:
        if self._every:
            return step % self._every == 0
        now = time.monotonic()
        pause = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, PAUSE_SHARE * (now - self._started)))
        return step == self._warm_step or now - self._last_time >= pause

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The time spent inside does not count as time of a batch."""
        began = time.monotonic()
        yield
        self._last_time += time.monotonic() - began

    def train(self, step: int, epoch: int, loss: float, rate: float, *, shown: bool) -> None:
        """Log a step, and say it where it is `shown`, or the last line is long ago. `loss`: of the last batch, in nats
        a token. Called again for the same step, it may say it then, and does nothing more."""
        now = time.monotonic()
        if step != self._last_step:
            self._log(step, epoch, loss, rate, now)
        few = step - self._said_step < self._total / LINES and now - self._said < LONGEST_SILENCE
        if self._line and (shown or self._every or not few or step == self._warm_step):
            say(self._line)
            self._said_step, self._said, self._line = step, now, ""

    def _log(self, step: int, epoch: int, loss: float, rate: float, now: float) -> None:
        each = (now - self._last_time) / (step - self._last_step)
        speed = self._characters(1) / max(1e-9, each)
        bpc = bits(loss, self._characters_a_token)
        self._last_time, self._last_step = now, step
        self._line = train_line(step, self._total, epoch, loss, each, self._left(step, now))
        self._write(
            step,
            {
                "train_loss": loss,
                "bpc": bpc,
                "epoch": epoch,
                "learning_rate": rate,
                "seconds_per_batch": each,
                "characters_per_second": speed,
            },
        )

    def validation(self, step: int, loss: float, characters_a_token: float, *, best: bool) -> None:
        """Say and log a validation. `loss`: of the validation text, in nats a token; `best`: the lowest so far."""
        perplexity, bpc = math.exp(min(loss, 700.0)), bits(loss, characters_a_token)
        say(validation_line(step, self._total, loss, best))
        self._write(step, {"val_loss": loss, "val_perplexity": perplexity, "val_bpc": bpc})

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics.write(step, values)
        self._events.write(step, values)

    def _characters(self, steps: int) -> float:
        return steps * self._tokens_a_batch * self._characters_a_token

    def _left(self, step: int, now: float) -> str:
        if step == self._warm_step:
            return "?"
        return duration((self._total - step) * (now - self._warm) / (step - self._warm_step))


class Metrics:
    """metrics.jsonl. Each `write` appends whole lines and closes the file."""

    def __init__(self, path: Path, step: int, validated: int) -> None:
        """Keeps records of steps up to `step`, and of validations up to step `validated`; removes the others."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = list(_lines_until(path, step, validated)) if step and path.exists() else []
        write_whole(path, lambda file: file.writelines(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = round(time.time(), 3)
        records = [{"step": step, "name": name, "value": value, "time": now} for name, value in values.items()]
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))


class Events:
    """TensorBoard's log. Written by TensorFlow alone: its `summary.scalar` would need the package tensorboard."""

    SUFFIX = ".trainer"

    def __init__(self, folder: Path, tf: Any, step: int) -> None:
        """A training that starts removes the log of the one before."""
        self._folder, self._tf, self._writer = folder, tf, None
        for path in [] if step else folder.glob(f"events.out.tfevents.*{self.SUFFIX}"):
            path.unlink(missing_ok=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        tf = self._tf
        writer = self._writer = self._writer or tf.summary.create_file_writer(
            str(self._folder), filename_suffix=self.SUFFIX
        )
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
            data_class="DATA_CLASS_SCALAR",
        )
        with writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=metadata)
        writer.flush()


def _lines_until(path: Path, step: int, validated: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                if record["step"] <= (validated if record["name"].startswith("val_") else step):
                    yield line
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # half a line: the one written when the program was killed
