"""`python -m tests.bench`: every bench, one after the other; exits 1 if a row falls short."""

from __future__ import annotations

import sys

from tests.bench import control

if __name__ == "__main__":
    sys.exit(control.main())
