"""What the two peers must manage together: `python -m interop.stories INTEROP_PEER [WORD]`, where INTEROP_PEER is the
example of that name and WORD chooses stories by name. Each starts its own processes and sockets."""

import asyncio
import os
import socket
import sys
import time
import traceback

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .bodies import Code, MethodError, Outcome, RpcError, method_id, write
from .envelope import Meta
from .handles import Consumer, Producer, Remote
from .peer import Peer
from .services import Counter, Service
from .wire import Req, Seen, setup_packet, write_frame

KEY = bytes(range(7, 39))
LARGE = bytes(at * at >> 8 & 0xFF for at in range(200 << 10))
MANY = 200
NODE, RUST_NODE = (X25519PrivateKey.from_private_bytes(bytes(range(first, first + 32))) for first in (100, 150))
NODE_OPTIONS = ["--node", RUST_NODE.private_bytes_raw().hex(), NODE.public_key().public_bytes_raw().hex()]
NODES = {"key": KEY, "node": NODE, "allowed": RUST_NODE.public_key()}
WAIT = 60  # of a whole story


class Rust:
    """The example as a process; it ends with its standard input, however this one ends."""

    def __init__(self, *arguments):
        self.arguments = arguments

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(sys.argv[1], *self.arguments, stdin=pipe, stdout=pipe)
        if self.arguments[-1] == "serve":
            line = await self.process.stdout.readline()
            host, port = line.decode().split()[1].rsplit(":", 1)
            self.address = host, int(port)
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


def options(key, node=None):
    return (["--key", key.hex()] if key else []) + (NODE_OPTIONS if node else [])


async def fails(call, code, outcome):
    try:
        answer = await call
    except RpcError as error:
        assert (error.code, error.outcome) == (code, outcome), f"{error} instead of {code!r}, {outcome!r}"
        return error
    raise AssertionError(f"{answer!r} instead of {code!r}")


async def python_calls(key=None, rust=(), came=("MaxData", "Accepted"), went=(), **settings):
    """All that a caller sees; the counts are the callee's."""
    async with Rust(*options(key, settings.get("node")), *rust, "serve") as server:
        peer = await Peer.start(key=key, methods=Service().methods(), **settings)
        remote = await peer.connect(server.address)
        assert await remote.call("calc.add", 2, -3) == -1
        try:
            await remote.call("calc.divide", 1, 0)
            raise AssertionError("divided by zero")
        except MethodError as error:
            assert error.value is None, error.value
        await fails(remote.call("no.such"), Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED)
        error = await fails(remote.call("calc.add", "seven"), Code.BAD_REQUEST, Outcome.NOT_EXECUTED)
        assert error.details[5][0], error.details
        echoes = [remote.call("echo", LARGE, timeout=30, lane=lane) for lane in (1, 2, 1, 2)]
        assert all(echo == LARGE for echo in await asyncio.gather(*echoes))
        await fails(remote.call("slow", 60_000, timeout=0.3), Code.TIMEOUT, Outcome.UNKNOWN)
        await until(lambda: remote.call("stopped"), 1)
        assert await remote.call("back", 40, 2) == 42
        for story in (compressed, metadata, references, streams, notes):
            await story(remote)
        calls = [remote.call("tally.add", number, timeout=30) for number in range(MANY)]
        assert await asyncio.gather(*calls) == list(range(MANY))
        assert await remote.call("tally.report") == [MANY, 1]
        assert "calc.add" in [method["name"] for method in (await remote.call("rpc.describe"))["methods"]]
        assert all(remote.came[name] for name in came) and all(remote.went[name] for name in went), remote.came
        assert not remote.ended and peer.retries == (1 if "--cookies" in rust else 0)
        for phase in (remote.keys.phase, remote.keys.received_phase):
            assert phase > 3 if "--rotate" in rust else phase == 0, phase
        peer.close()
        return f"{remote.next_number} packets sent, {peer.dropped} dropped"


async def until(ask, wanted):
    """Asks until the answer is `wanted`."""
    end = time.monotonic() + 10
    while (got := await ask()) != wanted:
        assert time.monotonic() < end, f"{got!r} instead of {wanted!r}"
        await asyncio.sleep(0.01)


async def compressed(remote):
    """Asked for and answered so."""
    body = b"all work and no play " * 200
    assert await remote.call("echo.small", body, compress=True) == body
    assert remote.went["COMPRESSED"] and remote.came["COMPRESSED"], remote.came


