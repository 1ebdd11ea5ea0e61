"""Methods, statuses, CBOR, errors: sections 8 and 9; what travels around a body is in envelope.py."""

import contextvars
import inspect
import io
from enum import IntEnum
from typing import NamedTuple

import cbor2

from . import envelope
from .envelope import Meta, TooLarge


class Code(IntEnum):
    BAD_REQUEST = 1
    METHOD_NOT_FOUND = 2
    TIMEOUT = 3
    INTERNAL = 4
    UNAUTHORIZED = 5
    SERVER_BUSY = 6
    CANCELLED = 7
    CONNECTION_LOST = 8
    TOO_LARGE = 9
    VERSION = 10
    FORBIDDEN = 11
    ABORTED = 12
    DRAINING = 13
    UNKNOWN_OUTCOME = 14
    LOCKED = 15
    CODEC = 16


class Outcome(IntEnum):
    NOT_EXECUTED = 0
    EXECUTED = 1
    UNKNOWN = 2


NOT_EXECUTED_WHEN_EMPTY = {
    Code.TIMEOUT, Code.SERVER_BUSY, Code.DRAINING, Code.METHOD_NOT_FOUND, Code.BAD_REQUEST, Code.TOO_LARGE,
}


class MethodError(Exception):
    """The method's own error; `value` is what it is in CBOR."""

    def __init__(self, value):
        super().__init__(value)
        self.value = value


class RpcError(Exception):
    """An error of the system. `details` is the whole error map."""

    def __init__(self, code, outcome, message="", details=None):
        super().__init__(f"{code} {outcome}: {message}")
        self.code, self.outcome, self.message, self.details = code, outcome, message, details or {}


def method_id(name):
    it = 0x811C9DC5
    for byte in name.encode():
        it = (it ^ byte) * 0x01000193 & 0xFFFFFFFF
    return it & 0x3FFFFFFF


def write(value, handles=None):
    """Services and ends of streams in `value` (section 10.2) are added to `handles`, in the order of their indexes."""

    def write_handle(encoder, it):
        if handles is None or not hasattr(it, "write_handle"):
            raise ValueError(f"{it!r} does not travel")
        handles.append(it)
        encoder.encode(it.write_handle(len(handles) - 1))

    return cbor2.dumps(value, canonical=True, default=write_handle)


def read(data):
    """One item and nothing after it."""
    (value,) = read_sequence(data, 1)
    return value


def read_sequence(data, count):
    """So many items one after another (RFC 8742), and nothing after them."""
    return [value for value, _ in read_sized(data, count)]


def read_sized(data, count):
    """The items of a sequence, each with its size in bytes."""
    stream, items, start = io.BytesIO(data), [], 0
    for _ in range(count):
        value = cbor2.CBORDecoder(stream).decode()
        items.append((value, stream.tell() - start))
        start = stream.tell()
    if start != len(data):
        raise ValueError("bytes after the last item")
    return items


def write_arguments(arguments, handles=None):
    return write(list(arguments) if len(arguments) > 1 else arguments[0] if arguments else None, handles)


def error_map(error):
    return {0: int(error.code), 1: int(error.outcome), 2: error.message}


def read_error(value):
    outcome = value.get(1)
    return RpcError(value[0], Outcome(outcome if outcome in (0, 1) else 2), value.get(2, ""), value)


def write_error(error):
    return 16 + int(error.code), write(error_map(error))


def read_response(status, flags, body, body_max):
    """The result; raises what else came."""
    try:
        _, body = envelope.unpack(flags, body, body_max)
        value = read(body) if body or status < 16 else None
    except Exception as error:
        raise RpcError(Code.CODEC, Outcome.EXECUTED, str(error)) from error
    if status == 0:
        return value
    if status == 1:
        raise MethodError(value)
    if value is None:
        empty = Outcome.NOT_EXECUTED if status - 16 in NOT_EXECUTED_WHEN_EMPTY else Outcome.UNKNOWN
        raise RpcError(status - 16, empty)
    raise read_error(value)


class Context(NamedTuple):
    """What a handler may know about the call that it serves: a parameter of this type is given it."""

    connection: object
    call: int
    method: int
    meta: Meta
    deadline: float  # on the event loop's clock
    in_answer = False  # handles of the body are those of a request

    def trace_onward(self):
        """Section 9.5: what the calls that this one makes carry; nothing if it is not traced."""
        return self.meta.trace and (self.meta.trace, [*self.meta.hops, self.method])


SERVED = contextvars.ContextVar("SERVED", default=None)  # the Context of the handler that runs


class Raw(NamedTuple):
    """What a handler returns that has written its answer itself."""

    status: int
    body: bytes


async def dispatch(handler, context, flags, message):
    """Status and body of the answer to a request, and the handles in it."""
    try:
        meta, body = envelope.unpack(flags, message, context.connection.peer.params.message_size_max)
    except TooLarge as error:
        return refuse(Code.TOO_LARGE, error)
    except Exception as error:
        return refuse(Code.BAD_REQUEST, error)
    return await execute(handler, context._replace(meta=meta), body)


async def execute(handler, context, body):
    """As `dispatch`. The annotations of a handler's parameters are the types that it takes."""
    if not handler:
        return refuse(Code.METHOD_NOT_FOUND, f"no method {context.method:#x}")
    try:
        arguments = read_arguments(handler, context, body)
    except Exception as error:
        return refuse(Code.BAD_REQUEST, error)
    SERVED.set(context)
    handles = []
    try:
        answer = await handler(*arguments)
        status, body = answer if isinstance(answer, Raw) else (0, write(answer, handles))
        return status, body, handles
    except MethodError as error:
        return 1, write(error.value), []
    except RpcError as error:
        return *write_error(error), []
    except Exception as error:
        return *write_error(RpcError(Code.INTERNAL, Outcome.UNKNOWN, str(error))), []


def refuse(code, why):
    return *write_error(RpcError(code, Outcome.NOT_EXECUTED, str(why))), []


def keyed(handler):
    """Marks a method that keeps a table of idempotency keys; other methods are not given any."""
    handler.keyed = True
    return handler


def read_arguments(handler, context, body):
    types = [it.annotation for it in inspect.signature(handler).parameters.values()]
    count = sum(type is not Context for type in types)
    if context.meta.key and not getattr(handler, "keyed", False):
        raise ValueError("an idempotency key for a method that keeps no table of them")
    value = read(body)
    values = iter(value if count > 1 else [value] if count else [])
    arguments = [context if type is Context else _read_as(type, context, next(values)) for type in types]
    if any(True for _ in values) or not count and value is not None:
        raise ValueError(f"more arguments than {inspect.signature(handler)}")
    return arguments


def _read_as(type_, context, value):
    if hasattr(type_, "read_handle"):
        return type_.read_handle(context, value)
    if type_ is not object and type(value) is not type_:
        raise ValueError(f"{value!r} is not of {type_}")
    return value
