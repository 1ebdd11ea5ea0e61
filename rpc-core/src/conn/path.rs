//! A peer that turns up at another address: is it there, and is it the same (RFC 9000 sections 8.2 and 9)?
//!
//! A packet that opens with the connection's keys, is no repetition and has the highest number yet, but comes from
//! another address, is processed like any other; and PATH_CHALLENGE goes to that address. Everything else goes to the
//! old address until PATH_RESPONSE with the same eight bytes has come back from the new one. Then the new address is
//! the peer's, and round trip time, window and datagram size start anew. Until then at most three times the bytes that
//! came from the new address go to it.
//!
//! With encryption only the peer can make such a packet. In the insecure mode a sender must know the 64-bit connection
//! id: one who sees no packets cannot guess it, one who does can move the connection (and could forge anything else).

use std::net::SocketAddr;
use std::time::Duration;

use crate::runtime::Instant;

/// An address of the peer that is being validated.
#[derive(Debug)]
pub(super) struct NewPath {
    pub(super) address: SocketAddr,
    pub(super) challenge: u64,
    /// When the first challenge was sent; `None` once there was a second, whose answer could not be told apart.
    pub(super) asked: Option<Instant>,
    received: usize,
    sent: usize,
    tries: u32,
    due: bool,
    next: Instant,
}

impl NewPath {
    /// `size` bytes came from `address`, at `now`.
    pub(super) const fn new(now: Instant, address: SocketAddr, size: usize, challenge: u64) -> Self {
        Self { address, challenge, asked: Some(now), received: size, sent: 0, tries: 0, due: true, next: now }
    }

    /// Further bytes came from the address.
    pub(super) const fn on_received(&mut self, size: usize) {
        self.received = self.received.saturating_add(size);
    }

    /// Whether a challenge of at most `size` bytes goes out now.
    pub(super) const fn may_send(&self, size: usize) -> bool {
        self.due && self.sent + size <= AMPLIFICATION_MAX * self.received
    }

    /// A challenge of `size` bytes went out; the next one follows after `wait`, doubled for each.
    pub(super) fn on_sent(&mut self, now: Instant, size: usize, wait: Duration) {
        self.sent += size;
        self.due = false;
        self.asked = if self.tries == 0 { Some(now) } else { None };
        self.next = now + wait.saturating_mul(1 << self.tries.min(TRIES_MAX));
        self.tries += 1;
    }

    /// When something is to be done.
    pub(super) fn timeout(&self) -> Option<Instant> {
        (!self.due).then_some(self.next)
    }

    /// Asks again when it is time; true if it was asked often enough and the address is given up.
    pub(super) fn on_timeout(&mut self, now: Instant) -> bool {
        if self.due || self.next > now {
            return false;
        }
        self.due = true;
        self.tries >= TRIES_MAX
    }
}

/// Bytes that may go to an address that is not validated, for each that came from it (RFC 9000 section 8.1).
const AMPLIFICATION_MAX: usize = 3;
/// Challenges sent before an address is given up.
const TRIES_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(10);

    fn path(received: usize) -> (NewPath, Instant) {
        let (now, address) = (Instant::from_nanos(7), SocketAddr::from(([127, 0, 0, 1], 1)));
        (NewPath::new(now, address, received, 5), now)
    }

    /// Sends challenges of `size` bytes as long as it may; how many, and when the last timer fired.
    fn challenges(path: &mut NewPath, mut now: Instant, size: usize) -> (u32, Instant) {
        let mut count = 0;
        loop {
            if path.may_send(size) {
                path.on_sent(now, size, WAIT);
                assert!(!path.may_send(size), "one for each timeout");
                count += 1;
            }
            let Some(next) = path.timeout() else { return (count, now) };
            assert!(!path.on_timeout(next - Duration::from_nanos(1)));
            now = next;
            if path.on_timeout(now) {
                return (count, now);
            }
        }
    }

    #[test]
    fn three_times_what_came_is_the_most_that_goes_and_more_that_comes_allows_more() {
        let (mut path, now) = path(35);
        assert_eq!(challenges(&mut path, now, 40).0, 2, "105 bytes hold two of 40");
        path.on_received(5);
        assert_eq!(challenges(&mut path, now, 40).0, 1, "120 bytes hold three");
        path.on_received(13);
        assert_eq!(challenges(&mut path, now, 40).0, 0, "159 bytes hold no fourth");
    }

    #[test]
    fn an_address_that_does_not_answer_is_asked_five_times_with_growing_pauses_and_given_up() {
        let (mut path, now) = path(1_200);
        let (count, end) = challenges(&mut path, now, 40);
        assert_eq!((count, end - now), (TRIES_MAX, WAIT * (1 + 2 + 4 + 8 + 16)));
    }

    #[test]
    fn only_the_first_challenge_measures_a_round_trip() {
        let (mut path, now) = path(1_200);
        path.on_sent(now + WAIT, 40, WAIT);
        assert_eq!(path.asked, Some(now + WAIT));
        let next = path.timeout().unwrap();
        assert!(!path.on_timeout(next));
        path.on_sent(next, 40, WAIT);
        assert_eq!(path.asked, None);
    }
}
