"""A parser of flags that answers a wrong one in one line, with the flag that was perhaps meant."""

import argparse
import difflib
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors of one line. A wrong flag ends the program with status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}{self._meant(message)}; --help shows all", file=sys.stderr)
        sys.exit(2)

    def _meant(self, message: str) -> str:
        """Words that name the flag which the first unknown one resembles; "" if none is near."""
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        if not message.startswith("unrecognized") or not unknown:
            return ""
        known = {flag.replace("-", "_"): flag for action in self._actions for flag in action.option_strings}
        near = difflib.get_close_matches(unknown[0].replace("-", "_"), known, 1)
        return f" (did you mean {known[near[0]]}?)" if near else ""