async def metadata(remote):
    shown = await remote.call("meta.show", timeout=30)
    assert (shown["trace"], shown["key"], shown["extra"]) == (None, None, None) and 25_000 <= shown["left_ms"] <= 30_000
    meta = Meta(trace=bytes(15) + b"\7", key=(bytes(15) + b"\x08", 9), extra={64: b"own"})
    shown = await remote.call("meta.show", meta=meta)
    assert shown["trace"] == [meta.trace, []] and shown["key"] == list(meta.key) and shown["extra"] == b"own", shown
    shown = await remote.call("meta.back", meta=meta._replace(key=None), timeout=2)
    assert shown["trace"] == [meta.trace, [method_id("meta.back")]] and shown["left_ms"] <= 2_000, shown
    await fails(remote.call("calc.add", 2, 3, meta=meta), Code.BAD_REQUEST, Outcome.NOT_EXECUTED)


async def references(remote):
    counter = Counter()
    assert await remote.call("ref.sum", 4, counter) == 1 + 2 + 3 + 4
    await asyncio.wait_for(counter.released.wait(), 10)
    made = await remote.call("ref.make", returns=Remote)
    assert await made.call("next", 41) == 42
    assert await made.call("ask", 10, Counter()) == 11
    await fails(made.call("no.such"), Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED)
    await made.release()
    await fails(made.call("next", 1), Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED)
    assert await remote.call("ref.alive") == 0


async def streams(remote):
    numbers, small = list(range(500)), {"items": 64, "bytes_": 1 << 10}
    counted = await remote.call("stream.count", len(numbers), returns=Consumer)
    assert [number async for number in counted] == numbers

    failing, got = Consumer(**small), []
    call = asyncio.ensure_future(remote.call("stream.fail", len(numbers), failing))
    try:
        async for number in failing:
            got.append(number)
        raise AssertionError("a failed stream came to its end")
    except RpcError as error:
        assert (error.code, error.outcome, got) == (Code.FORBIDDEN, Outcome.EXECUTED, numbers), error
    assert await call is None

    source = Producer(**small)
    total, _ = await asyncio.gather(remote.call("stream.sum", source), send(source, numbers))
    assert total == sum(numbers)

    source, doubled = Producer(**small), Consumer(**small)
    call = asyncio.ensure_future(remote.call("stream.double", source, doubled))
    sent = asyncio.ensure_future(send(source, numbers))
    assert [number async for number in doubled] == [2 * number for number in numbers]
    await asyncio.gather(call, sent)

    source = Producer(**small)
    call = asyncio.ensure_future(remote.call("stream.take", 10, source))
    await fails(send(source, numbers), Code.CANCELLED, Outcome.EXECUTED)
    assert await call == 45

    await send(await remote.call("stream.collect", returns=Producer), numbers)
    await until(lambda: remote.call("stream.collected"), sum(numbers))
    await until(lambda: asyncio.sleep(0, len(remote.handles.live)), 0)


async def send(producer, items):
    for item in items:
        await producer.send(item)
    await producer.finish()


async def notes(remote):
    five = write(5)
    assert await remote.call("@notify", method_id("note.add"), five) is None
    await fails(remote.call("@notify", method_id("no.such"), five), Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED)
    await until(lambda: remote.call("note.sum"), 5)


async def rust_calls(key=None, rust=(), went=("Accepted",), **settings):
    service = Service()
    peer = await Peer.start(key=key, methods=service.methods(), **settings)
    async with Rust(*options(key, settings.get("node")), *rust, "call", "%s:%d" % peer.address) as caller:
        out, _ = await caller.process.communicate()
        assert caller.process.returncode == 0, out.decode()
        assert len(service.tallied) == MANY and set(service.tallied.values()) == {1}
        (connection,) = peer.connections.values()
        names = "MaxData", "Cancel", "Seen", "META", "COMPRESSED"
        assert all(connection.came[name] for name in names), connection.came
        assert all(connection.went[name] for name in went), connection.went
        phases = connection.keys.phase, connection.keys.received_phase
        assert min(phases) > 3 if "--rotate" in rust else phases == (0, 0), phases
    peer.close()
    return f"{len(out.splitlines())} checks, {peer.dropped} datagrams dropped"


async def lossy(story, **settings):
    return await story(loss=0.1, seed=int(os.environ.get("SEED", "1")), **settings)


