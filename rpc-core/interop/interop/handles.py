"""Services and streams in bodies, and notifications: sections 10.2 and 10.3.

A `Service` or one end of a stream (`Producer`, `Consumer`) that is put into arguments or an answer becomes a handle
there; a handler's parameter of type `Remote`, `Producer` or `Consumer` is what the other side's handle stands for here.
"""

import asyncio
import collections
import contextvars

from . import bodies
from .bodies import Code, Context, MethodError, Outcome, Raw, RpcError, method_id

SERVICE, SINK, SOURCE = range(3)
CLAIM_WITHIN = 10.0
HANDLES_MAX = 1024
DELIVERY_TIMEOUT = 120.0
PUSHES = 4  # on their way at once


def handle_id(call, in_answer, index):
    return call * 64 + (32 if in_answer else 0) + index


def read_handle(context, value, kind):
    """The id, and the credit of a stream."""
    if type(value) is not list or len(value) < (2 if kind == SERVICE else 4) or value[0] != kind:
        raise ValueError(f"{value!r} is no handle of kind {kind}")
    if not all(type(it) is int and it >= 0 for it in value[:4]) or value[1] > 31:
        raise ValueError(f"{value!r} is no handle")
    return handle_id(context.call, context.in_answer, value[1]), value[2:4]


