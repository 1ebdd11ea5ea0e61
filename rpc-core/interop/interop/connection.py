"""A connection: acknowledgements and loss (section 5), messages (6), calls (7), its end (11)."""

import asyncio
import os
from collections import Counter, deque

from . import bodies, envelope
from .bodies import SERVED, Code, Context, MethodError, Outcome, RpcError
from .envelope import Meta
from .handles import Handles
from .messages import Incoming, Outgoing
from .wire import (
    ACKNOWLEDGED_SIZE, COMPRESSED, IDEMPOTENT, LANE, META, NORMAL_LANE, OF_RESPONSE, SETUP_SIZE, SHORT_HEADER, TAG,
    Accepted, Ack, Cancel, Close, Drain, Grant, Malformed, MaxData, Part, PathChallenge, PathResponse, Ping, Req, Resp,
    Seen, full_number, read_frames, write_frame,
)

ROOM = SETUP_SIZE - SHORT_HEADER - TAG  # for frames in a packet that every path carries
MAX_DATA = 16 << 20
KEEP_ALIVE = 3.0
STORED_ANSWERS = 4 << 20
ROTATE_AFTER = 1 << 23


class Ranges:
    """Numbers of received packets. What is below `floor` counts as received."""

    def __init__(self):
        self.ranges, self.floor = [], 0  # (lowest, highest), descending

    def largest(self):
        return self.ranges[0][1] if self.ranges else -1

    def __contains__(self, number):
        return number < self.floor or any(low <= number <= high for low, high in self.ranges)

    def add(self, number):
        merged = []
        for low, high in sorted(self.ranges + [(number, number)], reverse=True):
            if merged and high + 1 >= merged[-1][0]:
                low, high = low, merged.pop()[1]
            merged.append((low, high))
        self.ranges = merged
        if len(merged) > 64:
            self.forget_below(merged[-1][1] + 1)

    def forget_below(self, number):
        self.floor = max(self.floor, number)
        self.ranges = [it for it in self.ranges if it[1] >= self.floor]


class SentPacket:
    def __init__(self, time, frames, phase):
        self.time, self.frames, self.phase = time, frames, phase


class OpenCall:
    def __init__(self, future, deadline):
        self.future, self.deadline, self.sent = future, deadline, False


def kinds(frame):
    """What a frame counts as."""
    flags = getattr(frame, "flags", 0)
    names = (type(frame).__name__, flags & META and "META", flags & COMPRESSED and "COMPRESSED")
    return [name for name in names if name]


