"""Of a command that failed the user sees why, where its last line surely says so. Real programs write these texts."""

from __future__ import annotations

import time

import pytest

from remoterun.agent.running.causes import cause_of
from remoterun.agent.shared.states import Reason, RunState
from remoterun.model import MachineType, Run
from remoterun.ui.rows import row

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\n'
TORCH = (
    "CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB of which 11.06 MiB is "
    "free. Including non-PyTorch memory, this process has 23.60 GiB memory in use. See documentation for Memory "
    "Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)
TENSORFLOW = (
    "OOM when allocating tensor with shape[10000000,1000000] and type float on "
    "/job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu"
)
GRAPH = f"""\
tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph execution error:

Detected at node zeros defined at (most recent call last):
<stack traces unavailable>
{TENSORFLOW}
\t [[{{{{node zeros}}}}]]
Hint: If you want to see a list of allocated tensors when OOM happens, add report_tensor_allocations_upon_oom to \
RunOptions for current allocation info. This isn't available when running in Eager mode.
 [Op:__inference_f_16]
W0000 00:00:1796031091.069575    2527 local_rendezvous.cc:412] Local rendezvous is aborting with status: ABORTED
"""
GATED = """\
huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-687696a1;b08e9476)

Cannot access gated repo for url https://huggingface.co/black-forest-labs/FLUX.1-dev/resolve/main/ae.safetensors.
Access to model black-forest-labs/FLUX.1-dev is restricted. You must have access to it and be authenticated to access \
it. Please log in.
"""
ENVIRON_3_8 = '  File "/usr/lib/python3.8/os.py", line 675, in __getitem__\n'
ENVIRON = '  File "<frozen os>", line 679, in __getitem__\n'
WORKER = (
    "RuntimeError: DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit."
)
NO_LIBRARY = "cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("log", "code", "wanted"),
    [
        (f"{TRACEBACK}ModuleNotFoundError: No module named 'tqdm'\n", 1, "no module `tqdm`: `--pip tqdm` "),
        (f"{TRACEBACK}ModuleNotFoundError: No module named 'sklearn'\n", 1, "`--pip scikit-learn` for a package"),
        (f"{TRACEBACK}ModuleNotFoundError: No module named 'trainer.data'\n", 1, "`trainer.data`: `--pip PACKAGE` "),
        ("/usr/bin/python3: No module named mine\n", 1, "no module `mine`: "),
        (f"\x1b[35m{TRACEBACK}\x1b[1;35mModuleNotFoundError\x1b[0m: \x1b[35mNo module named 'my'\x1b[0m\n", 1, "`my`"),
        (f"{TRACEBACK}ModuleNotFoundError: No module named 'x'\nmake: *** [Makefile:2: all] Error 1\n", 2, "`x`"),
        ("bash: line 1: ffmpeg: command not found\n", 127, "no program `ffmpeg`: `--apt` or `--pip`"),
        ("/bin/sh: line 1: exec: git: not found\n", 127, "no program `git`"),
        ("RuntimeError: Parent directory ckpt does not exist.\n", 1, "`ckpt` is not in the run"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/home/me/d.csv'\n", 1, "`/home/me/d.csv` is not"),
        (f"{TRACEBACK}torch.OutOfMemoryError: {TORCH}\n", 1, "the GPU's memory was full"),
        (f"{TRACEBACK}torch.cuda.OutOfMemoryError: {TORCH}\n", 1, "the GPU's memory was full"),
        (f"{TRACEBACK}RuntimeError: {TORCH}\n", 1, "the GPU's memory was full"),
        (f"{TRACEBACK}{GRAPH}", 1, "memory was full: a smaller batch"),
        (f"tensorflow.python.framework.errors_impl.ResourceExhaustedError: {TENSORFLOW} [Op:Fill] name: ", 1, "memory"),
        (f"{TRACEBACK}jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory.\n", 1, "memory was"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 72.8 TiB for an array\n", 1, "memory was full"),
        (f"{TRACEBACK}{WORKER}\n", 1, "memory was full"),
        ("OSError: [Errno 28] No space left on device: 'models/a'\n", 1, "is full: `remoterun machines df` shows"),
        ("dd: writing to 'x': No space left on device\n", 1, "is full: `remoterun machines df`"),
        (f"{TRACEBACK}OSError: [Errno 122] Disk quota exceeded\n", 1, "a quota, is full"),
        ("ERROR:    [Errno 98] error while attempting to bind on address ('::', 80): address already in use\n", 1, ""),
        (f"{TRACEBACK}RuntimeError: No CUDA GPUs are available\n", 1, "no GPU: `--gpus 1`, and `-t` a machine"),
        ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have one\n", 1, "no GPU"),
        (f"ImportError: libcuda.so.1: {NO_LIBRARY}\n", 1, "no GPU"),
        (f"ImportError: libGL.so.1: {NO_LIBRARY}\n", 1, "no library `libGL.so.1`: `--apt`"),
        (f"./play: error while loading shared libraries: libasound.so.2: {NO_LIBRARY}\n", 127, "`libasound.so.2`"),
        (f"{ENVIRON}KeyError: 'HF_TOKEN'\n", 1, "HF_TOKEN is not set: `-e HF_TOKEN` sends yours, `--secret HF_TOKEN`"),
        (f"{ENVIRON_3_8}    raise KeyError(key) from None\nKeyError: 'HF_TOKEN'\n", 1, "HF_TOKEN is not set"),
        ("requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://x/?t=s3cr3t\n", 1, "--secret"),
        (f"{TRACEBACK}{GATED}", 1, "a server wants a login: `--secret NAME`"),
        ("wandb.errors.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[…])\n", 1, "a login"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution\n", 1, "address was not found"),
        ("OSError: [Errno 30] Read-only file system: 'data/x'\n", 1, "mounts are read-only"),
        ("touch: cannot touch 'data/x': Read-only file system\n", 1, "mounts are read-only"),
    ],
)  # fmt: skip
def test_what_programs_write_at_their_end(log: str, code: int, wanted: str) -> None:
    found = cause_of(f"step 1\n{log}", code)
    assert found is not None and wanted in found
    assert "s3cr3t" not in found and len(found) < 100


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("", 1),
        ("\n\n", 1),
        ("ModuleNotFoundError: No module named 'x'\ntrying without it\n", 1),
        ("ModuleNotFoundError: No module named 'x'\n", 0),
        ("ModuleNotFoundError: No module named 'x'\n", 3),
        ("ModuleNotFoundError: No module named 'x'\n", 137),
        ("ModuleNotFoundError: No module named 'x'\n", None),
        ("warning: ModuleNotFoundError: No module named 'x'\n", 1),
        ("ModuleNotFoundError: No module named 'torch.no_such'\n", 1),
        ("ModuleNotFoundError: No module named 'numpy.fft'; 'numpy' is not a package\n", 1),
        ("FAILED test_a.py::test_b - ModuleNotFoundError: No module named 'x'\n", 1),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/proc/9/stat'\n", 1),
        ("FileNotFoundError: no checkpoint\n", 1),
        ("mkdir: cannot create directory 'a/b': No such file or directory\n", 1),
        ("/usr/bin/env: ‘python’: No such file or directory\n", 127),
        ("/bin/sh: 1: python: not found\n", 127),
        ("/bin/sh: 1: source: not found\n", 127),
        ("/bin/sh: 1: sudo: not found\n", 127),
        ("/bin/sh: 1: nvidia-smi: not found\n", 127),
        ("error: page not found\n", 1),
        ("settings.py: 12: theme: not found\n", 1),
        ("x: 1: ./a;touch${IFS}b: Permission denied\n", 126),
        ("x: 1: ./`id`: Permission denied\n", 126),
        ("cat: /etc/nothere: No such file or directory\n", 1),
        ("ls: cannot access '*.txt': No such file or directory\n", 2),
        ("bash: line 1: out.txt: Permission denied\n", 1),
        ("PermissionError: [Errno 13] Permission denied: 'x'\n", 1),
        ("KeyError: 'HF_TOKEN'\n", 1),
        ("  File \"train.py\", line 3, in __getitem__\nKeyError: 'HF_TOKEN'\n", 1),
        ("ValueError: CUDA out of luck\n", 1),
        ("2026-11-30 09:00:00.1: W tensorflow/core/op.cc:9] RESOURCE_EXHAUSTED: OOM when allocating tensor\n", 1),
        ("disk: 3 GB left on device\n", 1),
        ("requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://x/\n", 1),
        ("requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://x/\n", 1),
        ("ConnectionRefusedError: [Errno 111] Connection refused\n", 1),
        ("SyntaxError: invalid syntax\n", 1),
        ("AssertionError: Torch not compiled with CUDA enabled\n", 1),
    ],
)
def test_what_is_not_sure_is_not_said(log: str, code: int | None) -> None:
    assert cause_of(f"step 1\n{log}", code) is None


@pytest.mark.parametrize(
    "text",
    ["python", ": 1", "rror: [Errno -2] ", "cat: '", "No such file or directory ", "a", "{0}", "\t [[", "\x1b[1m"],
)
def test_hostile_ends_are_read_in_bounded_time(text: str) -> None:
    began = time.process_time()
    assert cause_of(("\n" + text * (4000 // len(text))) * 4, 1) is None
    assert time.process_time() - began < 1


def test_a_name_of_a_log_is_short_and_on_one_line() -> None:
    found = cause_of(f"FileNotFoundError: [Errno 2] No such file or directory: '\u202e\x07{'x' * 500}'\n", 1)
    assert found is not None and found.isprintable() and len(found) < 200


def test_the_page_has_it_once_in_place_of_the_command_failed() -> None:
    why = "the command asks for input: `--stdin` sends what is typed here"
    failed = Run(1, "k", RunState.FAILED, MachineType("m"), "c", 1.0, reason=Reason.EXIT_NONZERO, code=1)
    for message, words in ((None, "the command failed"), (why, why)):
        shown = row(failed._replace(message=message), 2.0)
        assert (shown["why"], shown["note"]) == (words, None)
