"""The handshake and the keys of packets: sections 2.1, 2.2, 3.4 to 3.7."""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .wire import Malformed, insecure_reset_token, short_header, tagged, u, untagged

INSECURE, SHARED_KEY, NODE_KEYS = range(3)

PATTERNS = {
    SHARED_KEY: (b"Noise_NNpsk0_25519_AESGCM_SHA256", (("psk", "e"), ("e", "ee"))),
    NODE_KEYS: (b"Noise_XXpsk3_25519_AESGCM_SHA256", (("e",), ("e", "ee", "s", "es"), ("s", "se", "psk"))),
}


def hmac_sha256(key, data):
    return hmac.digest(key, data, "sha256")


def expand(secret, label, size):
    """HKDF-Expand of RFC 5869 for at most 32 bytes."""
    return hmac_sha256(secret, label + b"\x01")[:size]


def reset_key(shared_key):
    return expand(hmac_sha256(b"rpc-core", shared_key), b"reset", 32)


class Clear:
    """Mode 0: each message is its payload."""

    def write(self, payload):
        return payload

    def read(self, message):
        return message

    def keys(self):
        return Insecure()


class Noise:
    """Modes 1 and 2: The Noise Protocol Framework, revision 34, sections 5.1 to 5.3."""

    def __init__(self, mode, initiator, psk, prologue, static=None, ephemeral=None):
        name, messages = PATTERNS[mode]
        self.messages = list(messages)
        self.initiator, self.psk = initiator, psk
        self.s, self.e, self.rs, self.re = static, ephemeral, None, None
        self.h = self.ck = name  # both names are as long as a hash
        self.k, self.n = None, 0
        self._mix_hash(prologue)

    def write(self, payload):
        out = b""
        for token in self.messages.pop(0):
            if token == "e":
                self.e = self.e or X25519PrivateKey.generate()
                public = self.e.public_key().public_bytes_raw()
                out += public
                self._mix_hash(public)
                self._mix_key(public)
            elif token == "s":
                out += self._encrypt_and_hash(self.s.public_key().public_bytes_raw())
            else:
                self._mix_secret(token)
        return out + self._encrypt_and_hash(payload)

    def read(self, message):
        """The payload; raises Malformed if it does not open, and forgets that it came."""
        before = self.__dict__ | {"messages": list(self.messages)}
        try:
            for token in self.messages.pop(0):
                if token == "e":
                    public, message = message[:32], message[32:]
                    self.re = X25519PublicKey.from_public_bytes(public)
                    self._mix_hash(public)
                    self._mix_key(public)
                elif token == "s":
                    size = 48 if self.k else 32
                    self.rs = X25519PublicKey.from_public_bytes(self._decrypt_and_hash(message[:size]))
                    message = message[size:]
                else:
                    self._mix_secret(token)
            return self._decrypt_and_hash(message)
        except (InvalidTag, ValueError, IndexError) as error:  # also: a key of another length, an all-zero result
            self.__dict__ = before
            raise Malformed("a handshake message that does not open") from error

    def keys(self):
        """Split(): the keys of the packets of both directions."""
        k1, k2 = self._hkdf(b"", 2)
        mine, theirs = (k1, k2) if self.initiator else (k2, k1)
        return Sealed(hmac_sha256(self.h, mine), hmac_sha256(self.h, theirs), reset_key(self.psk))

    def _mix_secret(self, token):
        if token == "psk":
            self.ck, mixed, key = self._hkdf(self.psk, 3)
            self._mix_hash(mixed)
            self.k, self.n = key, 0
            return
        own, other = token if self.initiator else reversed(token)
        self._mix_key(getattr(self, own).exchange(getattr(self, "r" + other)))

    def _hkdf(self, material, count):
        temp, out = hmac_sha256(self.ck, material), [b""]
        for i in range(1, count + 1):
            out.append(hmac_sha256(temp, out[-1] + u(i, 1)))
        return out[1:]

    def _mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def _mix_key(self, material):
        self.ck, self.k = self._hkdf(material, 2)
        self.n = 0

    def _nonce(self):
        self.n += 1
        return bytes(4) + u(self.n - 1, 8)

    def _encrypt_and_hash(self, plain):
        sealed = AESGCM(self.k).encrypt(self._nonce(), plain, self.h) if self.k else plain
        self._mix_hash(sealed)
        return sealed

    def _decrypt_and_hash(self, sealed):
        plain = AESGCM(self.k).decrypt(self._nonce(), sealed, self.h) if self.k else sealed
        self._mix_hash(sealed)
        return plain


class Insecure:
    """Packets of section 2.1."""

    encrypted = False
    phase = received_phase = 0

    def seal(self, dcid, number, frames):
        return tagged(short_header(0, dcid, number) + frames)

    def open(self, datagram, _number):
        data = untagged(datagram)
        return data and data[13:]

    reset_token = staticmethod(insecure_reset_token)


class Phase:
    """The key of one direction in one phase: section 3.5."""

    def __init__(self, secret, n=0):
        self.secret, self.n = secret, n
        self.aead, self.iv = AESGCM(expand(secret, b"key", 16)), expand(secret, b"iv", 12)

    def next(self):
        return Phase(expand(self.secret, b"ku", 32), self.n + 1)

    def nonce(self, number):
        return u(int.from_bytes(self.iv, "big") ^ number, 12)


class Sealed:
    """Packets of section 3.5, and the receiver's side of 3.7."""

    encrypted = True

    def __init__(self, my_secret, their_secret, key_of_resets):
        self.tx, self.rx = Phase(my_secret), Phase(their_secret)
        self.previous, self.lowest = None, None
        self.key_of_resets = key_of_resets

    @property
    def phase(self):
        return self.tx.n

    @property
    def received_phase(self):
        return self.rx.n

    def rotate(self):
        self.tx = self.tx.next()

    def forget(self, phase):
        """The previous key, if it still is."""
        if self.previous is phase:
            self.previous = None

    def seal(self, dcid, number, frames):
        header = short_header(self.tx.n, dcid, number)
        return header + self.tx.aead.encrypt(self.tx.nonce(number), frames, header)

    def open(self, datagram, number):
        """The frames; nothing if it does not open."""
        phase = self.rx
        if datagram[0] >> 5 & 1 != phase.n & 1:
            late = self.lowest is not None and number < self.lowest
            phase = self.previous if late else self.rx.next()
            if phase is None:
                return None
        try:
            frames = phase.aead.decrypt(phase.nonce(number), datagram[13:], datagram[:13])
        except InvalidTag:
            return None
        if phase.n > self.rx.n:
            self.previous, self.rx, self.lowest = self.rx, phase, number
        elif phase.n == self.rx.n:
            self.lowest = number if self.lowest is None else min(number, self.lowest)
        return frames

    def reset_token(self, data):
        return hmac_sha256(self.key_of_resets, data)[:16]
