"""A character LSTM trainer whose models ml5.js can load. Imports nothing of remoterun."""


class TrainerError(Exception):
    """Something the user can put right: said in one line, with no traceback, exit status 2."""
