"""Integers, packets and frames: sections 1, 2 and 4."""

from collections import namedtuple

VERSION = 1
INIT, RETRY, REPLY, VERSIONS = range(4)
SETUP_SIZE = 1200  # of every INIT with dcid 0 and every REPLY; also what every path carries
SHORT_HEADER, LONG_HEADER, TAG = 13, 21, 16
ACKNOWLEDGED_SIZE = 40  # the least size of a packet that wants an acknowledgement
RESET_SIZE = 39


class Malformed(Exception):
    """Bytes of a peer that break the protocol."""


# --- section 1: integers -------------------------------------------------------------------------------------------


def v(number):
    for prefix, size in enumerate((1, 2, 4, 8)):
        if number < 1 << (8 * size - 2):
            return (prefix << (8 * size - 2) | number).to_bytes(size, "big")
    raise ValueError(f"{number} is above 2^62-1")


def u(number, size):
    return number.to_bytes(size, "big")


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if size > len(self.data) - self.at:
            raise Malformed("the bytes end too early")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def u(self, size):
        return int.from_bytes(self.take(size), "big")

    def v(self):
        first = self.u(1)
        size = 1 << (first >> 6)
        return (first & 0x3F) << 8 * (size - 1) | self.u(size - 1)

    def more(self):
        return self.at < len(self.data)


# --- section 2: packets --------------------------------------------------------------------------------------------


