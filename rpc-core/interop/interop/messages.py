"""Messages in parts, and their grants: section 6."""

from .wire import HAS_HEAD, HAS_TOTAL, LANE, Malformed, Part

PART_SIZE = 1100


class Outgoing:
    """A large message on its way: which parts still have to go, and which were not acknowledged yet."""

    def __init__(self, call, flags, head, body):
        self.call, self.flags, self.head, self.body = call, flags | HAS_TOTAL, head, body
        self.lane, self.started = flags & LANE, False
        self.ends = {at: min(at + PART_SIZE, len(body)) for at in range(0, len(body), PART_SIZE)}  # not acknowledged
        self.to_send = sorted(self.ends, reverse=True)  # the next one stands last
        self.upto = None  # of GRANT

    def next_part(self):
        """The next part that a grant allows; its head is as it was given."""
        if not self.to_send:
            return None
        start = self.to_send[-1]
        end = self.ends[start]
        if self.upto is None or end <= self.upto:
            self.to_send.pop()
        elif start < self.upto:  # what is above the grant becomes a part of its own
            self.ends[start], self.ends[self.upto] = self.upto, end
            self.to_send[-1] = end = self.upto
        else:
            return None
        flags = self.flags if start else self.flags | HAS_HEAD
        return Part(self.call, flags, start, len(self.body), None if start else self.head, self.body[start:end])

    def acknowledged(self, start):
        """True when all is there."""
        self.ends.pop(start, None)
        return not self.ends

    def lost(self, start):
        self.to_send = sorted({start, *self.to_send}, reverse=True)

    def granted(self, upto):
        self.upto = max(upto, self.upto or 0)


class Incoming:
    """A large message as it comes in, in any order and cut anyhow."""

    def __init__(self, part):
        self.total, self.lane, self.flags, self.head = part.total, part.flags & LANE, None, None
        self.body, self.holes = bytearray(), [(0, part.total)]

    def add(self, part):
        """True when all bytes are there."""
        if part.total != self.total:
            raise Malformed("two sizes of one message")
        if part.head is not None:
            self.flags, self.head = part.flags, part.head
        start, end = part.offset, part.offset + len(part.data)
        self.body.extend(bytes(max(0, end - len(self.body))))
        self.body[start:end] = part.data
        left = []
        for low, high in self.holes:
            left += [it for it in ((low, min(high, start)), (max(low, end), high)) if it[0] < it[1]]
        self.holes = left
        return not left