async def restart():
    """A reset ends the connection to a process that is gone; what was not sent is not executed."""
    port = free_port()
    service = Service()
    peer = await Peer.start()
    first = await Peer.start(("127.0.0.1", port), methods=service.methods())
    remote = await peer.connect(first.address)
    assert await remote.call("calc.add", 1, 2) == 3
    first.transport.abort()
    async with Rust("serve") as server:  # at another port: it must not know the connection
        remote.address = server.address
        error = await fails(remote.call("calc.add", 1, 2), Code.CONNECTION_LOST, Outcome.UNKNOWN)
        assert "restarted" in error.message, error
    peer.close()
    return error.message


async def sent_again():
    """In new packets, as when acknowledgements are lost: executed once, the stored answer comes again."""
    async with Rust("serve") as server:
        peer = await Peer.start()
        remote = await peer.connect(server.address)
        assert await remote.call("tally.add", 7) == 7
        again = write_frame(Req(0, method_id("tally.add"), 1, 5_000_000, 0, b"\x07"))
        for answers in (2, 3):
            send_raw(remote, again)
            while remote.came["Resp"] < answers:
                await asyncio.sleep(0.001)
        assert await remote.call("tally.report") == [1, 1]
        send_raw(remote, write_frame(Seen(4)) + again)  # seen: no answer any more, and no execution
        assert await remote.call("tally.report") == [1, 1] and remote.came["Resp"] == 5, remote.came
        peer.close()


def send_raw(remote, frames):
    number, remote.next_number = remote.next_number, remote.next_number + 1
    remote.peer.transmit(remote.keys.seal(remote.remote, number, frames.ljust(11, b"\0")), remote.address)


async def unknown_frames():
    """From 64 on they are skipped; another one ends the connection."""
    async with Rust("serve") as server:
        peer = await Peer.start()
        remote = await peer.connect(server.address)
        assert await remote.call("calc.add", 1, 2) == 3
        send_raw(remote, bytes.fromhex("4046 03 616263 01"))
        assert await remote.call("calc.add", 1, 2) == 3
        send_raw(remote, bytes.fromhex("3f 01"))
        while not remote.ended:
            await asyncio.sleep(0.001)
        assert "closed with 2" in remote.ended.message, remote.ended
        peer.close()


async def kept_alive():
    """Without PINGs the call would be lost to silence."""
    async with Rust("serve") as server:
        peer = await Peer.start(idle_timeout_ms=3_400)
        remote = await peer.connect(server.address)
        assert await remote.call("slow", 4_000, timeout=8) == 4_000
        assert remote.came["Ping"] + remote.went["Ping"], remote.came
        peer.close()


async def kept_by_a_service():
    """As long as it is held, by either side; the connection is idle when it was released."""
    async with Rust("serve") as server:
        peer = await Peer.start(idle_timeout_ms=3_400)
        remote = await peer.connect(server.address)
        made = await remote.call("ref.make", returns=Remote)
        while not (remote.came["Ping"] or remote.went["Ping"]):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # beyond the idle timeout
        assert await made.call("next", 1) == 2
        await made.release()
        while not remote.ended:
            await asyncio.sleep(0.01)
        assert "idle" in remote.ended.message, remote.ended
        peer.close()


async def idle():
    """By the side that opened it; the other one then answers with resets."""
    async with Rust("serve") as server:
        peer = await Peer.start(idle_timeout_ms=200)
        remote = await peer.connect(server.address)
        assert await remote.call("calc.add", 1, 2) == 3
        while not remote.ended:
            await asyncio.sleep(0.01)
        assert "idle" in remote.ended.message, remote.ended
        peer.close()


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


async def refused():
    """Another mode, another key, another version and another node: nothing is let in."""
    async with Rust(*options(KEY), "serve") as server:
        for key in (None, bytes(32)):
            peer = await Peer.start(key=key)
            try:
                await asyncio.wait_for(peer.connect(server.address), 0.5)
                raise AssertionError("let in")
            except asyncio.TimeoutError:
                peer.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.settimeout(5)
            raw.sendto(setup_packet(0, 7, 0, 0xABCD, b"", padded=True), server.address)
            answer, _ = raw.recvfrom(2000)
        expected = setup_packet(3, 7, 0xABCD, 0, bytes.fromhex("0100000001"))
        assert answer == expected, answer.hex()
    async with Rust(*options(KEY, NODE), "serve") as server:
        peer = await Peer.start(**NODES | {"node": X25519PrivateKey.generate()})
        remote = await peer.connect(server.address)
        await fails(remote.call("calc.add", 1, 2), Code.CONNECTION_LOST, Outcome.UNKNOWN)
        assert "closed with 3" in remote.ended.message, remote.ended
        peer.close()