def _crc32c_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC32C = tuple(_crc32c_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return u(crc ^ 0xFFFFFFFF, 4)


def tagged(data):
    """Section 2.1: the tag of the insecure mode and of every setup packet."""
    return data + crc32c(data) + bytes(12)


def untagged(datagram):
    """What stands before the tag; nothing if the tag is another."""
    data = datagram[:-TAG]
    return data if tagged(data) == datagram else None


def short_header(phase, dcid, number):
    return u(0x40 | (phase & 1) << 5, 1) + u(dcid, 8) + u(number & 0xFFFFFFFF, 4)


def full_number(low, expected):
    """The 64-bit number with these low 32 bits that is nearest to `expected`."""
    base = expected - (expected & 0xFFFFFFFF) + low
    around = (base - (1 << 32), base, base + (1 << 32))
    return min((n for n in around if n >= 0), key=lambda n: abs(n - expected))


Long = namedtuple("Long", "kind version dcid scid body")


def setup_packet(kind, version, dcid, scid, body, padded=False):
    data = u(0xC0 | kind << 4, 1) + u(version, 4) + u(dcid, 8) + u(scid, 8) + body
    return tagged(data.ljust(SETUP_SIZE - TAG, b"\0") if padded else data)


def read_long(datagram):
    """Header and what follows it up to the tag. The tag is not looked at."""
    reader = Reader(datagram[:-TAG])
    kind = reader.u(1) >> 4 & 3
    return Long(kind, reader.u(4), reader.u(8), reader.u(8), Reader(reader.data[reader.at :]))


def reset(dcid, low_number, random, token):
    """Section 2.2. `token` makes 16 bytes of the 23 before it; `random` are 11 bytes, 6 bits of the first are used."""
    data = u(0x40 | random[0] & 0x3F, 1) + u(dcid, 8) + u(low_number, 4) + random[1:]
    return data + token(data)


def insecure_reset_token(data):
    return crc32c(data) + b"\xff" * 12


# --- section 4: frames ---------------------------------------------------------------------------------------------

FRAMES = {}


def frame(number, name, layout=""):
    """A frame whose fields are written one after the other, as the page draws them; `len` is `len v | bytes`."""
    fields = [tuple(field.split()) for field in layout.split(" | ") if field]
    kind = namedtuple(name, [name for name, _ in fields])
    kind.id, kind.layout = number, fields
    FRAMES[number] = kind
    return kind


Ping = frame(1, "Ping")
Req = frame(4, "Req", "call v | method v | flags u8 | left_us v | sent_us v | body len")
Resp = frame(5, "Resp", "call v | status v | flags u8 | body len")
Cancel = frame(8, "Cancel", "call v | code v")
Seen = frame(9, "Seen", "floor v")
Accepted = frame(10, "Accepted", "call v")
MaxData = frame(12, "MaxData", "bytes v")
Grant = frame(13, "Grant", "call v | upto v")
Drain = frame(15, "Drain", "last_call v | after_ms v")
Close = frame(16, "Close", "code v | reason len")
PathChallenge = frame(17, "PathChallenge", "data u64")
PathResponse = frame(18, "PathResponse", "data u64")

# `ranges`: (lowest, highest) of received numbers, descending. `marks`: the counts of ACK_ECN.
Ack = namedtuple("Ack", "ranges delay_us marks", defaults=(None,))
# `head`: with offset 0, (method, left_us, sent_us) of a request or (status,) of a response.
Part = namedtuple("Part", "call flags offset total head data")

LANE, IDEMPOTENT, OF_RESPONSE, HAS_TOTAL, HAS_HEAD, META, COMPRESSED = 3, 4, 8, 16, 32, 64, 128
NORMAL_LANE = 1


def write_frame(it):
    if isinstance(it, Ack):
        (low, largest), *others = it.ranges
        out = [b"\x03" if it.marks else b"\x02", v(largest), v(it.delay_us), v(len(others)), v(largest - low)]
        for start, end in others:
            out += v(low - end - 2), v(end - start)
            low = start
        return b"".join(out + [v(count) for count in it.marks or ()])
    if isinstance(it, Part):
        head = b"".join(map(v, it.head)) if it.head else b""
        return b"".join((b"\x06", v(it.call), u(it.flags, 1), v(it.offset), v(it.total), head, v(len(it.data)), it.data))
    out = v(it.id)
    for (_, kind), value in zip(it.layout, it):
        out += v(len(value)) + value if kind == "len" else v(value) if kind == "v" else u(value, int(kind[1:]) // 8)
    return out


def read_frames(data):
    """All frames but PADDING; every packet has at least one frame."""
    reader, frames = Reader(data), []
    if not data:
        raise Malformed("a packet without frames")
    while reader.more():
        number = reader.v()
        if number in (2, 3):
            frames.append(_read_ack(reader, number == 3))
        elif number == 6:
            frames.append(_read_part(reader))
        elif number in FRAMES:
            frames.append(_read_fields(reader, FRAMES[number]))
        elif number >= 64:
            reader.take(reader.v())
        elif number != 0:
            raise Malformed(f"unknown frame {number}")
    return frames


def _read_fields(reader, kind):
    values = []
    for _, field in kind.layout:
        if field == "len":
            values.append(reader.take(reader.v()))
        else:
            values.append(reader.v() if field == "v" else reader.u(int(field[1:]) // 8))
    it = kind(*values)
    if "flags" in kind._fields and it.flags & LANE == 3:
        raise Malformed("lane 3")
    return it


def _read_ack(reader, ecn):
    largest, delay_us, count, first = (reader.v() for _ in range(4))
    ranges = [(largest - first, largest)]
    for _ in range(count):
        end = ranges[-1][0] - reader.v() - 2
        ranges.append((end - reader.v(), end))
    if ranges[-1][0] < 0:
        raise Malformed("an acknowledgement below 0")
    return Ack(ranges, delay_us, tuple(reader.v() for _ in range(3)) if ecn else None)


def _read_part(reader):
    call, flags, offset = reader.v(), reader.u(1), reader.v()
    if flags & LANE == 3 or not flags & HAS_TOTAL or bool(flags & HAS_HEAD) != (offset == 0):
        raise Malformed("flags of a part")
    total = reader.v()
    head = None
    if flags & HAS_HEAD:
        head = tuple(reader.v() for _ in range(1 if flags & OF_RESPONSE else 3))
    data = reader.take(reader.v())
    if not data or offset + len(data) > total:
        raise Malformed("bounds of a part")
    return Part(call, flags, offset, total, head, data)
