"""What can go wrong with the lab itself, apart from what it is asked to break."""

from __future__ import annotations


class LabError(Exception):
    """Something of the lab didn't do what it was told. The message holds the evidence."""

    def __init__(self, message: str, evidence: str = "") -> None:
        evidence = evidence.strip()
        super().__init__(f"{message}\n{evidence}" if evidence else message)


class LabUnavailable(LabError):
    """This machine can't have a lab: not root, not Linux, or a tool is missing."""
