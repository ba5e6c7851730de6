"""`python -m tests.hf_check`: asks first, then finds out what only Hugging Face itself can answer; exits 1 if anything
failed.

It uses the installed `remoterun` with a home of its own, and ends every host that it rented, also when it is
interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from remoterun.clouds.hf.hardware import table
from remoterun.clouds.hf.provider import PROXY
from tests.cloud_check.user import User
from tests.hf_check.questions import GPU_TYPE, TYPE, Questions

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HOURS = 0.5
"""That each host may live, besides the long session."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hf_check", description=__doc__.splitlines()[0])
    parser.add_argument("--max-cost", type=float, default=1.0, metavar="$", help="never spend more; default: 1")
    parser.add_argument("--gpu", action="store_true", help="train on a T4, too")
    parser.add_argument("--bucket", metavar="NAMESPACE/NAME", help="of yours there: mount it, too")
    parser.add_argument("--profile", default="hf", metavar="NAME", help="of ~/.aws, for the bucket; default: hf")
    parser.add_argument("--ssh", default=PROXY, metavar="HOST[:PORT]", help="its SSH server; default: %(default)s")
    parser.add_argument("--buckets", default="https://s3.hf.co", metavar="URL", help="where buckets speak S3")
    parser.add_argument(
        "--size", type=int, default=10**9, metavar="BYTES", help="of a large output there; default: 1 GB"
    )
    parser.add_argument("--session", type=float, default=2.0, metavar="MINUTES", help="of a quiet session; default: 2")
    parser.add_argument("--alone", type=float, default=60.0, metavar="SECONDS", help="without a client; default: 60")
    parser.add_argument("--idle", default="1m", metavar="TIME", help="how long a host waits for a run; default: 1m")
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    options = parser.parse_args()
    options.hours = HOURS + options.session / 60
    prices = [table()[type].price or 0.0 for type in (TYPE, *[TYPE] * bool(options.bucket), *[GPU_TYPE] * options.gpu)]
    cost = sum(prices) * options.hours
    if cost > options.max_cost:
        sys.exit(f"error: it may cost ${cost:.2f}\n\nhint: --max-cost {cost:.2f}")
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="remoterun-hf-check-"))
    left: list[str] = []
    try:
        questions = Questions(User(folder), options)
        agreed(questions, cost, options)
        left = [f"its hosts: REMOTERUN_HOME={folder / 'home'} remoterun machines gc hf"]
        try:
            questions.ask()
        except KeyboardInterrupt:
            questions.failed.append("interrupted")
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            left = questions.clean()
    finally:
        if not left:
            shutil.rmtree(folder)
    print(f"\nnothing left: {', '.join(left) or 'yes'}\nfailed:       {', '.join(questions.failed) or 'nothing'}")
    return 1 if left or questions.failed else 0


def agreed(questions: Questions, cost: float, options: argparse.Namespace) -> None:
    """Say what will be done and what it costs, and ask. Exits where there is no login, or no yes."""
    who = questions.identity()
    print(f"account   {who.name}, which pays as {who.account}", file=sys.stderr)
    print(f"at most   ${cost:.2f}; hosts end by themselves after {options.hours * 60:.0f} minutes", file=sys.stderr)
    print("makes     jobs with the label made-by=remoterun, which are ended, also after ^C", file=sys.stderr)
    print("needs     your public SSH key at https://huggingface.co/settings/keys; 10 minutes", file=sys.stderr)
    print(f"trusts    {questions.trusted()}, the host key of {options.ssh}", file=sys.stderr)
    if not options.yes:
        print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.exit("Nothing was done.")


if __name__ == "__main__":
    sys.exit(main())
