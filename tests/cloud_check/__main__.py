"""`python -m tests.cloud_check`: asks first, then checks what only a real account can show; exits 1 if anything failed.

It uses the installed `remoterun` with a home of its own, ends every host that it rented, and removes all that it made,
also when it is interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.cloud_check.checklist import Checklist, Settings
from tests.cloud_check.cleaning import clean
from tests.cloud_check.report import text
from tests.cloud_check.spending import Spending
from tests.cloud_check.user import User

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cloud_check", description=__doc__.splitlines()[0])
    parser.add_argument("--max-cost", type=float, default=1.0, metavar="$", help="never spend more; default: 1")
    parser.add_argument("--type", default="m7i.large", help="of EC2, for all but the GPU; default: m7i.large")
    parser.add_argument("--region", help="default: that of your AWS settings")
    parser.add_argument("--spot", action="store_true", help="rent a spot host, too")
    parser.add_argument("--gpu", action="store_true", help="train on a T4, too, if the account's quota allows it")
    parser.add_argument("--idle", default="2m", metavar="TIME", help="how long a host waits for a run; default: 2m")
    parser.add_argument("--image", default="python:3.12-slim", help="of Docker, for the runs; it needs Python")
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    options = parser.parse_args(arguments)
    settings = Settings(options.type, options.region, options.spot, options.gpu, options.idle, options.image)
    for number in SIGNALS:
        signal.signal(number, _interrupt)

    folder = Path(tempfile.mkdtemp(prefix="remoterun-cloud-check-"))
    user = User.begin(folder)
    who = user.json("machines", "whoami")
    if who["account"] is None:
        shutil.rmtree(folder)
        print("error: there are no AWS credentials\n\nhint: aws configure, or AWS_PROFILE=NAME", file=sys.stderr)
        return 1
    region = options.region or who["region"]
    spending = Spending.of(settings, region, options.max_cost)
    print(_about(who, region, spending, folder), file=sys.stderr)
    if not options.yes and not _agreed():
        shutil.rmtree(folder)
        print("Nothing was done.", file=sys.stderr)
        return 1

    try:
        checklist = Checklist(user, settings, spending, region)
    except (BotoCoreError, ClientError) as error:
        shutil.rmtree(folder)
        print(f"error: AWS does not say what there is now: {error}\n\nhint: remoterun doctor aws", file=sys.stderr)
        return 1
    interrupted = False
    try:
        checklist.go_through()
    except KeyboardInterrupt:
        interrupted = True
        print("\nInterrupted: what was made is removed now, which takes a minute or two", file=sys.stderr)
    finally:
        for number in SIGNALS:
            signal.signal(number, _go_on)
        left = clean(checklist, interrupted)
    print(text(checklist.rows, left, checklist.account.cost(), interrupted, settings))
    if left:
        print(f"\nIts home is kept: REMOTERUN_HOME={user.home} remoterun machines gc aws", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if left or interrupted or any(row.verdict == "FAILED" for row in checklist.rows) else 0


def _about(who: dict[str, Any], region: str, spending: Spending, folder: Path) -> str:
    minutes = spending.hours * 60
    lines = [
        f"account   {who['account']}, as {who['aws']}",
        f"region    {region}",
        *(f"rents     {line}" for line in spending.lines()),
        f"at most   ${spending.most:.2f}; hosts end by themselves after {minutes:.0f} minutes at the latest",
        f"makes     a bucket, or some objects in the one you have; a security group `remoterun`; {folder}",
        "removes   all of it at the end, also after ^C. It takes 10 to 20 minutes",
    ]
    return "\n".join(lines)


def _agreed() -> bool:
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _go_on(number: int, frame: Any) -> None:
    print("Still removing what was made", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
