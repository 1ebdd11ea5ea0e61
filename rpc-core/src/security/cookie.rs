//! Cookies: what proves that an address is real, without anything remembered about it.
//!
//! ```text
//! cookie   | time u64 | the first 16 bytes of HMAC-SHA-256(key, time u64 | ip 16 | port u16 | scid u64) |
//! ```
//! `time` is in nanoseconds on the acceptor's clock, `ip` an IPv6 address (of an IPv4 one the mapped form), `scid` the
//! id in INIT's header, `key` random per process. Only the acceptor that made a cookie can read it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ring::hmac;

use super::equal;
use crate::runtime::Instant;

/// Size of a cookie.
const COOKIE_SIZE: usize = 8 + 16;
/// How long a cookie proves something: longer than an initiator tries.
const LIFETIME: Duration = Duration::from_secs(10);

/// Makes and checks the cookies of one process.
pub(crate) struct CookieKey(hmac::Key);

impl CookieKey {
    /// `bytes` must be random.
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A cookie for who asks from `address` for the connection that it calls `scid`.
    pub(crate) fn make(&self, now: Instant, address: SocketAddr, scid: u64) -> [u8; COOKIE_SIZE] {
        let time = now.as_nanos().to_be_bytes();
        let mut cookie = [0; COOKIE_SIZE];
        cookie[..8].copy_from_slice(&time);
        cookie[8..].copy_from_slice(&self.tag(time, address, scid));
        cookie
    }

    /// Whether `cookie` was made for the same not long ago.
    pub(crate) fn check(&self, now: Instant, address: SocketAddr, scid: u64, cookie: &[u8]) -> bool {
        let Some((time, tag)) = cookie.split_first_chunk::<8>() else { return false };
        let Ok(tag) = <&[u8; 16]>::try_from(tag) else { return false };
        equal(&self.tag(*time, address, scid), tag)
            && now.saturating_since(Instant::from_nanos(u64::from_be_bytes(*time))) <= LIFETIME
    }

    fn tag(&self, time: [u8; 8], address: SocketAddr, scid: u64) -> [u8; 16] {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&time);
        context.update(&ip.octets());
        context.update(&address.port().to_be_bytes());
        context.update(&scid.to_be_bytes());
        let tag = context.sign();
        std::array::from_fn(|index| tag.as_ref()[index])
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_one_address_one_id_and_a_while() {
        let key = CookieKey::new(&[1; 32]);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let now = Instant::from_nanos(5_000_000_000);
        let cookie = key.make(now, address(1), 9);
        assert!(key.check(now + LIFETIME, address(1), 9, &cookie));
        assert!(!key.check(now + LIFETIME + Duration::from_nanos(1), address(1), 9, &cookie));
        assert!(!key.check(now, address(2), 9, &cookie));
        assert!(!key.check(now, SocketAddr::from(([127, 0, 0, 2], 1)), 9, &cookie));
        assert!(!key.check(now, address(1), 8, &cookie));
        assert!(!CookieKey::new(&[2; 32]).check(now, address(1), 9, &cookie));
        for bit in 0..cookie.len() * 8 {
            let mut forged = cookie;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.check(now, address(1), 9, &forged), "bit {bit}");
        }
        assert!(!key.check(now, address(1), 9, &cookie[..COOKIE_SIZE - 1]));
    }
}
