"""Functions that runpod.py, vast.py, hetzner.py and colab.py share, and need beside them; see example.py."""

import json
import sys
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime

CLOCK = {}
"""`now`: the time by the clock of the API that was asked last, which each answer names."""


def answer(*calls):
    """Answer the question on stdin by the function of its name."""
    asked = json.load(sys.stdin)
    known = {each.__name__: each for each in calls}
    if asked["do"] not in known:
        refuse(f"`{asked['do']}` is not known here")
    print(json.dumps({**known[asked["do"]](asked), **CLOCK}))


def refuse(words, kind="refused"):
    """End with an error as the answer. `kind`: also "busy", "capacity" or "unreachable"."""
    print(json.dumps({"error": words, "kind": kind, **CLOCK}))
    sys.exit(0)


def rest(method, address, key, body=None, capacity=()):
    """The JSON that a server answers. To delete what is not there (404) is fine. A refusal is the end of this program:
    of the kind "capacity" where its status and text have one of these words in them."""
    headers = {"Authorization": f"Bearer {key}", **({} if body is None else {"Content-Type": "application/json"})}
    asked = urllib.request.Request(address, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answered:
            note_the_clock(answered.headers)
            return json.loads(answered.read() or b"{}")
    except urllib.error.HTTPError as error:
        note_the_clock(error.headers)
        if method == "DELETE" and error.code == 404:
            return {}
        said = f"{error.code}: {in_words(error.read(2000).decode('utf-8', 'replace'))[:500]}"
        kind = "busy" if error.code in (429, 503) else "unreachable" if error.code >= 500 else "refused"
        return refuse(said, "capacity" if any(word in said for word in capacity) else kind)
    except OSError as error:
        return refuse(f"no answer: {error}", "unreachable")


def in_words(text):
    """Of a problem as RFC 9457 has it the title, the detail and what is wrong; any other text as it is."""
    try:
        problem = json.loads(text)
        return "; ".join([f"{problem['title']}: {problem['detail']}", *problem.get("errors", [])])
    except (ValueError, KeyError, TypeError):
        return text


def note_the_clock(headers):
    if headers["Date"]:
        CLOCK["now"] = parsedate_to_datetime(headers["Date"]).timestamp()
