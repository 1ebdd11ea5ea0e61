//! Where nodes are: `host:port` as the user wrote it, and how a name becomes addresses.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use rpc_core::runtime::BoxFuture;

/// One `host:port`; the host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    text: String,
    literal: Option<SocketAddr>,
}

impl Endpoint {
    /// The address, if the host is one.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.literal
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { text: address.to_string(), literal: Some(address) }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = |why| BadEndpoint { text: text.to_owned(), why };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(bad("the port is 0")) } else { Ok(address.into()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("no port: expected host:port"))?;
        match port.parse::<u16>() {
            Ok(0) => return Err(bad("the port is 0")),
            Ok(_) => {}
            Err(_) => return Err(bad("the port is not a number up to 65535")),
        }
        let is_name = !host.is_empty()
            && host.len() <= NAME_LENGTH_MAX
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !is_name {
            return Err(bad("the host is neither a name nor an IP address"));
        }
        Ok(Self { text: text.to_owned(), literal: None })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEndpoint {
    text: String,
    why: &'static str,
}

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad address `{}`: {}", self.text, self.why)
    }
}

impl std::error::Error for BadEndpoint {}

/// Turns names into addresses. Called outside the send path only, because a lookup may take many seconds.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of `name` (`host:port`) now.
    fn resolve(&self, name: String) -> BoxFuture<io::Result<Vec<SocketAddr>>>;
}

/// Resolves nothing: for clients that are given IP addresses only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Resolver for NoNames {
    fn resolve(&self, name: String) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let message =
                format!("`{name}` is not an IP address with a port, and names are not resolved here");
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        })
    }
}

/// The longest host name (RFC 1035, section 2.3.4).
const NAME_LENGTH_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_endpoints() {
        for text in ["127.0.0.1:7301", "[::1]:7301", "node1:7301", "a.b-c_d.example:1"] {
            assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()), Ok(text.to_owned()));
        }
        assert!("127.0.0.1:7301".parse::<Endpoint>().unwrap().literal().is_some());
        assert!("node1:7301".parse::<Endpoint>().unwrap().literal().is_none());
    }

    #[test]
    fn what_is_no_endpoint_is_named_with_its_fault() {
        let long = format!("{}:1", "a".repeat(254));
        let texts =
            ["", "node1", "node1:", "node1:0", "node1:65536", ":7301", "no de:1", "::1:7301", "127.0.0.1:0"];
        for text in texts.into_iter().chain([long.as_str()]) {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
