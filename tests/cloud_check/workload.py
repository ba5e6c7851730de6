"""What runs on the hosts of the check: `workload.py first`, `workload.py ticks N`, or `workload.py again`, which ends
where an earlier host was taken away from it. Python's library only."""

import hashlib
import os
import sys
import time
import urllib.request


def main(words: list[str]) -> None:
    print("CHECK began", flush=True)
    if words[0] == "first":
        os.makedirs("made", exist_ok=True)
        with open("made/digests.txt", "w") as file:
            for name in sorted(os.listdir("data")):
                with open(os.path.join("data", name), "rb") as data:
                    file.write(f"{hashlib.sha256(data.read()).hexdigest()} {name}\n")
        print(f"CHECK token {token()}", flush=True)
    if words[0] == "again":
        if os.path.exists("ticks.txt"):
            with open("ticks.txt") as file:
                print(f"CHECK goes on after tick {file.read().strip()}", flush=True)
            return
        words = ["ticks", "3600"]
    for number in range(int(words[1]) if words[0] == "ticks" else 0):
        print(f"CHECK tick {number}", flush=True)
        with open("ticks.txt", "w") as file:
            file.write(f"{number}\n")
        time.sleep(1)


def token() -> str:
    """What a container gets of the instance's metadata service: with its token it could act as the instance."""
    address = "http://169.254.169.254/latest/api/token"
    asked = urllib.request.Request(address, method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            answer.read()
        return "given"
    except OSError as error:
        return f"not given: {error}"


main(sys.argv[1:])
