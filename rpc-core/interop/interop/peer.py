"""A peer on one UDP socket: setup (section 3), resets (2.2), connections by their id."""

import asyncio
import os
import random
import time
from typing import NamedTuple

from . import wire
from .bodies import Code, Outcome, RpcError, method_id
from .connection import ROTATE_AFTER, Connection
from .security import INSECURE, NODE_KEYS, SHARED_KEY, Clear, Insecure, Noise, hmac_sha256, reset_key
from .wire import INIT, REPLY, RETRY, VERSIONS, Malformed, Reader, setup_packet, u


class Params(NamedTuple):
    """Section 3.1."""

    epoch: int
    client_id: int
    datagram_size_max: int = 1200
    message_size_max: int = 64 << 20
    calls_max: int = 1024
    ack_delay_max_us: int = 1000
    idle_timeout_ms: int = 10_000
    features: int = 1

    SIZES = (8, 16, 2, 8, 4, 4, 4, 4)

    def write(self):
        return b"".join(u(value, size) for value, size in zip(self, self.SIZES))

    @classmethod
    def read(cls, reader):
        return cls(*(reader.u(size) for size in cls.SIZES))


def versions_list(versions):
    return u(len(versions), 1) + b"".join(u(it, 4) for it in versions)


def prologue(version, scid, versions):
    return b"rpc-core" + u(version, 4) + u(scid, 8) + versions_list(versions)


def init_body(versions, mode, cookie, message):
    return versions_list(versions) + u(mode, 1) + u(len(cookie), 1) + cookie + u(len(message), 2) + message


def reply_body(mode, message):
    return u(mode, 1) + u(len(message), 2) + message


class Attempt:
    """The initiator's side of a setup."""

    def __init__(self, address, handshake, message, future):
        self.address, self.handshake, self.message, self.future = address, handshake, message, future
        self.cookie, self.retries = b"", 0