class Connection:
    def __init__(self, peer, address, local, remote, keys, initiator, theirs):
        self.peer, self.address, self.local, self.remote, self.keys = peer, address, local, remote, keys
        self.initiator, self.theirs = initiator, theirs
        self.loop = asyncio.get_running_loop()
        self.connected, self.ended, self.closing = initiator, None, None
        self.idle_timeout = max(100, min(theirs.idle_timeout_ms, peer.params.idle_timeout_ms)) / 1000
        # packets
        self.next_number, self.largest_acked, self.sent = 0, -1, {}
        self.received, self.unanswered, self.ack_at, self.largest_at = Ranges(), 0, None, 0.0
        self.srtt, self.rttvar, self.latest, self.rtt_min = 0.010, 0.005, 0.010, None
        self.window, self.threshold, self.recovery = 32.0, 1 << 30, -1
        self.expiries, self.probes, self.last_sent = 0, 0, 0.0
        self.phase_started, self.phase_acked = 0, False
        self.heard = self.expecting_since = self.pinged = self.loop.time()
        self.challenge = None
        # frames to send
        self.control, self.small, self.large = deque(), deque(), {}
        self.max_data, self.draining, self.peer_drains = 0, False, False
        # our calls
        self.next_call, self.open, self.told_floor = 0 if initiator else 1, {}, 0
        # their calls: `taken` holds the stored answer, or None while it runs and when there is none
        self.taken, self.running, self.cancelled, self.floor, self.stored = {}, {}, set(), 0, 0
        self.incoming, self.room, self.held = {}, {}, {}  # sizes: with memory (begun or granted), without
        self.given_up = {}  # what holds its share of the window until CANCEL is known
        self.handles = Handles(self)
        self.third = None  # the task that repeats message 3
        self.timer, self.came, self.went = None, Counter(), Counter()  # frames by `kinds`
        if initiator:
            self.on_connected()

    def on_connected(self):
        self.connected = True
        self.control.append(MaxData(MAX_DATA))
        self.soon = self.loop.call_soon(self.flush)

    # --- our calls ---------------------------------------------------------------------------------------------------

    async def call(self, name, *arguments, timeout=5.0, idempotent=False, lane=NORMAL_LANE, compress=False,
                   meta=Meta(), returns=None, handles=None):
        """`returns`: what the handle in the answer stands for here (`Remote`, `Producer` or `Consumer`). `handles`: what
        the handles of a body within the arguments stand for."""
        handles = [] if handles is None else handles
        body = bodies.write_arguments(arguments, handles)
        number = self.next_call
        if self.ended:
            raise self.ended
        if self.peer_drains:
            raise RpcError(Code.DRAINING, Outcome.NOT_EXECUTED)
        if len(body) > self.theirs.message_size_max:
            raise RpcError(Code.TOO_LARGE, Outcome.NOT_EXECUTED)
        if len(self.open) >= self.theirs.calls_max:
            raise RpcError(Code.SERVER_BUSY, Outcome.NOT_EXECUTED)
        served = SERVED.get()
        if served:
            meta, timeout = self._onward(served, meta), min(timeout, served.deadline - self.loop.time())
        form, message = envelope.pack(meta, body, compress and self.theirs.features & 1)
        self.handles.passed(number, False, handles)
        self.next_call += 2
        self.expect()
        call = self.open[number] = OpenCall(self.loop.create_future(), self.loop.time() + timeout)
        flags, head = form | lane | (IDEMPOTENT if idempotent else 0), (bodies.method_id(name), 0, 0)
        self._send_message(Req(number, head[0], flags, 0, 0, message), Outgoing(number, flags, head, message))
        try:
            answer = await self._answer_of(number, call, timeout)
        except RpcError as error:
            self.handles.take_back(number, handles, error)
            raise
        except asyncio.CancelledError:
            self.handles.take_back(number, handles, RpcError(Code.CANCELLED, Outcome.UNKNOWN))
            raise
        return self.handles.read_answer(number, returns, answer) if returns else answer

    @staticmethod
    def _onward(served, meta):
        """Section 9.5: a call that is made while a traced one is served."""
        trace, hops = served.trace_onward() or (None, ())
        if not trace:
            return meta
        if len(hops) > envelope.HOPS_MAX:
            raise RpcError(Code.BAD_REQUEST, Outcome.NOT_EXECUTED, "a call that runs in a circle")
        return meta._replace(trace=trace, span=int.from_bytes(os.urandom(8), "big"), hops=hops)

    async def _answer_of(self, number, call, timeout):
        try:
            return await asyncio.wait_for(call.future, timeout)
        except asyncio.TimeoutError:
            self._give_up(number, call, Code.TIMEOUT)
            raise RpcError(Code.TIMEOUT, Outcome.UNKNOWN if call.sent else Outcome.NOT_EXECUTED) from None
        except asyncio.CancelledError:
            self._give_up(number, call, Code.CANCELLED)
            raise

    def _give_up(self, number, call, code):
        large = self.large.get(number)
        self._end_call(number)
        if call.sent and not self.ended:
            if large and large.started:
                self.given_up[number] = large
            self.control.append(Cancel(number, code))
            self.flush()

    def _end_call(self, number):
        self.large.pop(number, None)
        self._drop_incoming(number)
        return self.open.pop(number, None)

    def _drop_incoming(self, number):
        self.incoming.pop(number, None)
        self._release(number)

    def _response(self, number, status, flags, body):
        call = self._end_call(number)
        if call and not call.future.done():
            try:
                body_max = self.peer.params.message_size_max
                call.future.set_result(bodies.read_response(status, flags, body, body_max))
            except (RpcError, MethodError) as error:
                call.future.set_exception(error)

    # --- their calls -------------------------------------------------------------------------------------------------

    def _request(self, number, method, flags, left_us, body):
        if number < self.floor or number in self.running:
            return
        if number in self.taken:
            if self.taken[number]:
                self._send_message(*self.taken[number])
            elif number not in self.cancelled:
                self._answer(number, flags & LANE, 16 + Code.UNKNOWN_OUTCOME, b"")
            return
        self.taken[number] = None
        if self.draining:
            self._answer(number, flags & LANE, 16 + Code.DRAINING, b"")
        elif left_us == 0:
            self._answer(number, flags & LANE, 16 + Code.TIMEOUT, b"")
        elif len(self.running) >= self.peer.params.calls_max:
            self._answer(number, flags & LANE, 16 + Code.SERVER_BUSY, b"")
        else:
            context = Context(self, number, method, Meta(), self.loop.time() + left_us / 1e6)
            self.running[number] = self.loop.create_task(self._serve(context, flags, body))
            self.loop.call_later(self._probe_timeout(), self._accept, number)

    async def _serve(self, context, flags, body):
        """Until its end or CANCEL; the deadline is left to the caller. What came compressed is answered so."""
        handler = self.handles.methods.get(context.method) or self.peer.methods.get(context.method)
        status, answer, handles = await bodies.dispatch(handler, context, flags, body)
        if self.running.pop(context.call, None):
            self.handles.passed(context.call, True, handles)
            form, answer = envelope.pack(Meta(), answer, flags & COMPRESSED and self.theirs.features & 1)
            self._answer(context.call, flags & LANE | form, status, answer)
            self.flush()

    def _accept(self, number):
        if number in self.running:
            self.control.append(Accepted(number))
            self.flush()

    def _answer(self, number, flags, status, body):
        answer = Resp(number, status, flags, body), Outgoing(number, flags | OF_RESPONSE, (status,), body)
        self.taken[number] = answer
        self.stored += len(body)
        for old in sorted(self.taken):
            if self.stored > STORED_ANSWERS and self.taken[old] and old != number and old not in self.large:
                self._forget_answer(old)
        self._send_message(*answer)

    def _forget_answer(self, number):
        answer = self.taken.get(number)
        self.stored -= len(answer[0].body) if answer else 0
        self.taken[number] = None

    def drain(self):
        """No new call of the peer is taken."""
        self.draining = True
        self.control.append(Drain(max(self.taken, default=self.floor), 0))
        self.flush()

    # --- sending -----------------------------------------------------------------------------------------------------

    def _send_message(self, small, large):
        if len(write_frame(self._with_times(small))) <= ROOM:
            self.small.append(small)
        elif large.call not in self.large:
            self.large[large.call] = large
        self.flush()

    def flush(self):
        """Sends what may be sent now."""
        if self.ended or not self.connected:
            return
        while self.probes or len(self.sent) < self.window:
            frames = self._next_frames() or ([Ping()] if self.probes else [])
            if not frames:
                break
            self.probes = max(0, self.probes - 1)
            self._send_packet(frames)
        if self.ack_at is not None and (self.unanswered >= 2 or self.ack_at <= self.loop.time()):
            self._send_packet([])
        self._arm()

    def _next_frames(self):
        frames, room = [], ROOM
        floor = min(self.open, default=self.next_call)
        for queue in (self.control, self.small):
            while queue:
                if not self._matters(queue[0]):
                    queue.popleft()
                    continue
                it = self._with_times(queue[0])
                room -= len(write_frame(it))
                if room < 0:
                    return frames
                frames.append(it)
                queue.popleft()
        while room >= 1150:
            part = self._next_part()
            if not part:
                break
            frames.append(self._with_times(part))
            room -= len(write_frame(frames[-1]))
        if frames and floor > self.told_floor and room >= 9:
            self.told_floor = floor
            frames.append(Seen(floor))
        return frames

    def _next_part(self):
        """Each message in turn."""
        for message in list(self.large.values()):
            if not message.started:
                others = [*self.large.values(), *self.given_up.values()]
                started = [len(m.body) for m in others if m.started and m.lane == message.lane]
                message.started = not started or sum(started) + len(message.body) <= self.max_data
            part = message.started and message.next_part()
            if part:
                self.large[message.call] = self.large.pop(message.call)
                return part
        return None

    def _with_times(self, it):
        """Writes the times of a request anew, and notes that it goes."""
        mine = isinstance(it, Req) or isinstance(it, Part) and not it.flags & OF_RESPONSE
        if not mine or it.call not in self.open:
            return it
        now, call = self.loop.time(), self.open[it.call]
        times = max(0, int((call.deadline - now) * 1e6)), int(now * 1e6)
        if isinstance(it, Req):
            return it._replace(left_us=times[0], sent_us=times[1])
        return it._replace(head=(it.head[0], *times)) if it.head else it

    def _matters(self, it):
        if isinstance(it, Req):
            return it.call in self.open
        if isinstance(it, Resp):
            return it.call in self.taken
        if isinstance(it, Accepted):
            return it.call in self.running
        return True

    def _send_packet(self, frames):
        now = self.loop.time()
        for it in frames:
            if isinstance(it, (Req, Part)) and it.call in self.open:
                self.open[it.call].sent = True
            self.went.update(kinds(it))
        data = b"".join(map(write_frame, frames))
        if self.received.ranges:
            ack = Ack(self.received.ranges[:32], max(0, int((now - self.largest_at) * 1e6)))
            written = write_frame(ack)
            if len(data) + len(written) <= ROOM:
                data, self.unanswered, self.ack_at = written + data, 0, None
                frames = [ack, *frames]
        number, self.next_number = self.next_number, self.next_number + 1
        if any(not isinstance(it, (Ack, Close)) for it in frames):
            data = data.ljust(ACKNOWLEDGED_SIZE - SHORT_HEADER - TAG, b"\0")
            self.expect()
            self.sent[number], self.last_sent = SentPacket(now, frames, self.keys.phase), now
        self._rotate(number)
        self.peer.transmit(self.keys.seal(self.remote, number, data), self.address)

    def _rotate(self, number):
        if self.keys.encrypted and self.phase_acked and number - self.phase_started >= self.peer.rotate_after:
            self.keys.rotate()
            self.phase_started, self.phase_acked = number, False

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, datagram, address):
        number = full_number(int.from_bytes(datagram[9:13], "big"), self.received.largest() + 1)
        if number in self.received:
            return
        phase = self.keys.received_phase
        data = self.keys.open(datagram, number)
        if data is None:
            return
        if self.ended:
            self._answer_with_close()
            return
        if self.keys.received_phase != phase:
            self.loop.call_later(3 * self._probe_timeout(), self.keys.forget, self.keys.previous)
        now = self.heard = self.loop.time()
        if self.third:
            self.third.cancel()
        if not self.connected:
            self.on_connected()
            self.peer.on_connected(self)
        try:
            frames = read_frames(data)
            if not self._has_room(frames):
                self.flush()
                return
            if number > self.received.largest() and address != self.address:
                self._challenge(address)
            self._acknowledge_later(number, frames, now)
            for it in frames:
                self.came.update(kinds(it))
                getattr(self, "_on_" + type(it).__name__.lower())(it, address)
                if self.ended:
                    return
        except Malformed as violation:
            self.close(2, str(violation))
        self.flush()

    def _has_room(self, frames):
        """Whether there is memory for the large messages that begin here. If not the packet counts as lost."""
        room = True
        for it in frames:
            if isinstance(it, Part) and self._is_new(it) and it.call not in self.room:
                if it.call in self.held or not self._reserve(it.call, it.total):
                    room = False
                    if it.call not in self.held:
                        self.held[it.call] = it.total
                        self.control.append(Grant(it.call, 0))
        return room

    def _reserve(self, call, size):
        if self.room and sum(self.room.values()) + size > self.peer.memory:
            return False
        self.room[call] = size
        return True

    def _release(self, call):
        """The shortest message that waits goes next."""
        self.room.pop(call, None)
        self.held.pop(call, None)
        for call, size in sorted(self.held.items(), key=lambda it: it[1]):
            if self._reserve(call, size):
                self.control.append(Grant(call, self.held.pop(call)))

    def _is_new(self, part):
        if part.call in self.incoming:
            return False
        if part.flags & OF_RESPONSE:
            return part.call in self.open
        return part.call >= self.floor and part.call not in self.taken

    def _acknowledge_later(self, number, frames, now):
        in_order = number == self.received.largest() + 1
        if number > self.received.largest():
            self.largest_at = now
        self.received.add(number)
        if any(not isinstance(it, (Ack, Close)) for it in frames):
            self.unanswered += 1 if in_order else 2
            if self.ack_at is None:
                self.ack_at = now + self.peer.params.ack_delay_max_us / 1e6

    def _on_ping(self, it, address):
        pass

    def _on_req(self, it, address):
        self._check_theirs(it.call)
        self._request(it.call, it.method, it.flags, it.left_us, it.body)

    def _on_resp(self, it, address):
        self._check_ours(it.call)
        self._response(it.call, it.status, it.flags, it.body)

    def _on_part(self, it, address):
        response = it.flags & OF_RESPONSE
        (self._check_ours if response else self._check_theirs)(it.call)
        if it.total > self.peer.params.message_size_max:
            raise Malformed("a message above the limit")
        message = self.incoming.get(it.call)
        if not message and not self._is_new(it):
            return
        if not message:
            message = self.incoming[it.call] = Incoming(it)
            lane = [m.total for m in self.incoming.values() if m.lane == message.lane]
            if len(lane) > 1 and sum(lane) > MAX_DATA:
                raise Malformed("messages above the window")
        if message.add(it):
            del self.incoming[it.call]
            self._release(it.call)
            if response:
                self._response(it.call, message.head[0], message.flags, bytes(message.body))
            else:
                self._request(it.call, message.head[0], message.flags, message.head[1], bytes(message.body))

    def _on_cancel(self, it, address):
        self._check_theirs(it.call)
        if it.call >= self.floor:
            self._forget_answer(it.call)
            self.cancelled.add(it.call)
            self._drop_incoming(it.call)
            self.large.pop(it.call, None)
            task = self.running.pop(it.call, None)
            if task:
                task.cancel()

    def _on_seen(self, it, address):
        self.floor = max(self.floor, it.floor)
        for call in [call for call in self.taken if call < self.floor]:
            self._forget_answer(call)
            del self.taken[call]
            self.large.pop(call, None)
        self.cancelled = {call for call in self.cancelled if call >= self.floor}

    def _on_accepted(self, it, address):
        self._check_ours(it.call)

    def _on_maxdata(self, it, address):
        self.max_data = max(self.max_data, it.bytes)

    def _on_grant(self, it, address):
        if it.call in self.large:
            self.large[it.call].granted(it.upto)

    def _on_drain(self, it, address):
        self.peer_drains = True

    def _on_close(self, it, address):
        reason = it.reason.decode(errors="replace")
        self._end(RpcError(Code.CONNECTION_LOST, Outcome.UNKNOWN, f"closed with {it.code} {reason}"))

    def _on_pathchallenge(self, it, address):
        self._send_to(PathResponse(it.data), address)

    def _on_pathresponse(self, it, address):
        if self.challenge == (address, it.data):
            self.address, self.challenge = address, None
            self.window, self.srtt, self.rttvar, self.rtt_min = 32.0, 0.010, 0.005, None

    def _challenge(self, address):
        """Asked with every packet from there until it answers; never more bytes than came."""
        if not self.challenge or self.challenge[0] != address:
            self.challenge = address, int.from_bytes(os.urandom(8), "big")
        self._send_to(PathChallenge(self.challenge[1]), address)

    def _send_to(self, it, address):
        old, self.address = self.address, address
        self._send_packet([it])
        self.address = old

    def _check_ours(self, number):
        if number % 2 == (0 if self.initiator else 1) and number < self.next_call:
            return
        raise Malformed("an answer to a call that never was")

    def _check_theirs(self, number):
        if number % 2 == (0 if self.initiator else 1):
            raise Malformed("a request with a number of ours")

    # --- acknowledgements and loss -----------------------------------------------------------------------------------

    def _on_ack(self, it, address):
        largest, now = it.ranges[0][1], self.loop.time()
        if largest >= self.next_number:
            raise Malformed("an acknowledgement of what was never sent")
        newly = [n for n in self.sent if any(low <= n <= high for low, high in it.ranges)]
        if largest in newly:
            self._measure(now - self.sent[largest].time, min(it.delay_us, self._their_delay() * 1e6) / 1e6)
        self.largest_acked = max(self.largest_acked, largest)
        for number in newly:
            packet = self.sent.pop(number)
            self.phase_acked |= packet.phase == self.keys.phase
            for frame in packet.frames:
                if isinstance(frame, Ack):
                    self.received.forget_below(frame.ranges[0][0])
                elif isinstance(frame, Cancel):
                    self.given_up.pop(frame.call, None)
                elif isinstance(frame, Part) and frame.call in self.large:
                    if self.large[frame.call].acknowledged(frame.offset):
                        del self.large[frame.call]
        if newly:
            self.expiries = 0
            self.window += len(newly) if self.window < self.threshold else len(newly) / self.window
        self._detect_loss(now)

    def _measure(self, rtt, delay):
        first = self.rtt_min is None
        self.rtt_min = rtt if first else min(self.rtt_min, rtt)
        rtt = self.latest = rtt - delay if rtt - delay >= self.rtt_min else rtt
        if first:
            self.srtt, self.rttvar = rtt, rtt / 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8

    def _their_delay(self):
        return min(self.theirs.ack_delay_max_us, 25_000) / 1e6

    def _probe_timeout(self):
        return self.srtt + max(4 * self.rttvar, 0.001) + self._their_delay()

    def _loss_delay(self):
        return max(9 / 8 * max(self.srtt, self.latest), 0.001)

    def _detect_loss(self, now):
        lost = [
            number for number, packet in self.sent.items() if number < self.largest_acked
            and (number <= self.largest_acked - 3 or packet.time + self._loss_delay() <= now)
        ]
        if any(number > self.recovery for number in lost):  # once per round trip
            self.recovery = self.next_number
            self.window = self.threshold = max(4.0, self.window / 2)
        for number in lost:
            self._send_again(self.sent.pop(number))

    def _send_again(self, packet):
        for it in packet.frames:
            if isinstance(it, Part):
                if it.call in self.large and it.offset in self.large[it.call].ends:
                    self.large[it.call].lost(it.offset)
            elif isinstance(it, (Req, Resp)):
                self.small.append(it)
            elif isinstance(it, (Cancel, MaxData, Drain, Accepted, Grant)):
                self.control.append(it)

    def _arm(self):
        if self.timer:
            self.timer.cancel()
        times = [self.ack_at] if self.ack_at is not None else []
        if self.sent:
            times.append(self.last_sent + min(1.0, self._probe_timeout() * 2**self.expiries))
            early = [p.time for n, p in self.sent.items() if n < self.largest_acked]
            times += [min(early) + self._loss_delay()] if early else []
        silent_since = max(self.heard, self.expecting_since)
        if self._expects():
            times += [max(silent_since, self.pinged) + KEEP_ALIVE, silent_since + self.idle_timeout]
        else:
            times.append(silent_since + self.idle_timeout * (1 if self.initiator else 3))
        self.timer = self.loop.call_later(max(0.0005, min(times) - self.loop.time()), self._on_timer)

    def _on_timer(self):
        now = self.loop.time()
        self._detect_loss(now)
        if self.sent and now >= self.last_sent + min(1.0, self._probe_timeout() * 2**self.expiries):
            self.expiries, self.probes = min(self.expiries + 1, 10), 2
            for number in sorted(self.sent)[:2]:
                self._send_again(self.sent.pop(number))
        self._look_for_silence(now)
        self.flush()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _expects(self):
        return bool(self.open or self.sent or self.handles.in_use())

    def expect(self):
        """Called before something is expected: silence counts from here at the earliest."""
        if not self._expects():
            self.expecting_since = self.loop.time()

    def _look_for_silence(self, now):
        since = max(self.heard, self.expecting_since)
        if self._expects():
            if now - since >= self.idle_timeout:
                self._end(RpcError(Code.CONNECTION_LOST, Outcome.UNKNOWN, "silence"))
            elif now - max(since, self.pinged) >= KEEP_ALIVE:
                self.pinged = now
                self.control.append(Ping())
        elif self.initiator and now - since >= self.idle_timeout:
            self.close(1, "idle")
        elif now - since >= 3 * self.idle_timeout:
            self._end(RpcError(Code.CONNECTION_LOST, Outcome.UNKNOWN, "idle"))

    def close(self, code=0, reason=""):
        if self.ended:
            return
        self.closing = [Close(code, reason.encode()), 9]
        self._send_packet([self.closing[0]])
        self._end(RpcError(Code.CONNECTION_LOST, Outcome.UNKNOWN, f"closed: {reason}"))

    def _answer_with_close(self):
        if self.closing and self.closing[1]:
            self.closing[1] -= 1
            self._send_packet([self.closing[0]])

    def on_reset(self):
        """Section 2.2: with encryption any holder of the key can cause one; only a peer that is gone stays silent."""
        if self.ended:
            return
        if not self.keys.encrypted:
            self.end_restarted()
            return
        heard = self.heard
        self.control.append(Ping())
        self.flush()
        silent = lambda: self.heard == heard and self.end_restarted()
        self.loop.call_later(3 * self._probe_timeout(), silent)

    def end_restarted(self):
        if not self.ended:
            self._end(RpcError(Code.CONNECTION_LOST, Outcome.UNKNOWN, "the peer was restarted"))

    def _end(self, error):
        self.ended = error
        if self.timer:
            self.timer.cancel()
        for call in self.open.values():
            outcome = error.outcome if call.sent else Outcome.NOT_EXECUTED
            if not call.future.done():
                call.future.set_exception(RpcError(error.code, outcome, error.message))
        self.open.clear()
        self.handles.lost(error)
        for task in self.running.values():
            task.cancel()
        self.running.clear()
        self.loop.call_later(min(3.0, 3 * self._probe_timeout()), self.peer.forget, self)
