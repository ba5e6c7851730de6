"""What a host answers, frame by frame: nothing of it is believed before it was looked at."""

from __future__ import annotations

from remoterun.agent.shared.compression import CompressionError, expand
from remoterun.agent.shared.frames import Body, Frame
from remoterun.agent.shared.protocol import Stream
from remoterun.errors import TransferError
from remoterun.session import Session


def next_frame(stream: Stream, session: Session) -> Frame:
    frame = stream.receive()
    if frame is None:
        raise ended(session)
    return frame


def not_empty(frame: Frame, session: Session) -> Frame:
    """A frame that brings something: others could come without an end."""
    if not frame.body:
        raise nonsense(session)
    return frame


def number(frame: Frame, name: str, session: Session) -> int:
    """A number above zero in the header of a frame."""
    value = frame.header.get(name)
    if type(value) is not int or value <= 0:
        raise nonsense(session)
    return value


def unpacked(frame: Frame, session: Session) -> Body:
    """The body of a frame, which may be compressed."""
    try:
        return expand(frame.header, frame.body)
    except CompressionError as error:
        raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")


def ended(session: Session) -> TransferError:
    return TransferError(f"{session.machine.name} ended the transfer early", hint="repeat the command")


def nonsense(session: Session) -> TransferError:
    return TransferError(f"{session.machine.name} sent an answer that makes no sense")
