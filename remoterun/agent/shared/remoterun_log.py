"""Numbers of a run of remoterun, for its page: `from remoterun_log import log; log(step=10, loss=0.3)`.

Each call appends a line of JSON to the file that REMOTERUN_METRICS names. Outside a run, it does nothing.
"""

import json
import os
import sys
import time
from typing import Any, List

_warned: List[str] = []


def log(step: Any = None, **values: Any) -> None:
    """Values may be whatever `float` takes, as a scalar of NumPy, PyTorch or TensorFlow. What can't be logged is left
    out, and the first time a line on stderr says so: a training goes on."""
    path = os.environ.get("REMOTERUN_METRICS")
    if not path:
        return
    line = {"time": time.time()}
    for name, value in dict(values, **({} if step is None else {"step": step})).items():
        try:
            line[name] = float(value)
        except Exception as error:  # noqa: BLE001 - whatever a library of tensors raises
            _warn("%s is not a number: %s" % (name, error))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        _warn(str(error))


def _warn(why: str) -> None:
    if not _warned:
        _warned.append(why)
        sys.stderr.write("remoterun_log: %s\n" % why)
