//! A UDP socket by quinn-udp on tokio: batches of datagrams, GSO and GRO where the kernel has them.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use tokio::io::Interest;

use super::DatagramSocket;
use crate::endpoint::{Datagram, Ecn, Transmit};

/// Receive buffers per call. With GRO each may hold up to 64 KiB of datagrams of one sender.
const BATCH_COUNT: usize = 8;
/// Bytes of one receive buffer: the most that one UDP receive can give.
const BUFFER_SIZE: usize = 64 * 1024;
/// What is asked of the kernel for each direction; it grants at most net.core.{r,w}mem_max.
const KERNEL_BUFFER_SIZE: usize = 4 * 1024 * 1024;

/// A bound UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    local_addr: SocketAddr,
    /// Reused for every receive; only the driver task takes it.
    buffers: Mutex<Vec<u8>>,
}

impl UdpSocket {
    /// Binds to `address` (port 0: any free one). Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken or not of this machine, or no tokio runtime is current.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        without_timestamps(&socket);
        // Small kernel buffers only lose more datagrams under bursts; that is no reason to refuse to start.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER_SIZE);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER_SIZE);
        let local_addr = socket.local_addr()?;
        Ok(Self { socket, state, local_addr, buffers: Mutex::new(vec![0; BATCH_COUNT * BUFFER_SIZE]) })
    }

    /// One receive call: appends a batch, never an empty one.
    fn recv(&self, datagrams: &mut Vec<Datagram>) -> io::Result<()> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut metas = [RecvMeta::default(); BATCH_COUNT];
        let count = {
            let mut chunks = buffers.chunks_exact_mut(BUFFER_SIZE);
            let mut slices: [IoSliceMut<'_>; BATCH_COUNT] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas)?
        };
        let before = datagrams.len();
        for (meta, chunk) in metas.iter().zip(buffers.chunks_exact(BUFFER_SIZE)).take(count) {
            let batch = &chunk[..meta.len.min(BUFFER_SIZE)];
            // Each has memory of its own: it can be decrypted in place, and what of it is kept keeps no more.
            let each = batch.chunks(meta.stride.max(1));
            let (from, ecn) = (meta.addr, received(meta.ecn));
            datagrams.extend(each.map(|datagram| {
                let contents = Bytes::copy_from_slice(datagram);
                Datagram { from, ecn, contents }
            }));
        }
        if datagrams.len() == before {
            // Only empty datagrams: there may be more behind them.
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl DatagramSocket for UdpSocket {
    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, || self.recv(datagrams)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // ICMP errors of earlier sends; the datagrams of other peers behind them still count.
                Err(error) if is_peer_error(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn try_recv(&self, datagrams: &mut Vec<Datagram>) -> io::Result<Option<()>> {
        match self.recv(datagrams) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_peer_error(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn can_spin(&self) -> bool {
        true
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()> {
        let datagrams = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: sent(transmit.ecn),
            contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        loop {
            if ready!(self.socket.poll_send_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                self.state.try_send(UdpSockRef::from(&self.socket), &datagrams)
            });
            match sent {
                Ok(()) => return Poll::Ready(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::trace!(destination = %transmit.destination, %error, "datagram not sent");
                    return Poll::Ready(());
                }
            }
        }
    }

    fn segments_max(&self) -> usize {
        self.state.max_gso_segments()
    }
}

/// Asks the kernel for no timestamps, which quinn-udp 0.6.3 switches on and nobody here reads. It has room for 96 bytes
/// of control messages, and of datagrams that were received together the kernel says 112 (IPv4) or 120 (IPv6) with
/// timestamps: the mark, which comes last, would be cut off.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn without_timestamps(socket: &tokio::net::UdpSocket) {
    // At worst marks get lost, which senders find out and stop marking.
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::ReceiveTimestampns, &false);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
const fn without_timestamps(_: &tokio::net::UdpSocket) {}

const fn sent(ecn: Ecn) -> Option<EcnCodepoint> {
    match ecn {
        Ecn::NotEct => None,
        Ecn::Ect1 => Some(EcnCodepoint::Ect1),
        Ecn::Ect0 => Some(EcnCodepoint::Ect0),
        Ecn::Ce => Some(EcnCodepoint::Ce),
    }
}

const fn received(ecn: Option<EcnCodepoint>) -> Ecn {
    match ecn {
        None => Ecn::NotEct,
        Some(EcnCodepoint::Ect1) => Ecn::Ect1,
        Some(EcnCodepoint::Ect0) => Ecn::Ect0,
        Some(EcnCodepoint::Ce) => Ecn::Ce,
    }
}

fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// Every codepoint crosses the loopback as it was sent, alone and in one system call with others.
    async fn cross(address: SocketAddr) -> io::Result<()> {
        let (one, other) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
        for ecn in [Ecn::Ect0, Ecn::NotEct, Ecn::Ce, Ecn::Ect1] {
            for (size, segment_size) in [(40, None), (100, Some(40))] {
                let contents = vec![7; size];
                let transmit = Transmit { destination: other.local_addr(), size, segment_size, ecn };
                poll_fn(|cx| one.poll_send(cx, &transmit, &contents)).await;
                let (mut received, mut bytes) = (Vec::new(), 0);
                while bytes < size {
                    poll_fn(|cx| other.poll_recv(cx, &mut received)).await?;
                    bytes = received.iter().map(|datagram: &Datagram| datagram.contents.len()).sum();
                }
                assert_eq!(received.len(), size.div_ceil(40));
                assert!(received.iter().all(|datagram| datagram.from == one.local_addr()));
                assert!(received.iter().all(|datagram| datagram.ecn == ecn), "{ecn:?}: {received:?}");
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn marks_travel_in_the_ip_header() {
        cross((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        match cross((Ipv6Addr::LOCALHOST, 0).into()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            crossed => crossed.unwrap(),
        }
    }
}
