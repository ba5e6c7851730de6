"""`python -m tests.cloud_check`: asks first, then checks what only a real account can show; exits 1 if anything failed.

It uses the installed `remoterun` with a home of its own, ends every host that it rented, and removes all that it made,
also when it is interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from remoterun.clouds.aws import catalogue
from tests.cloud_check.bill import compared
from tests.cloud_check.checklist import GPU_TYPE, Checklist
from tests.cloud_check.login import login
from tests.cloud_check.user import User

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HOURS = 0.75
"""That each host may live, if the money suffices."""
REQUESTS = 0.02
"""US dollars: for the bucket's requests and what leaves AWS."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cloud_check", description=__doc__.splitlines()[0])
    parser.add_argument("--max-cost", type=float, default=1.0, metavar="$", help="never spend more; default: 1")
    parser.add_argument("--type", default="m7i.large", help="of EC2, for all but the GPU; default: m7i.large")
    parser.add_argument("--region", help="default: that of your AWS settings")
    parser.add_argument("--spot", action="store_true", help="rent a spot host, too")
    parser.add_argument("--gpu", action="store_true", help="train on a T4, too")
    parser.add_argument("--interrupt", action="store_true", help="a spot host that you interrupt by hand, too")
    parser.add_argument(
        "--hang",
        type=float,
        nargs="?",
        const=0.15,
        metavar="HOURS",
        help="hang a host's kernel, too; its deadline: 0.15",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="of ~/.aws: SSO, `aws login`, a key; default: AWS's variables"
    )
    parser.add_argument("--subnet", metavar="ID", help="where hosts shall be: for an account without a default network")
    parser.add_argument("--save", type=Path, metavar="FILE", help="what it cost by remoterun, for --compare")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="only this: a day later, beside AWS's own bill")
    parser.add_argument("--idle", default="2m", metavar="TIME", help="how long a host waits for a run; default: 2m")
    parser.add_argument("--image", default="python:3.12-slim", help="of Docker, for the runs; it needs Python")
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    options = parser.parse_args()
    if options.profile:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
        os.environ["AWS_PROFILE"] = options.profile
    if options.compare:
        return compared(options.compare)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="remoterun-cloud-check-"))
    left: list[str] = []
    try:
        user = User(folder)
        checklist = prepared(user, options)
        try:
            checklist.go_through()
        except KeyboardInterrupt:
            checklist.failed.append("interrupted")
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            left = [f"all that was made: REMOTERUN_HOME={user.home} remoterun machines gc aws"]
            left = checklist.clean()
    finally:
        if not left:
            shutil.rmtree(folder)
    print(f"\nnothing left: {', '.join(left) or 'yes'}\nfailed:       {', '.join(checklist.failed) or 'nothing'}")
    return 1 if left or checklist.failed else 0


def prepared(user: User, options: argparse.Namespace) -> Checklist:
    """Say what will be done and what it costs, and ask. Exits where there is no account, no price, or no yes."""
    if options.subnet:
        user.settings(f'[aws]\nsubnet = "{options.subnet}"\n')
    who = user.json("whoami")
    if who["account"] is None:
        sys.exit("error: there are no AWS credentials\n\nhint: aws configure, or AWS_PROFILE=NAME")
    region = options.region or who["region"]
    others = options.spot + 2 * options.interrupt + (options.hang is not None)
    types = [options.type, *[options.type] * others, *[GPU_TYPE] * options.gpu]
    prices = [catalogue.offer(type, region).hourly for type in types]
    if None in prices:
        sys.exit(f"error: not all prices of {', '.join(types)} in {region} are known\n\nhint: --type m7i.large")
    hourly = sum(price or 0 for price in prices)
    hours = min(HOURS, (options.max_cost - REQUESTS) / hourly)
    if hours < HOURS / 3:
        sys.exit(f"error: ${options.max_cost:g} is not enough for these hosts\n\nhint: --max-cost {hourly:.2f}")
    print(f"account   {who['account']}, as {who['aws']}, region {region}", file=sys.stderr)
    print(f"login     {login()}", file=sys.stderr)
    print(f"at most   ${hours * hourly + REQUESTS:.2f}, for {', '.join(types)}", file=sys.stderr)
    print(f"          hosts end by themselves after {hours * 60:.0f} minutes at the latest", file=sys.stderr)
    print("makes     unless you have them: a bucket, a security group `remoterun`, two roles;", file=sys.stderr)
    print(f"          a schedule for each host; {user.folder}", file=sys.stderr)
    print("removes   all of it at the end, also after ^C. It takes 10 to 20 minutes", file=sys.stderr)
    if not options.yes:
        print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.exit("Nothing was done.")
    return Checklist(user, options, region, hours)


if __name__ == "__main__":
    sys.exit(main())
