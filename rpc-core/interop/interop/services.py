"""The methods of the Rust example, served by Python."""

import asyncio
import collections

from . import handles
from .bodies import Code, Context, MethodError, Outcome, RpcError, keyed
from .handles import Consumer, Producer, Remote


class Counter(handles.Service):
    """A service that is passed."""

    def __init__(self):
        super().__init__({"next": self.next, "ask": self.ask})

    async def next(self, number: int):
        return number + 1

    async def ask(self, number: int, other: Remote):
        return await other.call("next", number)


class Service:
    """The methods of the example, served by Python."""

    def __init__(self):
        self.tallied, self.stopped, self.noted = collections.Counter(), 0, 0
        self.made, self.total, self.tasks = [], None, set()

    def methods(self):
        return {
            "calc.add": self.add, "calc.divide": self.divide, "echo": self.echo, "echo.small": self.echo,
            "slow": self.slow, "stopped": self.count_stopped, "tally.add": self.tally, "tally.report": self.report,
            "ref.sum": self.sum_of, "ref.make": self.make, "ref.alive": self.count_alive,
            "stream.count": self.count, "stream.fail": self.fail, "stream.sum": self.sum, "stream.take": self.take,
            "stream.double": self.double, "stream.collect": self.collect, "stream.collected": self.collected,
            "meta.show": self.show, "meta.back": self.back, "note.add": self.note, "note.sum": self.noted_sum,
        }

    async def add(self, a: int, b: int):
        return a + b

    async def divide(self, a: int, b: int):
        if b == 0:
            raise MethodError(None)
        return a // b

    async def echo(self, body: bytes):
        return body

    async def tally(self, number: int):
        self.tallied[number] += 1
        return number

    async def report(self):
        return [len(self.tallied), max(self.tallied.values())]

    async def slow(self, ms: int):
        try:
            await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return ms

    async def count_stopped(self):
        return self.stopped

    # --- services and streams ----------------------------------------------------------------------------------------

    async def sum_of(self, count: int, counter: Remote):
        total = sum([await counter.call("next", number) for number in range(count)])
        await counter.release()
        return total

    async def make(self):
        self.made.append(Counter())
        return self.made[-1]

    async def count_alive(self):
        return sum(not it.released.is_set() for it in self.made)

    async def count(self, count: int):
        producer = Producer()
        self._spawn(self._produce(producer, range(count)))
        return producer

    async def fail(self, count: int, numbers: Producer):
        for number in range(count):
            await numbers.send(number)
        await numbers.fail(RpcError(Code.FORBIDDEN, Outcome.EXECUTED, "enough"))

    async def sum(self, numbers: Consumer):
        return sum([number async for number in numbers])

    async def double(self, numbers: Consumer, doubled: Producer):
        async for number in numbers:
            await doubled.send(2 * number)
        await doubled.finish()

    async def take(self, count: int, numbers: Consumer):
        total = sum([await anext(numbers) for _ in range(count)])
        await numbers.stop()
        return total

    async def collect(self):
        consumer = Consumer(items=10, bytes_=1 << 10)
        self._spawn(self._sum_later(consumer))
        return consumer

    async def collected(self):
        return self.total

    async def _produce(self, producer, numbers):
        for number in numbers:
            await producer.send(number)
        await producer.finish()

    async def _sum_later(self, consumer):
        self.total = await self.sum(consumer)

    def _spawn(self, work):
        task = handles.background(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- what travels beside bodies ----------------------------------------------------------------------------------

    @keyed
    async def show(self, context: Context):
        meta, left = context.meta, context.deadline - asyncio.get_running_loop().time()
        return {
            "trace": meta.trace and [meta.trace, list(meta.hops)], "key": meta.key, "extra": meta.extra.get(64),
            "left_ms": int(1000 * left),
        }

    async def back(self, context: Context):
        return await context.connection.call("meta.show")

    async def note(self, number: int):
        self.noted += number

    async def noted_sum(self):
        return self.noted
