"""TensorFlow, set up for the machine it is on, or for several that train together."""

import faulthandler
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import TrainerError
from trainer.progress import say

MOST_SHARDS = 8
LARGE_STEP = 50e6  # multiply-adds of one time step's product; measured: 38e6 gain from shards, 67e6 lose by them


@dataclass(frozen=True)
class Devices:
    """`gpus`: their names, empty if there is none. The rest is what `model.Model` is given."""

    gpus: tuple[str, ...]
    shards: int
    jit: bool
    way: str
    strategy: Any


def worker() -> int:
    """Which of the nodes that train together this one is, by TF_CONFIG; 0: the first, which writes the files."""
    return int(json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0))


def import_tensorflow() -> Any:
    try:
        with _quiet_import():
            import tensorflow
    except ModuleNotFoundError as error:
        raise TrainerError(f"TensorFlow is not installed ({error}): `pip install tensorflow`") from error
    return tensorflow


def use_devices(tf: Any, batch_size: int, rnn_size: int, cell: str = "lstm") -> Devices:
    """Set TensorFlow up for the GPUs of this machine, or else for its cores, and say which.

    On GPUs, cuDNN computes LSTM layers. Each of several GPUs, or nodes (TF_CONFIG), has an equal part of a batch.
    """
    tf.config.threading.set_inter_op_parallelism_threads(min(cores(), MOST_SHARDS) + 1)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)  # leave memory to others on the machine
    if os.environ.get("TF_CONFIG"):
        return _on_several_nodes(tf, gpus, batch_size, rnn_size, cell)
    if not gpus:
        say(f"{_versions(tf)}, on {cores()} CPU core{'s' if cores() > 1 else ''}, no GPU")
        _warn_of_unused_gpu(tf)
        return Devices((), shards_for(batch_size, rnn_size), can_compile(tf), "fast", None)
    used = gpus[: replicas_for(batch_size, len(gpus))]
    names = tuple(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in used)
    strategy = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(used))]) if len(used) > 1 else None
    say(f"{_versions(tf)}, on {', '.join(names)}")
    if strategy:
        say(f"{len(used)} GPUs, each with {batch_size // len(used)} of a batch's {batch_size} sequences")
    if len(used) < len(gpus):
        say(
            f"warning: {len(gpus) - len(used)} of {len(gpus)} GPUs are not used:"
            f" {batch_size} sequences can't be dealt out to more than {len(used)}; try --batch_size"
            f" {-(-batch_size // len(gpus)) * len(gpus)}"
        )
    if cell == "lstm":
        return Devices(names, 1, False, "cudnn", strategy)
    return Devices(names, 1, can_compile(tf), "fast", strategy)


def _on_several_nodes(tf: Any, gpus: list[Any], batch_size: int, rnn_size: int, cell: str) -> Devices:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before any operation
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        why = f"{batch_size} sequences can't be dealt out to {replicas} devices"
        raise TrainerError(f"{why}; try --batch_size {batch_size + -batch_size % replicas}")
    say(f"{_versions(tf)}, on {replicas} devices of several nodes")
    say(f"each has {batch_size // replicas} of a batch's {batch_size} sequences")
    names, cudnn = tuple(gpu.name for gpu in gpus), bool(gpus) and cell == "lstm"
    shards = 1 if gpus else shards_for(batch_size // replicas, rnn_size)
    return Devices(names, shards, not cudnn and can_compile(tf), "cudnn" if cudnn else "fast", strategy)


def can_compile(tf: Any) -> bool:
    """Whether XLA works here."""
    try:
        tf.function(lambda: tf.exp(tf.zeros([2])), jit_compile=True)()
    except tf.errors.OpError as error:
        say(f"warning: training without XLA, slower: {str(error).splitlines()[0]}")
        return False
    return True


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shards_for(batch_size: int, rnn_size: int) -> int:
    """Into how many equal parts to cut a batch so that every core has its own.

    A large network's batch stays whole: XLA deals each product out to the cores, and each reads its part of the weights
    once, where with shards each would read all of them, which no longer fit in its cache.
    """
    if batch_size * rnn_size * 4 * rnn_size >= LARGE_STEP:
        return 1
    return max(shards for shards in range(1, min(cores(), MOST_SHARDS) + 1) if batch_size % shards == 0)


def replicas_for(batch_size: int, gpus: int) -> int:
    """On how many of the GPUs to train: as many as can have equal parts of a batch."""
    return max(replicas for replicas in range(1, gpus + 1) if batch_size % replicas == 0)


def _versions(tf: Any) -> str:
    return f"TensorFlow {tf.__version__}, Python {platform.python_version()}"


def _warn_of_unused_gpu(tf: Any) -> None:
    if Path("/dev/nvidia0").exists():
        why = "driver, libraries or age of the GPU" if tf.test.is_built_with_cuda() else "it was built without CUDA"
        say(f"warning: there is an NVIDIA GPU, but this TensorFlow cannot use it ({why})")


@contextmanager
def _quiet_import() -> Iterator[None]:
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
