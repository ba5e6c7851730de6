"""A character LSTM trainer whose models ml5.js can load. Imports nothing of remoterun."""


class TrainerError(Exception):
    """A fault that the user can mend: one line, no traceback, exit status 2."""
