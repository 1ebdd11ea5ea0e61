"""Methods, statuses, CBOR, errors: sections 8 and 9."""

import inspect
import io
from enum import IntEnum

import cbor2

from .wire import COMPRESSED, META


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


def write(value):
    return cbor2.dumps(value, canonical=True)


def read(data):
    """One item and nothing after it."""
    stream = io.BytesIO(data)
    value = cbor2.CBORDecoder(stream).decode()
    if stream.tell() != len(data):
        raise ValueError("bytes after the item")
    return value


def write_arguments(arguments):
    return write(list(arguments) if len(arguments) > 1 else arguments[0] if arguments else None)


def without_meta(flags, body):
    if not flags & META:
        return body
    stream = io.BytesIO(body[:1024])
    if not isinstance(cbor2.CBORDecoder(stream).decode(), dict):
        raise ValueError("metadata that is not a map")
    return body[stream.tell() :]


def write_error(error):
    details = {0: int(error.code), 1: int(error.outcome), 2: error.message}
    return 16 + int(error.code), write(details)


def read_response(status, flags, body):
    """The result; raises what else came."""
    try:
        if flags & COMPRESSED:
            raise ValueError("compressed, which was not offered")
        body = without_meta(flags, body)
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
    outcome = value.get(1)
    raise RpcError(value[0], outcome if outcome in (0, 1) else 2, value.get(2, ""), value)


async def dispatch(methods, method, flags, body):
    """Status and body of the answer. The annotations of a handler's parameters are the types that it takes."""
    handler = methods.get(method)
    if not handler:
        return write_error(RpcError(Code.METHOD_NOT_FOUND, Outcome.NOT_EXECUTED, f"no method {method:#x}"))
    types = [it.annotation for it in inspect.signature(handler).parameters.values()]
    try:
        if flags & COMPRESSED:
            raise ValueError("compressed, which was not offered")
        value = read(without_meta(flags, body))
        arguments = value if len(types) > 1 else [value] if types else []
        if len(arguments) != len(types) or any(type(a) is not t for a, t in zip(arguments, types)):
            raise ValueError(f"arguments of other types than {inspect.signature(handler)}")
    except Exception as error:
        return write_error(RpcError(Code.BAD_REQUEST, Outcome.NOT_EXECUTED, str(error)))
    try:
        return 0, write(await handler(*arguments))
    except MethodError as error:
        return 1, write(error.value)
    except RpcError as error:
        return write_error(error)
    except Exception as error:
        return write_error(RpcError(Code.INTERNAL, Outcome.UNKNOWN, str(error)))