def background(work):
    """A task that serves no call: it has neither a deadline nor a trace to hand on."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


class Service:
    """Methods that the receiver may call, until it releases them or the connection ends."""

    def __init__(self, methods):
        self.methods = {method_id(name): handler for name, handler in methods.items()}
        self.released = asyncio.Event()

    def write_handle(self, index):
        return [SERVICE, index]

    def passed(self, _handles, _id):
        pass

    def lost(self, _error):
        self.released.set()


class Remote:
    """A service of the other side."""

    def __init__(self, connection, id_):
        self.connection, self.id = connection, id_

    @classmethod
    def read_handle(cls, context, value):
        it = cls(context.connection, read_handle(context, value, SERVICE)[0])
        context.connection.handles.hold(it.id)
        return it

    async def call(self, name, *arguments, **settings):
        handles = []
        body = bodies.write_arguments(arguments, handles)
        return await self.connection.call("@ref.call", self.id, method_id(name), body, handles=handles, **settings)

    async def release(self):
        self.connection.handles.held.discard(self.id)
        await self.connection.call("@ref.release", [self.id])


class Producer:
    """Takes items. Passed on, its other end goes to the peer, with credit of up to `items` and `bytes_`."""

    def __init__(self, items=1024, bytes_=256 << 10):
        self.window, self.credit = [items, bytes_], [0, 0]
        self.handles = self.id = self.error = None
        self.sent, self.waiting, self.pushes, self.changed = [0, 0], [], set(), asyncio.Event()

    @classmethod
    def read_handle(cls, context, value):
        id_, credit = read_handle(context, value, SINK)
        it = cls(*credit)
        it.credit = credit
        context.connection.handles.enter(id_, it)
        return it

    def write_handle(self, index):
        return [SOURCE, index, *self.window]

    def passed(self, handles, id_):
        self.handles, self.id = handles, id_

    def grant(self, items, bytes_):
        self.credit = [max(self.credit[0], items), max(self.credit[1], bytes_)]
        self.changed.set()

    def lost(self, error):
        self.error = self.error or error
        self.changed.set()

    async def send(self, item):
        """When there is credit for it."""
        written = bodies.write(item)
        if len(written) > self.window[1] // 2:
            raise RpcError(Code.TOO_LARGE, Outcome.NOT_EXECUTED)
        used = [self.sent[0] + 1, self.sent[1] + len(written)]
        while self.error is None and (used[0] > self.credit[0] or used[1] > self.credit[1]):
            await self._change()
        if self.error:
            raise self.error
        self.sent = used
        self.waiting.append(written)
        if len(self.waiting) == 1:
            asyncio.get_running_loop().call_soon(self._push_soon)

    async def finish(self):
        """Returns when the consumer took in everything."""
        await self._end(None)

    async def fail(self, error):
        """The consumer gets the error after all items."""
        await self._end(bodies.error_map(error))

    async def _end(self, error):
        while self.pushes and not self.error:
            await self._change()
        if not self.error:
            await background(self._push(*self._take_waiting(), True, error))
            self.handles.live.pop(self.id, None)
        if self.error:
            raise self.error

    async def _change(self):
        self.changed.clear()
        await self.changed.wait()

    def _push_soon(self):
        if self.waiting and len(self.pushes) < PUSHES and self.id is not None:
            push = background(self._push(*self._take_waiting(), False, None))
            self.pushes.add(push)
            push.add_done_callback(self._pushed)

    def _pushed(self, push):
        self.pushes.discard(push)
        self.changed.set()
        self._push_soon()

    def _take_waiting(self):
        """The number of the first item, and the items."""
        items, self.waiting = self.waiting, []
        return self.sent[0] - len(items), items

    async def _push(self, first, items, last, error):
        try:
            arguments = self.id, first, len(items), b"".join(items), last, error
            await self.handles.connection.call("@stream.push", *arguments, timeout=DELIVERY_TIMEOUT)
        except RpcError as failed:
            self.handles.live.pop(self.id, None)
            self.lost(failed)


class Consumer:
    """Gives items in order, as an async iterator. Passed on, its other end goes to the peer: the window is credit."""

    def __init__(self, items=1024, bytes_=256 << 10):
        self.window, self.granted = (items, bytes_), (items, bytes_)
        self.used, self.came = (0, 0), (0, 0)
        self.handles = self.id = None
        self.early, self.ready, self.next, self.end = {}, collections.deque(), 0, None  # end: (number, error)
        self.changed = asyncio.Event()

    @classmethod
    def read_handle(cls, context, value):
        id_, credit = read_handle(context, value, SOURCE)
        it = cls(max(1, min(credit[0], 65_536)), max(64, min(credit[1], 16 << 20)))
        context.connection.handles.enter(id_, it)
        it._grant()
        return it

    def write_handle(self, index):
        return [SINK, index, *self.window]

    def passed(self, handles, id_):
        self.handles, self.id = handles, id_

    def lost(self, error):
        if not self._complete():
            self.end = self.next, error
            self.early = {}
            self.changed.set()

    def push(self, first, count, items, last, error):
        """True when all has come. Raises BAD_REQUEST, which ends the stream, when the producer broke the rules."""
        try:
            self._take(first, bodies.read_sized(items, count), len(items), last, error)
        except Exception as broken:
            error = RpcError(Code.BAD_REQUEST, Outcome.NOT_EXECUTED, str(broken))
            self.lost(error)
            raise error from broken
        self.changed.set()
        return self._complete()

    def _take(self, first, items, size, last, error):
        after = first + len(items)
        self.came = self.came[0] + len(items), self.came[1] + size
        if self.came[0] > self.granted[0] or after > self.granted[0] or self.came[1] > self.granted[1]:
            raise ValueError("a push beyond the credit")
        taken = [(0, self.next), *((at, at + len(some)) for at, some in self.early.items())]
        if items and any(first < end and start < after for start, end in taken):
            raise ValueError("a push that overlaps another")
        if self.end and (last or after > self.end[0]) or last and any(end > after for _, end in taken):
            raise ValueError("items behind the end")
        if last:
            self.end = after, error and bodies.read_error(error)
        if items:
            self.early[first] = items
        while self.next in self.early:
            some = self.early.pop(self.next)
            self.next += len(some)
            self.ready.extend(some)

    def _complete(self):
        return self.end is not None and self.end[0] <= self.next

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self.ready:
            if self._complete():
                if self.end[1]:
                    raise self.end[1]
                raise StopAsyncIteration
            self.changed.clear()
            await self.changed.wait()
        item, size = self.ready.popleft()
        self.used = self.used[0] + 1, self.used[1] + size
        if any(granted - used <= window // 2 for granted, used, window in zip(self.granted, self.used, self.window)):
            self._grant()
        return item

    def _grant(self):
        self.granted = self.used[0] + self.window[0], self.used[1] + self.window[1]
        if not self._complete():
            self.handles.tell("@stream.grant", self.id, *self.granted)

    async def stop(self):
        """Nothing more is wanted."""
        if not self._complete():
            self.handles.live.pop(self.id, None)
            await self.handles.connection.call("@stream.stop", [self.id])


class Handles:
    """What either side of a connection passed to the other, by handle-id, and the methods that speak about it."""

    def __init__(self, connection):
        self.connection, self.live, self.held = connection, {}, set()  # held: services of the other side
        self.unclaimed, self.telling = set(), set()
        served = {"@ref.call": self.on_call, "@ref.release": self.on_release, "@handle.claim": self.on_claim}
        served |= {"@stream.push": self.on_push, "@stream.grant": self.on_grant, "@stream.stop": self.on_stop}
        served["@notify"] = self.on_notify
        self.methods = {method_id(name): handler for name, handler in served.items()}

    def passed(self, call, in_answer, handles):
        """What a body of ours carries."""
        if len(self.live) + len(handles) > HANDLES_MAX:
            raise RpcError(Code.SERVER_BUSY, Outcome.NOT_EXECUTED, "too many handles")
        ids = [handle_id(call, in_answer, index) for index in range(len(handles))]
        for id_, it in zip(ids, handles):
            self.enter(id_, it)
        if in_answer and ids:
            self.unclaimed.update(ids)
            self.connection.loop.call_later(CLAIM_WITHIN, self._drop_unclaimed, ids)

    def enter(self, id_, it):
        self.connection.expect()
        self.live[id_] = it
        it.passed(self, id_)

    def hold(self, id_):
        self.connection.expect()
        self.held.add(id_)

    def in_use(self):
        return bool(self.live or self.held)

    def take_back(self, call, handles, error):
        """A call that failed takes what it carried with it."""
        for index in range(len(handles)):
            self._drop(handle_id(call, False, index), error)

    def read_answer(self, call, kind, value):
        """What a handle that is the answer stands for. It is claimed."""
        it = kind.read_handle(Arrival(self.connection, call, True), value)
        self.tell("@handle.claim", [it.id])
        return it

    def tell(self, name, *arguments):
        """Without waiting for the answer: whom it is about may be gone."""

        async def tell():
            try:
                await self.connection.call(name, *arguments, timeout=DELIVERY_TIMEOUT)
            except RpcError as error:
                if error.code not in (Code.METHOD_NOT_FOUND, Code.CONNECTION_LOST):
                    raise

        task = background(tell())
        self.telling.add(task)
        task.add_done_callback(self.telling.discard)

    def lost(self, error):
        for it in self.live.values():
            it.lost(error)
        self.live.clear()

    def _drop(self, id_, error):
        it = self.live.pop(id_, None)
        if it:
            it.lost(error)

    def _drop_unclaimed(self, ids):
        for id_ in self.unclaimed.intersection(ids):
            self.unclaimed.discard(id_)
            self._drop(id_, RpcError(Code.TIMEOUT, Outcome.UNKNOWN, "the answer was not read"))

    def _find(self, kind, id_):
        it = self.live.get(id_)
        if not isinstance(it, kind):
            raise RpcError(Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED, f"no {kind.__name__} {id_}")
        return it

    # --- the reserved methods ----------------------------------------------------------------------------------------

    async def on_call(self, context: Context, id_: int, method: int, body: bytes):
        handler = self._find(Service, id_).methods.get(method)
        status, answer, handles = await bodies.execute(handler, context, body)
        self.passed(context.call, True, handles)
        return Raw(status, answer)

    async def on_release(self, ids: list):
        for id_ in ids:
            self.unclaimed.discard(id_)
            if isinstance(self.live.get(id_), Service):
                self._drop(id_, None)

    async def on_claim(self, ids: list):
        self.unclaimed.difference_update(ids)

    async def on_push(self, id_: int, first: int, count: int, items: bytes, last: bool, error: object):
        consumer = self._find(Consumer, id_)
        try:
            over = consumer.push(first, count, items, last, error)
        except RpcError:
            self.live.pop(id_)
            raise
        if over:
            self.live.pop(id_)

    async def on_grant(self, id_: int, items: int, bytes_: int):
        self._find(Producer, id_).grant(items, bytes_)

    async def on_stop(self, ids: list):
        (id_,) = ids
        self._find(Producer, id_).lost(RpcError(Code.CANCELLED, Outcome.EXECUTED, "the consumer is gone"))
        self.live.pop(id_)

    async def on_notify(self, context: Context, method: int, body: bytes):
        """Answered when the method has started: what it takes is read before."""
        handler = self.connection.peer.methods.get(method)
        if not handler:
            raise RpcError(Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED)
        try:
            arguments = bodies.read_arguments(handler, context, body)
        except Exception as error:
            raise RpcError(Code.BAD_REQUEST, Outcome.NOT_EXECUTED, str(error)) from error

        async def run():
            try:
                await handler(*arguments)
            except (MethodError, RpcError):
                pass  # what it answers goes nowhere

        task = asyncio.ensure_future(run())
        self.telling.add(task)
        task.add_done_callback(self.telling.discard)


class Arrival(collections.namedtuple("Arrival", "connection call in_answer")):
    """The message that a handle came in."""