async def moved():
    """The peer goes on at another address; the connection follows it after a challenge, in both directions."""
    async with Rust("serve") as server:
        peer = await Peer.start(methods=Service().methods())
        remote = await peer.connect(server.address)
        assert await remote.call("calc.add", 1, 2) == 3
        old = peer.transport
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, local_addr=("127.0.0.1", 0))
        old.abort()
        assert [await remote.call("calc.add", n, 1) for n in range(20)] == list(range(1, 21))
        assert not remote.ended and remote.came["PathChallenge"] == 1, remote.came
        peer.close()


async def drained():
    """DRAIN of Python: Rust's next call is refused without being executed. CLOSE ends what is open."""
    peer = await Peer.start(methods=Service().methods())
    async with Rust("serve") as server:
        remote = await peer.connect(server.address)
        assert await remote.call("back", 1, 1) == 2
        remote.drain()
        try:
            await remote.call("back", 1, 1)
            raise AssertionError("a call after DRAIN")
        except MethodError as error:
            assert "DRAINING (not executed)" in error.value, error.value
        open_call = asyncio.ensure_future(remote.call("slow", 60_000))
        await asyncio.sleep(0)
        # Its answer says that the call before it has begun, too: CLOSE could come before that otherwise.
        assert await remote.call("echo", b"") == b""
        remote.close(16, "enough")
        await fails(open_call, Code.CONNECTION_LOST, Outcome.UNKNOWN)
        again = await peer.connect(server.address)
        # The handler ends when Rust gets to it, which may be after it has answered on the new connection.
        while await again.call("stopped") != 1:
            await asyncio.sleep(0.001)
    peer.close()


STORIES = {
    "Python calls, insecure": lambda: python_calls(),
    "Python calls, encrypted": lambda: python_calls(key=KEY),
    "Rust calls, insecure": lambda: rust_calls(),
    "Rust calls, encrypted": lambda: rust_calls(key=KEY),
    "Python calls, a tenth is lost each way": lambda: lossy(python_calls),
    "Python calls, encrypted, a tenth is lost": lambda: lossy(python_calls, key=KEY),
    "Rust calls, a tenth is lost each way": lambda: lossy(rust_calls),
    "Rust calls, encrypted, a tenth is lost": lambda: lossy(rust_calls, key=KEY),
    "Python calls, keys of 50 packets both ways": lambda: python_calls(KEY, ["--rotate", "50"], rotate_after=50),
    "Rust calls, keys of 50 packets, a tenth is lost": lambda: lossy(
        rust_calls, key=KEY, rust=["--rotate", "50"], rotate_after=50
    ),
    "Python calls, answers RETRY": lambda: python_calls(KEY, ["--cookies"]),
    "Rust calls, answers RETRY": lambda: rust_calls(KEY, cookies=True),
    "Python calls, waits for GRANT": lambda: python_calls(rust=["--scarce"], came=["Grant"]),
    "Python calls, grants one message at a time": lambda: python_calls(memory=1, went=["Grant"]),
    "Python calls, grants, a tenth is lost": lambda: lossy(python_calls, memory=1, went=["Grant"]),
    "Rust calls, is granted one message at a time": lambda: rust_calls(memory=1, went=["Grant"]),
    "Python calls, node keys": lambda: python_calls(**NODES),
    "Rust calls, node keys": lambda: rust_calls(**NODES),
    "Python calls, node keys, a tenth is lost": lambda: lossy(python_calls, **NODES),
    "Rust calls, node keys, a tenth is lost": lambda: lossy(rust_calls, **NODES),
    "a request sent three times": sent_again,
    "frames that nobody knows": unknown_frames,
    "a long call is kept alive": kept_alive,
    "a service that is held keeps the connection": kept_by_a_service,
    "an idle connection is closed": idle,
    "a restarted peer is noticed": restart,
    "other modes, keys and versions are refused": refused,
    "an address changes": moved,
    "drain and close": drained,
}


async def main():
    failed = 0
    for name, story in STORIES.items():
        if not all(word in name for word in sys.argv[2:]):
            continue
        started = time.monotonic()
        try:
            said = await asyncio.wait_for(story(), WAIT) or ""
            print(f"ok      {name} ({time.monotonic() - started:.1f} s) {said}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{failed} of {len(STORIES)} failed" if failed else "all good")
    return failed > 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
