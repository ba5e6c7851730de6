"""Functions that runpod.py, vast.py, hetzner.py and colab.py share, and need beside them; see example.py."""

import json
import sys
import urllib.error
import urllib.request


def answer(*calls):
    """Answer the question on stdin by the function of its name."""
    asked = json.load(sys.stdin)
    known = {each.__name__: each for each in calls}
    if asked["do"] not in known:
        refuse(f"`{asked['do']}` is not known here")
    print(json.dumps(known[asked["do"]](asked)))


def refuse(words, kind="refused"):
    """End with an error as the answer. `kind`: also "capacity" or "unreachable"."""
    print(json.dumps({"error": words, "kind": kind}))
    sys.exit(0)


def rest(method, address, key, body=None, capacity=(), gone=()):
    """The JSON that a server answers. A refusal is the end of this program: of the kind "capacity" where it has one of
    these words in it; none where it has one of `gone`."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(address, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answered:
            return json.loads(answered.read() or b"{}")
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode("utf-8", "replace")
        if any(word in said for word in gone):
            return {}
        kind = "unreachable" if error.code >= 500 else "refused"
        return refuse(f"{error.code}: {said[:300]}", "capacity" if any(word in said for word in capacity) else kind)
    except OSError as error:
        return refuse(f"no answer: {error}", "unreachable")
