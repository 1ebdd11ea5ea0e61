//! Who is compared. Each contestant serves an echo of bytes as its users would write it, and calls it.

mod quinn;
mod rpc_core;
mod tarpc;
mod tcp_mux;
pub mod tonic;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::rpc_core::Protection;
use crate::load::{self, Order};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    RpcCore,
    RpcCorePlain,
    RpcCoreSpin,
    Tarpc,
    Quinn,
    QuinnBbr,
    Tonic,
    TcpMux,
}

impl Contestant {
    /// What a reader must know to judge a comparison.
    pub fn facts(self) -> &'static str {
        match self {
            Self::RpcCore => {
                "UDP; encrypted (Noise, AES); typed CBOR; deadlines, cancellation, at-most-once, limits"
            }
            Self::RpcCorePlain => "as rpc-core, not encrypted: packets carry a checksum",
            Self::RpcCoreSpin => "as rpc-core, in latency mode: asks the socket for 50 us before it sleeps",
            Self::Tarpc => {
                "TCP (nodelay); not encrypted; typed bincode; deadlines, cancellation; no deduplication"
            }
            Self::Quinn => {
                "UDP; encrypted (TLS 1.3, AES); one stream per call, bare bytes; no deadlines, no deduplication"
            }
            Self::QuinnBbr => "as quinn, with its BBR and windows of 16 and 64 MiB",
            Self::Tonic => {
                "TCP (nodelay), HTTP/2; not encrypted; typed protobuf; deadlines optional; no deduplication"
            }
            Self::TcpMux => {
                "TCP (nodelay); not encrypted; length, id, bare bytes: no RPC, the limit of one over TCP"
            }
        }
    }

    /// Serves at `address` for ever; says on stdout where, and what a client must know.
    pub async fn serve(self, address: SocketAddr) -> Result<()> {
        match self {
            Self::RpcCore => rpc_core::serve(address, Protection::Sealed, Duration::ZERO).await,
            Self::RpcCorePlain => rpc_core::serve(address, Protection::Plain, Duration::ZERO).await,
            Self::RpcCoreSpin => rpc_core::serve(address, Protection::Sealed, rpc_core::SPIN).await,
            Self::Tarpc => tarpc::serve(address).await,
            Self::Quinn => quinn::serve(address, quinn::Tuning::Default).await,
            Self::QuinnBbr => quinn::serve(address, quinn::Tuning::Bbr).await,
            Self::Tonic => tonic::serve(address).await,
            Self::TcpMux => tcp_mux::serve(address).await,
        }
    }

    /// Answers each order with one measurement, both as a line of JSON.
    pub async fn call(
        self,
        server: SocketAddr,
        secret: &str,
        server_pid: u32,
        mut orders: mpsc::UnboundedReceiver<String>,
    ) -> Result<()> {
        while let Some(line) = orders.recv().await {
            let order: Order = serde_json::from_str(&line).with_context(|| format!("order {line:?}"))?;
            let target = load::Target { server, secret, server_pid };
            let measured = match self {
                Self::RpcCore | Self::RpcCorePlain => load::measure::<rpc_core::Client>(target, &order).await,
                Self::RpcCoreSpin => load::measure::<rpc_core::SpinClient>(target, &order).await,
                Self::Tarpc => load::measure::<tarpc::Client>(target, &order).await,
                Self::Quinn => load::measure::<quinn::Client>(target, &order).await,
                Self::QuinnBbr => load::measure::<quinn::BbrClient>(target, &order).await,
                Self::Tonic => load::measure::<tonic::Client>(target, &order).await,
                Self::TcpMux => load::measure::<tcp_mux::Client>(target, &order).await,
            };
            let answer = measured.map_err(|error| format!("{error:#}"));
            println!("{}", serde_json::to_string(&answer)?);
        }
        Ok(())
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no contestant is hidden").get_name())
    }
}