class Peer(asyncio.DatagramProtocol):
    """`key`: 32 bytes, or nothing for the insecure mode. `methods`: names to coroutine functions. `loss`: the share of
    datagrams that is dropped in each direction, chosen by `seed`. `cookies`: answer every INIT with RETRY first.
    `node`, `allowed`: the own node key and the peer's public one. `memory`: bytes for the large messages of a connection, but always for one."""

    def __init__(self, key, methods, loss, seed, cookies, rotate_after, memory, node, allowed, params):
        self.key, self.mode = key, NODE_KEYS if node else SHARED_KEY if key else INSECURE
        self.node, self.allowed = node, allowed
        self.methods = {method_id(name): handler for name, handler in methods.items()}
        self.params = Params(int.from_bytes(os.urandom(8), "big"), int.from_bytes(os.urandom(16), "big"))
        self.params = self.params._replace(**params)
        self.loss, self.dice, self.cookies = loss, random.Random(seed), cookies
        self.rotate_after, self.memory, self.retries = rotate_after, memory, 0
        self.cookie_key, self.resets = os.urandom(32), (0.0, 0)
        self.attempts, self.half_open, self.connections = {}, {}, {}
        self.waiting = {}  # for message 3: handshake, scid and address by the id of the connection to be
        self.dropped, self.transport = 0, None

    @classmethod
    async def start(cls, address=("127.0.0.1", 0), key=None, methods=None, loss=0.0, seed=0, cookies=False,
                    rotate_after=ROTATE_AFTER, memory=256 << 20, node=None, allowed=None, **params):
        peer = cls(key, methods or {}, loss, seed, cookies, rotate_after, memory, node, allowed, params)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, local_addr=address)
        return peer

    @property
    def address(self):
        return self.transport.get_extra_info("sockname")

    def close(self):
        for connection in set(self.connections.values()):
            if connection.connected:
                connection.close()
        self.transport.close()

    def forget(self, connection):
        self.connections.pop(connection.local, None)
        self.half_open = {key: it for key, it in self.half_open.items() if it[1] is not connection}

    def on_connected(self, connection):
        """A process that was started anew ends what the older one left."""
        theirs = connection.theirs
        for other in list(self.connections.values()):
            if other.theirs.client_id == theirs.client_id and other.theirs.epoch != theirs.epoch:
                other.end_restarted()

    # --- datagrams ---------------------------------------------------------------------------------------------------

    def transmit(self, datagram, address):
        if self._dropped() or self.transport.is_closing():
            return
        self.transport.sendto(datagram, address)

    def _dropped(self):
        dropped = self.dice.random() < self.loss
        self.dropped += dropped
        return dropped

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, datagram, address):
        if self._dropped() or len(datagram) < wire.SHORT_HEADER + wire.TAG:
            return
        if datagram[0] & 0xC0 == 0x40:
            self._on_short(datagram, address)
        elif datagram[0] & 0xC0 == 0xC0 and len(datagram) >= wire.LONG_HEADER + wire.TAG:
            try:
                self._on_long(datagram, address)
            except Malformed:
                pass

    def _on_short(self, datagram, address):
        dcid = int.from_bytes(datagram[1:9], "big")
        connection = self.connections.get(dcid)
        if connection:
            connection.receive(datagram, address)
        elif len(datagram) == wire.RESET_SIZE and self._token(datagram[:23]) == datagram[23:]:
            number = int.from_bytes(datagram[9:13], "big")
            for connection in list(self.connections.values()):
                if (connection.remote, connection.address) == (dcid, address) and number < connection.next_number:
                    connection.on_reset()
        elif len(datagram) >= wire.ACKNOWLEDGED_SIZE and self._may_reset():
            self.transmit(wire.reset(dcid, int.from_bytes(datagram[9:13], "big"), os.urandom(11), self._token), address)

    def _token(self, data):
        if not self.key:
            return Insecure.reset_token(data)
        return hmac_sha256(reset_key(self.key), data)[:16]

    def _may_reset(self):
        now = time.monotonic()
        since, count = self.resets if now - self.resets[0] < 0.1 else (now, 0)
        self.resets = since, count + 1
        return count < 100

    def _on_long(self, datagram, address):
        it = wire.read_long(datagram)
        if it.kind == INIT and it.version != wire.VERSION and len(datagram) >= wire.SETUP_SIZE:
            self.transmit(setup_packet(VERSIONS, it.version, it.scid, 0, versions_list([wire.VERSION])), address)
        elif it.version == wire.VERSION and wire.untagged(datagram) is not None:
            if it.kind == INIT and it.dcid == 0 and len(datagram) >= wire.SETUP_SIZE:
                self._on_init(it, address)
            elif it.kind == INIT and it.dcid in self.waiting:
                self._on_third(it, address)
            elif it.dcid in self.attempts and self.attempts[it.dcid].address == address:
                handler = {RETRY: self._on_retry, REPLY: self._on_reply, VERSIONS: self._on_versions}[it.kind]
                handler(it, self.attempts[it.dcid], len(datagram))

    # --- the initiator -----------------------------------------------------------------------------------------------

    async def connect(self, address):
        scid = int.from_bytes(os.urandom(8), "big") | 1
        handshake = self._handshake(True, wire.VERSION, scid, [wire.VERSION])
        message = handshake.write(b"" if self.node else self.params.write())
        attempt = Attempt(address, handshake, message, asyncio.get_running_loop().create_future())
        self.attempts[scid] = attempt
        try:
            return await asyncio.wait_for(self._knock(scid, attempt), 5)
        except asyncio.TimeoutError:
            raise RpcError(Code.CONNECTION_LOST, Outcome.NOT_EXECUTED, "no answer to INIT") from None
        finally:
            del self.attempts[scid]

    async def _knock(self, scid, attempt):
        pause = 0.020
        while True:
            self._send_init(scid, attempt)
            done, _ = await asyncio.wait([attempt.future], timeout=pause)
            if done:
                return attempt.future.result()
            pause = min(1.0, 2 * pause)

    def _send_init(self, scid, attempt):
        body = init_body([wire.VERSION], self.mode, attempt.cookie, attempt.message)
        self.transmit(setup_packet(INIT, wire.VERSION, 0, scid, body, padded=True), attempt.address)

    def _on_retry(self, it, attempt, _size):
        attempt.cookie, attempt.retries = it.body.take(it.body.u(1)), attempt.retries + 1
        self.retries += 1
        if attempt.retries <= 4:
            self._send_init(it.dcid, attempt)

    def _on_reply(self, it, attempt, size):
        if size < wire.SETUP_SIZE or it.body.u(1) != self.mode or attempt.future.done():
            return
        payload = Reader(attempt.handshake.read(it.body.take(it.body.u(2))))
        remote, theirs = payload.u(8), Params.read(payload)
        if self.node and attempt.handshake.rs != self.allowed:
            return
        third = attempt.handshake.write(self.params.write()) if self.node else None
        connection = Connection(self, attempt.address, it.dcid, remote, attempt.handshake.keys(), True, theirs)
        self.connections[it.dcid] = connection
        if third:
            body = reply_body(self.mode, third)
            packet = setup_packet(INIT, wire.VERSION, remote, it.dcid, body)
            connection.third = asyncio.ensure_future(self._repeat(packet, attempt.address))
        self.on_connected(connection)
        attempt.future.set_result(connection)

    async def _repeat(self, packet, address):
        """Message 3, until a data packet opens."""
        pause, until = 0.020, time.monotonic() + 5
        while time.monotonic() < until:
            self.transmit(packet, address)
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)

    def _on_versions(self, it, attempt, _size):
        versions = [it.body.u(4) for _ in range(it.body.u(1))]
        if not self.key and wire.VERSION not in versions and not attempt.future.done():
            error = RpcError(Code.VERSION, Outcome.NOT_EXECUTED, f"the peer speaks {versions}")
            attempt.future.set_exception(error)

    def _handshake(self, initiator, version, scid, versions):
        if not self.key:
            return Clear()
        return Noise(self.mode, initiator, self.key, prologue(version, scid, versions), static=self.node)

    # --- the acceptor ------------------------------------------------------------------------------------------------

    def _on_init(self, it, address):
        versions = [it.body.u(4) for _ in range(it.body.u(1))]
        mode = it.body.u(1)
        cookie = it.body.take(it.body.u(1))
        message = it.body.take(it.body.u(2))
        if mode != self.mode or wire.VERSION not in versions:
            return
        if self.cookies and not self._good_cookie(cookie, address, it.scid):
            fresh = self._cookie(int(time.monotonic() * 1e6), address, it.scid)
            self.transmit(setup_packet(RETRY, wire.VERSION, it.scid, 0, u(len(fresh), 1) + fresh), address)
            return
        key = address, it.scid, message
        if key not in self.half_open:
            if sum(not (it and it.connected) for _, it in self.half_open.values()) >= 1000:
                return
            self.half_open[key] = self._accept(it.scid, versions, message, address)
        self.transmit(self.half_open[key][0], address)

    def _accept(self, scid, versions, message, address):
        """REPLY, and the connection to be."""
        handshake = self._handshake(False, wire.VERSION, scid, versions)
        payload = Reader(handshake.read(message))
        local = int.from_bytes(os.urandom(8), "big") | 1
        answer = handshake.write(u(local, 8) + self.params.write())
        reply = setup_packet(REPLY, wire.VERSION, scid, local, reply_body(self.mode, answer), padded=True)
        if self.node:
            self.waiting[local] = handshake, scid, address
            asyncio.get_running_loop().call_later(5, self.waiting.pop, local, None)
            return reply, None
        theirs = Params.read(payload)
        connection = self.connections[local] = Connection(self, address, local, scid, handshake.keys(), False, theirs)
        asyncio.get_running_loop().call_later(10, lambda: connection.connected or self.forget(connection))
        return reply, connection

    def _on_third(self, it, address):
        handshake, scid, known = self.waiting[it.dcid]
        if it.body.u(1) != self.mode or address != known or it.dcid in self.connections:
            return
        theirs = Params.read(Reader(handshake.read(it.body.take(it.body.u(2)))))
        connection = Connection(self, address, it.dcid, scid, handshake.keys(), False, theirs)
        if handshake.rs != self.allowed:
            connection.close(3, "not allowed")
            return
        self.connections[it.dcid] = connection
        connection.on_connected()
        self.on_connected(connection)

    def _cookie(self, at, address, scid):
        claim = u(at, 8) + repr(address).encode() + u(scid, 8)
        return u(at, 8) + hmac_sha256(self.cookie_key, claim)[:16]

    def _good_cookie(self, cookie, address, scid):
        at = int.from_bytes(cookie[:8], "big")
        return cookie == self._cookie(at, address, scid) and time.monotonic() * 1e6 - at < 10e6
