"""How bodies are made smaller on the wire: zstd where there is one, zlib's format everywhere.

A frame whose body was made smaller says so, and how long it was: {"z": bytes} or {"zstd": bytes}.

zstd is Python's own from 3.14 on, and otherwise the system's library, which nearly every Linux has (dpkg, rpm, curl and
btrfs need it), called by ctypes. Against zlib it makes text a quarter smaller still, and is undone three times as fast.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
import zlib
from typing import Any, Callable, Dict, NamedTuple, Optional

from .frames import Body, Bytes

MAX_RAW = 1 << 20
"""Bytes that a body may have when it is expanded."""


class CodecError(Exception):
    """A body that does not expand to what was said."""


class Codec(NamedTuple):
    """`compress(data, level)`; `expand(body, size)`, which makes `size` bytes and no more, or raises `CodecError`."""

    key: str
    compress: Callable[[Bytes, int], Body]
    expand: Callable[[Bytes, int], Body]
    quick: int
    thorough: int
    """Levels."""
    speed: float
    """Bytes a second at the quick one, as long as that is not measured."""
    slow_link: float
    """Bytes a second of a link for which the thorough one pays."""


def expand(header: Dict[str, Any], body: Body) -> Body:
    """The body as it was. Raises `CodecError`."""
    for key in ("z", "zstd"):
        if key in header:
            size = header[key]
            codec = codecs().get(key)
            if codec is None:
                raise CodecError("%s is not known here" % key)
            if type(size) is not int or not 0 <= size <= MAX_RAW:
                raise CodecError("a body of %.40r bytes" % (size,))
            return codec.expand(body, size)
    return body


@functools.lru_cache(1)
def codecs() -> Dict[str, Codec]:
    """Those of this machine, the best first. The first call takes some milliseconds."""
    found = [zstd(), zlib_with(zlib.compress, 100e6)]
    return {codec.key: codec for codec in found if codec is not None}


def zlib_with(compress: Callable[[Bytes, int], Body], speed: float) -> Codec:
    """The codec of zlib's format, with any function that makes it."""
    return Codec("z", compress, inflate, 1, 1 if speed > 200e6 else 6, speed, 6e6)


def inflate(body: Bytes, size: int) -> bytes:
    inflating = zlib.decompressobj()
    try:
        raw = inflating.decompress(body, size + 1)
    except zlib.error as error:
        raise CodecError("a body that can't be inflated: %s" % error)
    if len(raw) != size or not inflating.eof or inflating.unused_data:
        raise CodecError("a body that inflates to another length than was said")
    return raw


_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def zstd() -> Optional[Codec]:
    """None where there is no zstd."""
    if sys.version_info >= (3, 14):
        found = _python_zstd()
        if found is not None:
            return found
    try:
        return _system_zstd()
    except (ImportError, OSError, AttributeError):
        return None


def _zstd_with(compress: Callable[[Bytes, int], Body], undo: Callable[[Bytes, int], Body]) -> Codec:
    return Codec("zstd", compress, undo, 1, 3, 300e6, 60e6)


def _python_zstd() -> Optional[Codec]:
    try:
        own = importlib.import_module("compression.zstd")
    except ImportError:  # Python may be built without
        return None

    def undo(body: Bytes, size: int) -> bytes:
        expanding = own.ZstdDecompressor(options={own.DecompressionParameter.window_log_max: 20})  # MAX_RAW
        try:
            raw = bytes(expanding.decompress(body, size + 1))
        except own.ZstdError as error:
            raise CodecError("a body that can't be expanded: %s" % error)
        if len(raw) != size or not expanding.eof or expanding.unused_data:
            raise CodecError("a body that expands to another length than was said")
        return raw

    return _zstd_with(own.compress, undo)


def _system_zstd() -> Codec:
    """Raises `OSError` where there is no such library."""
    import ctypes

    name = "libzstd.so.1"
    if sys.platform == "darwin":  # by its path: there a bare name is looked for in the current folder, too
        places = ["%s/lib/libzstd.1.dylib" % at for at in ("/opt/homebrew", "/usr/local", "/opt/local")]
        name = next(filter(os.path.exists, places), "")
        if not name:
            raise OSError("there is no libzstd")
    library = ctypes.CDLL(name)
    size_t, pointer = ctypes.c_size_t, ctypes.c_void_p
    length = library.ZSTD_findFrameCompressedSize
    length.argtypes, length.restype = [pointer, size_t], size_t
    bound, error = library.ZSTD_compressBound, library.ZSTD_isError
    bound.argtypes, bound.restype = [size_t], size_t
    error.argtypes, error.restype = [size_t], ctypes.c_uint
    make, free = library.ZSTD_createCCtx, library.ZSTD_freeCCtx
    make.argtypes, make.restype = [], pointer
    free.argtypes, free.restype = [pointer], size_t
    do, undo = library.ZSTD_compressCCtx, library.ZSTD_decompress
    do.argtypes, do.restype = [pointer, pointer, size_t, pointer, size_t, ctypes.c_int], size_t
    undo.argtypes, undo.restype = [pointer, size_t, pointer, size_t], size_t

    def place(data: bytearray) -> Any:
        return (ctypes.c_char * len(data)).from_buffer(data)

    def source(data: Bytes) -> Any:
        if isinstance(data, bytearray) and data:
            return place(data)
        return ctypes.cast(ctypes.c_char_p(bytes(data)), pointer)

    class Room:
        """What compressing works in. New for each body it would cost a fifth more; one thread at a time may use it."""

        def __init__(self) -> None:
            self.made = bytearray()
            self.context = make()
            if not self.context:
                raise CodecError("zstd has no memory")

        def __del__(self) -> None:
            free(self.context)

    own = threading.local()

    def compress(data: Bytes, level: int) -> Body:
        room = own.__dict__.get("room")
        if room is None:
            room = own.room = Room()
        if len(room.made) < bound(len(data)):
            room.made = bytearray(bound(len(data)))
        size = do(room.context, place(room.made), len(room.made), source(data), len(data), level)
        if error(size):
            raise CodecError("zstd fails")
        return bytes(memoryview(room.made)[:size])

    def expand_(body: Bytes, size: int) -> Body:
        whole = body[:4] == _ZSTD_MAGIC and length(source(body), len(body)) == len(body)
        if not whole:  # the library would also take several frames, and those of its first versions
            raise CodecError("a body that is not one zstd frame")
        made = bytearray(max(1, size))
        if undo(place(made), size, source(body), len(body)) != size:
            raise CodecError("a body that does not expand to what was said")
        return made if size else b""

    return _zstd_with(compress, expand_)
