"""Train a character model on a text and keep it where ml5.js can load it.

    python -m trainer.train --data_dir=./data

One story, top to bottom: settings → text → network → resume → loop → log → checkpoint → export.
The flags are those of ml5's training script, and some more; `--help` lists them.
"""

import math
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from trainer import TrainerError, checkpoint, curve, data, devices, generate, log_folder, ml5, recipes
from trainer.checkpoint import Checkpoint
from trainer.keeper import Keeper
from trainer.progress import Log, say, wrapped
from trainer.schedule import Schedule
from trainer.settings import Settings, parse

SECONDS_BETWEEN_CHECKPOINTS = 600  # at most, however many steps --save_every asks for
SHAPE = ("model", "level", "reverse", "rnn_size", "num_layers")  # what weights to start from must have in common


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 trained; 2 for what the user can mend; 1 for any other failure; 143 or 130 stopped and saved."""
    try:
        return train(parse(arguments))
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk; a folder that can't be written to
        print(f"error: {error}; what was saved is whole, and the same command goes on from there", file=sys.stderr)
        return 1


def train(settings: Settings) -> int:
    started = time.monotonic()
    stop = StopRequest()
    worker = devices.worker()
    if worker:
        sys.stdout = open(os.devnull, "w")  # the first says what all do

    # Text. Before TensorFlow, so that a wrong path is answered at once.
    text = data.read_text(settings.data_dir or settings.data_path)
    initial = checkpoint.newest(settings.init_from) if settings.init_from else None
    settings = choose(settings, text, initial)
    identity = settings.identity(text)
    found, remarks = find_checkpoint(settings, identity)
    first = found or initial
    vocabulary = first.vocabulary if first else data.vocabulary(text.text, settings.level)
    material = data.prepare(
        text.text, vocabulary, batch_size=settings.batch_size, seq_length=settings.seq_length,
        val_fraction=settings.val_fraction, reverse=settings.reverse,
    )  # fmt: skip
    batches, validation = material.batches, material.validation
    total = settings.steps or settings.num_epochs * len(batches)
    save_every = settings.save_every or recipes.save_every(len(batches))
    schedule = Schedule(settings.schedule, settings.learning_rate, settings.decay_rate, len(batches), total)
    describe_text(settings, text, vocabulary, material)

    # Network.
    tf = devices.import_tensorflow()
    setup = devices.use_devices(tf, batches.batch_size, settings.rnn_size, settings.model)
    from trainer import model as network

    hyper = network.Hyperparameters(
        cell=settings.model,
        rnn_size=settings.rnn_size,
        num_layers=settings.num_layers,
        batch_size=batches.batch_size,
        grad_clip=settings.grad_clip,
        input_keep_prob=settings.input_keep_prob,
        output_keep_prob=settings.output_keep_prob,
        seed=settings.seed,
    )
    weights = first.weights if first else network.new_weights(len(vocabulary), hyper, batches.inputs)
    model = network.Model(weights, hyper, shards=setup.shards, jit=setup.jit, way=setup.way, strategy=setup.strategy)
    stop.listen()
    kind = f"{settings.model.upper()} layer{'s' if settings.num_layers > 1 else ''}"
    layers = f"{settings.num_layers} {kind} of {settings.rnn_size}"
    about = f"model: {layers}, {model.parameters:,} parameters; {total:,} steps, a checkpoint every {save_every:,}"
    say(wrapped(about))
    why_not_ml5 = ml5.why_not(settings.model, settings.num_layers, settings.level, len(vocabulary))
    if why_not_ml5:
        say(f"warning: ml5.js can't use this model: {why_not_ml5}; trainer.generate can")

    # Resume. The position in the text and the random numbers follow from the step.
    if worker:  # what it writes is of no use to anybody
        aside = tempfile.TemporaryDirectory()
        settings = replace(settings, log_dir=Path(aside.name), save_checkpoints=Path(aside.name))
    step = 0
    seed = data.first_words(text.text, reverse=settings.reverse)
    keeper = Keeper(settings, identity, vocabulary, schedule, material.characters_a_validation_token, seed)
    if found:
        step = found.step
        model.restore(found.arrays)
        remarks += keeper.go_on(found)
        if found.total != total and settings.schedule == "cosine" and step < total:
            remarks.append(
                f"planned for {found.total:,} steps then, {total:,} now: the learning rate follows the new plan"
            )
    elif initial:
        remarks.append(f"starting from the weights of {settings.init_from}, which had learned for {initial.step} steps")
    elif remarks:
        remarks.append("starting anew")
    if len(set(model.each(step))) > 1:
        raise TrainerError("the nodes see different checkpoints: the same command, some minutes later, goes on")
    for remark in remarks:
        say(remark)
    log_folder.take_over(settings.log_dir, identity)
    log_folder.forget_samples(settings.log_dir, after=step)
    log = Log(
        settings.log_dir, tf, step=step, validated=keeper.validated, total=total, every=settings.print_every,
        tokens_a_batch=batches.inputs[0].size, characters_a_token=material.characters_a_token,
    )  # fmt: skip

    def due_to_save() -> bool:
        return step % save_every == 0 or step == total

    def save() -> None:
        with log.pause():
            arrays = model.arrays()
            if worker:
                return
            if validation and due_to_save() and keeper.validated < step:
                keeper.secure(step, arrays)  # on a large text the next line takes minutes
                loss = model.evaluate(validation.inputs, validation.targets)
                best = keeper.validation(step, loss)
                log.validation(step, loss, material.characters_a_validation_token, best=best)
            say(keeper.save(step, arrays))
            if due_to_save():
                weights = checkpoint.weights_of(arrays)
                text = generate.sample(weights, vocabulary, reverse=settings.reverse)
                log_folder.write_sample(settings.log_dir, step, text)
                say(generate.shown(text))

    if found and due_to_save() and keeper.validated < step:
        save()  # it was killed before it was tried on the validation text

    # Loop. Steps count from 1; epochs, as in ml5's script, from 0.
    began = saved = step
    saved_at = time.monotonic()
    while step < total:
        each = model.each(bool(stop.requested), time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS)
        stopping, late = map(any, zip(*each, strict=True))
        if stopping:
            stop.requested = stop.requested or signal.SIGTERM
            break
        epoch, batch = divmod(step, len(batches))
        if batch == 0:
            model.reset_state()
        step += 1
        loss = model.train_step(batches.inputs[batch], batches.targets[batch], rate=schedule.rate(step), step=step)
        if step == began + 1:
            float(loss)  # waits for the compiler
            log.warmed_up(step)
        save_now = due_to_save() or late
        if save_now or log.due(step):
            log.train(step, epoch, finite(float(loss), step), schedule.rate(step), shown=save_now)
        if save_now:
            save()
            saved, saved_at = step, time.monotonic()
        keeper.tick()

    # The end, whether it came by itself or was asked for.
    if step > saved:
        log.train(step, epoch, finite(float(loss), step), schedule.rate(step), shown=True)
    if step > saved or total <= step == began:
        save()  # or again: the model may have been moved away since
    keeper.close()
    model.each(step)  # none leaves before the first has saved
    if stop.requested:
        goes_on = how_to_go_on(settings.save_checkpoints, sys.argv[1:])
        say(f"stopped by {stop.requested.name} at step {step} of {total}; {goes_on}")
        return 128 + stop.requested
    if step == began:
        say(f"nothing to do: step {step} was reached before; --num_epochs or --steps trains on, --resume never anew")
    else:
        say(f"done: {step - began:,} steps, {log.speed:,.0f} characters/s, train_loss = {float(loss):.3f}")
        if keeper.best:
            say(f"best: step {keeper.best.step}, val_loss = {keeper.best.val_loss:.3f}")
    title = f"{layers}, {len(text.text):,} characters{', backwards' if settings.reverse else ''}"
    unit = "character" if settings.level == "char" else "token"
    say(curve.draw(settings.log_dir / "metrics.jsonl", settings.log_dir, title, unit))
    usable = f"ml5.js can't use it ({why_not_ml5})" if why_not_ml5 else "ml5.js can load it"
    say(f"{settings.save_model}: {usable}; `python -m trainer.generate {settings.save_model}` writes with it")
    if settings.total_time:
        say(f"total time = {time.monotonic() - started:.1f} s")
    return 0


class StopRequest:
    """SIGTERM or SIGINT, remembered until the step is done. A second one ends the program at once."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.listen()

    def listen(self) -> None:
        """Again after TensorFlow has met other nodes: it then has taken SIGTERM for itself."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        for again in (signal.SIGTERM, signal.SIGINT):
            signal.signal(again, signal.SIG_DFL)


def how_to_go_on(checkpoints: Path, arguments: Sequence[str]) -> str:
    """How the user goes on from here. The next run of remoterun starts in its own folder, without these checkpoints."""
    outputs, options = os.environ.get("REMOTERUN_OUTPUTS"), os.environ.get("REMOTERUN_OPTIONS")
    if not outputs or checkpoints.is_absolute():
        return "the same command goes on from there"
    mount = ["-m", f"{outputs}/{checkpoints}:before"]
    command = without(["python", "-m", "trainer.train", *arguments], "--resume") + ["--resume", "before"]
    if options is None:
        return f"the same with {' '.join(mount)} for remoterun run, and --resume before, goes on from there"
    given = shlex.split(options)
    ours = [at for at in range(1, len(given)) if given[at - 1] == "-m" and given[at].endswith(":before")]
    kept = [word for at, word in enumerate(given) if at not in ours and at + 1 not in ours]
    return f"to go on from there:\n  {shlex.join(['remoterun', 'run', *kept, *mount, shlex.join(command)])}"


def without(words: Sequence[str], option: str) -> list[str]:
    """`words` without an option and its value."""
    kept, skip = [], False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option
    return kept


def choose(settings: Settings, text: data.Text, initial: Checkpoint | None) -> Settings:
    """Fill in what was not typed: from the checkpoint to start from, and from the recipe for this much text.

    Raises TrainerError where what was typed and that checkpoint can't go together.
    """
    recipe = recipes.recipe_for(len(text.text))
    if settings.chooses:
        settings = settings.with_unless_typed({**recipe.flags(), "save_every": None})
    if initial:
        settings = settings.with_unless_typed({name: initial.settings[name] for name in SHAPE})
        for name in SHAPE:
            theirs, ours = initial.settings[name], getattr(settings, name)
            if theirs != ours:
                raise TrainerError(
                    f"{settings.init_from} has --{name} {theirs}, asked for is {ours}: they must be equal"
                )
    if settings.chooses:
        unused = "num_epochs" if settings.steps else ""
        names = [name for name in recipe.flags() if name not in settings.typed and name != unused]
        chosen = " ".join(f"--{name} {getattr(settings, name)}" for name in names)
        say(wrapped(f"auto, for a text of {recipe.size}: {chosen}; --no-auto: ml5's defaults"))
    elif settings.auto is None:
        say("ml5's defaults for what was not typed; --auto chooses by the size of the text")
    return settings


def find_checkpoint(settings: Settings, identity: Mapping[str, Any]) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from, and what there is to say. Raises TrainerError if the folder named has none."""
    folder = settings.resume not in ("auto", "never")
    if folder and not Path(settings.resume).is_dir():
        raise TrainerError(f"--resume {settings.resume}: there is no such folder; auto, never, or one with checkpoints")
    found, remarks = checkpoint.find(settings.resume_folders, identity)
    if folder and not found:
        why = "; ".join(remarks) or "it is empty"
        raise TrainerError(f"--resume {settings.resume}: there is no checkpoint of this training ({why})")
    return found, remarks


def describe_text(settings: Settings, text: data.Text, vocabulary: list[str], material: data.Material) -> None:
    batches, validation = material.batches, material.validation
    file = str(text.files[0]) if len(text.files) == 1 else f"{len(text.files)} files"
    kind = "different" if settings.level == "char" else "words and characters to read and write"
    tried = f"; {validation.inputs.size:,} at the end are for validation" if validation else ""
    about = f"text: {file}, {len(text.text):,} characters, {len(vocabulary):,} {kind}{tried};"
    say(wrapped(f"{about} an epoch is {len(batches)} batches of {batches.batch_size} x {settings.seq_length}"))
    if settings.val_fraction and not validation:
        say(f"the text is too short for --val_fraction {settings.val_fraction}: going on without validation")
    if batches.batch_size < settings.batch_size:
        say(f"the text is too short for --batch_size {settings.batch_size}: using {batches.batch_size}")


def finite(loss: float, step: int) -> float:
    """Raises TrainerError for a loss that is not finite, before the model is saved over a good one."""
    if not math.isfinite(loss):
        raise TrainerError(f"train_loss is {loss} at step {step}, not saved: try a smaller --learning_rate")
    return loss


if __name__ == "__main__":
    sys.exit(main())
