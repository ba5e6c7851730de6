"""The parts of `fetch.py` and `gutenberg.py`: addresses, a polite visitor, HTML to text, pieces, the report."""


class CorpusError(Exception):
    """Something that the user can put right: what, where, and in `hint` what to type or to look at next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
