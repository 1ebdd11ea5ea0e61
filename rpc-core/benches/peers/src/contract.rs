//! What every contestant keeps to: how it is called, and what its server says first.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The largest message that any contestant is told to accept, in bytes.
pub const MESSAGE_SIZE_MAX: usize = 64 << 20;

/// One connection of a contestant.
pub trait Caller: Send + Sync + Sized + 'static {
    /// Connects; `secret` is what the server said.
    fn connect(server: SocketAddr, secret: &str) -> impl Future<Output = Result<Self>>;

    /// Sends bytes and gets them back.
    fn echo(&self, data: Bytes) -> impl Future<Output = Result<Bytes>> + Send;

    /// Ends the connection; most do by being dropped.
    fn close(self) -> impl Future<Output = ()> {
        async {}
    }
}

/// What a server says when it can be called.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub address: SocketAddr,
    /// What a client needs besides the address: a certificate or a key, as hexadecimal digits.
    pub secret: String,
}

impl Ready {
    /// Says it on stdout.
    pub fn tell(address: SocketAddr, secret: &[u8]) -> Result<()> {
        let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{}", serde_json::to_string(&Self { address, secret })?);
        Ok(std::io::stdout().flush()?)
    }
}

/// The bytes of a [`Ready::secret`].
pub fn secret_bytes(digits: &str) -> Result<Vec<u8>> {
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs.map(|pair| Ok(u8::from_str_radix(str::from_utf8(pair)?, 16)?)).collect()
}
