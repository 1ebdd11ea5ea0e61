"""Section 14: makes every vector of the page anew and compares. `python -m interop.vectors PAGE`"""

import re
import sys

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from . import envelope, wire
from .envelope import Meta
from .peer import Params, init_body, method_id, prologue, reply_body
from .security import Clear, Insecure, Noise
from .wire import Ack, Accepted, Cancel, Close, Drain, MaxData, Part, Ping, Req, Resp, Seen, read_frames, u, write_frame

A, B = 0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8
PARAMS = Params(epoch=0x0102030405060708, client_id=0x1112131415161718191A1B1C1D1E1F20).write()
ADD = method_id("calc.add")
REQUEST = [MaxData(16 << 20), Req(0, ADD, 1, 5_000_000, 1234, cbor2.dumps([2, 3]))]
RESPONSE = [Ack([(0, 0)], 80), MaxData(16 << 20), Resp(0, 0, 1, cbor2.dumps(5))]
FRAMES = [
    Ack([(7, 9), (4, 4), (0, 1)], 1000),
    Part(2, 0x32, 0, 2000, (ADD, 5_000_000, 1234), b"abc"),
    Part(2, 0x12, 3, 2000, None, b"def"),
    Cancel(4, 7),
    Seen(34),
    Accepted(1),
    Drain(6, 0),
    Ping(),
]
ACK_ECN = Ack([(7, 9), (4, 4)], 1000, (1, 0, 300))
META = Meta(
    trace=bytes(range(0x31, 0x41)),
    span=0x41424344,
    hops=(method_id("ping"),),
    key=(bytes(range(0x51, 0x61)), 7),
    extra={64: b"token"},
)
ZEROS = cbor2.dumps(bytes(2000))
BLOCK = bytes.fromhex("4f5907d0000100 ffffffffffffffbe 500000000000")  # as the page explains it
FOLDED = wire.v(len(ZEROS)) + BLOCK


def unhex(text):
    """`00*12` stands for twelve zeros."""
    text = re.sub(r"(\w\w)\*(\d+)", lambda it: it[1] * int(it[2]), text)
    return bytes.fromhex("".join(text.split()))


def joined(frames):
    return b"".join(map(write_frame, frames))


def setup(initiator, acceptor, mode):
    """INIT, REPLY and the keys of both sides."""
    one = initiator.write(PARAMS)
    init = wire.setup_packet(wire.INIT, 1, 0, A, init_body([1], mode, b"", one), padded=True)
    assert acceptor.read(one) == PARAMS
    two = acceptor.write(u(B, 8) + PARAMS)
    reply = wire.setup_packet(wire.REPLY, 1, A, B, reply_body(mode, two), padded=True)
    assert initiator.read(two) == u(B, 8) + PARAMS
    return init, reply, initiator.keys(), acceptor.keys()


def setup_with_node_keys(initiator, acceptor):
    """INIT, REPLY and the INIT with message 3."""
    one = initiator.write(b"")
    assert acceptor.read(one) == b""
    two = acceptor.write(u(B, 8) + PARAMS)
    assert initiator.read(two) == u(B, 8) + PARAMS
    three = initiator.write(PARAMS)
    assert acceptor.read(three) == PARAMS
    return (
        wire.setup_packet(wire.INIT, 1, 0, A, init_body([1], 2, b"", one), padded=True),
        wire.setup_packet(wire.REPLY, 1, A, B, reply_body(2, two), padded=True),
        wire.setup_packet(wire.INIT, 1, B, A, reply_body(2, three)),
    )


