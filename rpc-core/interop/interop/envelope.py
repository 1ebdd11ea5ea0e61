"""What travels around a body: metadata and compression, sections 9.5 and 9.6."""

import io
from typing import NamedTuple

import cbor2
import lz4.block

from .wire import COMPRESSED, META, Reader, v

META_SIZE_MAX = 1024
HOPS_MAX = 32
COMPRESS_ABOVE = 1024
RATIO_MAX = 255


class TooLarge(Exception):
    """A body that would unfold to more than allowed."""


class Meta(NamedTuple):
    trace: bytes = None  # 16 bytes
    span: int = 0
    hops: tuple = ()
    key: tuple = None  # client (16 bytes), sequence
    extra: dict = {}  # keys from 64 on, bytes

    def write(self):
        it = {0: self.trace, 1: self.span} if self.trace else {}
        if self.hops:
            it[2] = list(self.hops)
        if self.key:
            it[3] = list(self.key)
        written = cbor2.dumps(it | self.extra, canonical=True)
        if len(written) > META_SIZE_MAX:
            raise ValueError(f"{len(written)} bytes of metadata")
        return written

    @classmethod
    def read(cls, it):
        trace, hops, key = it.get(0), it.get(2, []), it.get(3)
        if trace is not None and len(trace) != 16 or len(hops) > HOPS_MAX or key and len(key[0]) != 16:
            raise ValueError("metadata of another shape")
        extra = {number: value for number, value in it.items() if number >= 64}
        return cls(trace, it.get(1, 0), tuple(hops), key and tuple(key), extra)


def pack(meta, body, compress):
    """Flags and message."""
    flags, message = 0, body
    if compress and len(body) > COMPRESS_ABOVE:
        block = v(len(body)) + lz4.block.compress(body, store_size=False)
        if len(block) < len(body) * 9 // 10:
            flags, message = COMPRESSED, block
    if meta != Meta():
        flags, message = flags | META, meta.write() + message
    return flags, message


def unpack(flags, message, body_max):
    """Metadata and body. Raises TooLarge, or ValueError for what cannot be read."""
    meta = Meta()
    if flags & META:
        stream = io.BytesIO(message[:META_SIZE_MAX])
        it = cbor2.CBORDecoder(stream).decode()
        if not isinstance(it, dict):
            raise ValueError("metadata that is not a map")
        meta, message = Meta.read(it), message[stream.tell() :]
    return meta, unfold(message, body_max) if flags & COMPRESSED else message


def unfold(message, body_max):
    reader = Reader(message)
    size = reader.v()
    block = message[reader.at :]
    if size > body_max:
        raise TooLarge(f"a body of {size} bytes")
    if size > RATIO_MAX * len(block):
        raise ValueError("no block of this size unfolds to so much")
    body = lz4.block.decompress(block, uncompressed_size=size)
    if len(body) != size:
        raise ValueError("a block that unfolds to less than it says")
    return body