def vectors():
    init, reply, _, _ = setup(Clear(), Clear(), 0)
    yield "init", init
    yield "reply", reply
    yield "versions", wire.setup_packet(wire.VERSIONS, 7, A, 0, b"\x01" + u(1, 4))
    plain = Insecure()
    yield "request", plain.seal(B, 0, joined(REQUEST))
    yield "response", plain.seal(A, 0, joined(RESPONSE))
    yield "frames", joined(FRAMES)
    yield "frames-ecn", joined([ACK_ECN])
    yield "request-meta", write_frame(Req(4, ADD, 0x41, 5_000_000, 1234, META.write() + cbor2.dumps([2, 3])))
    yield "response-compressed", write_frame(Resp(4, 0, 0x81, FOLDED))
    yield "request-both", write_frame(Req(6, ADD, 0xC1, 5_000_000, 1234, META.write() + FOLDED))
    yield "close", plain.seal(A, 9, joined([Close(2, b"unknown frame")]))
    random = bytes.fromhex("28 2122232425262728 2728")
    yield "reset", wire.reset(B, 3, random, plain.reset_token)
    yield "error", cbor2.dumps({0: 6, 1: 0, 2: "8 calls run"})

    shared = bytes(range(32))
    key = lambda first: X25519PrivateKey.from_private_bytes(bytes(range(first, first + 32)))
    noise = lambda first: Noise(1, first == 32, shared, prologue(1, A, [1]), ephemeral=key(first))
    init, reply, ours, theirs = setup(noise(32), noise(64), 1)
    yield "sealed-init", init
    yield "sealed-reply", reply
    yield "secrets", ours.tx.secret + theirs.tx.secret
    yield "sealed-request", ours.seal(B, 0, joined(REQUEST))
    yield "sealed-response", theirs.seal(A, 0, joined(RESPONSE))
    ours.rotate()
    yield "sealed-rotated", ours.seal(B, 5, write_frame(Ping()).ljust(11, b"\0"))
    yield "sealed-reset", wire.reset(B, 3, random, ours.reset_token)
    cookie = bytes(range(0xC0, 0xD8))
    yield "retry", wire.setup_packet(wire.RETRY, 1, A, 0, b"\x18" + cookie)

    node = lambda first, own: Noise(2, first == 32, shared, prologue(1, A, [1]), static=key(own), ephemeral=key(first))
    initiator, acceptor = node(32, 0x60), node(64, 0x80)
    init, reply, third = setup_with_node_keys(initiator, acceptor)
    yield "node-init", init
    yield "node-reply", reply
    yield "node-third", third
    ours, theirs = initiator.keys(), acceptor.keys()
    yield "node-secrets", ours.tx.secret + theirs.tx.secret
    yield "node-request", ours.seal(B, 0, joined(REQUEST))


def readers(page):
    """What is written is also read, the page's own bytes included."""
    assert read_frames(joined(FRAMES)) == FRAMES and read_frames(joined([ACK_ECN])) == [ACK_ECN]
    for flags, message in ((0xC1, META.write() + FOLDED), (0x41, META.write() + ZEROS)):
        assert envelope.unpack(flags, message, 4096) == (META, ZEROS)
    assert wire.untagged(page["init"]) and not wire.untagged(page["init"][:-1] + b"\1")
    for low, expected, full in ((0, 0, 0), (0xFFFFFFFF, 1 << 32, 0xFFFFFFFF), (1, (1 << 32) - 1, (1 << 32) + 1)):
        assert wire.full_number(low, expected) == full
    for text, number in (("c000000000000001", 1), ("7bbd", 15293), ("25", 37), ("9d7f3e7d", 494878333)):
        assert wire.Reader(bytes.fromhex(text)).v() == number


def main():
    with open(sys.argv[1]) as file:
        text = file.read()
    page = {name: unhex(body) for name, body in re.findall(r"```vector (\S+)\n(.*?)```", text, re.S)}
    made = dict(vectors())
    bad = [name for name in page.keys() | made.keys() if page.get(name) != made.get(name)]
    for method, number in re.findall(r"^\| `([\w.]+)` \| (0x\w{8}) \|$", text, re.M):
        if method_id(method) != int(number, 16):
            bad.append(method)
    readers(page)
    print(f"{len(page)} vectors, different: {' '.join(sorted(bad)) or 'none'}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
