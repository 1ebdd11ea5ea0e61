//! What an endpoint counts, one number per cause.

/// Totals since the endpoint was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams handed out for sending.
    pub datagrams_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Datagrams handed in.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Connections established, in either direction.
    pub connections_established: u64,
    /// Connections lost or closed after they were established.
    pub connections_lost: u64,
    /// Packets declared lost.
    pub packets_lost: u64,
    /// Frames put into a packet again.
    pub frames_retransmitted: u64,
    /// Probe timeouts that expired.
    pub pto_expired: u64,
    /// Times that the path was found to carry larger datagrams.
    pub mtu_raised: u64,
    /// Times that it was found to carry only smaller ones than before.
    pub mtu_lowered: u64,
    /// Addresses to which a peer was followed.
    pub paths_validated: u64,
    /// Addresses from which a valid packet came, but no answer.
    pub paths_failed: u64,
    /// Packets that came marked: a queue on their way grew (CE, RFC 3168).
    pub marks_received: u64,
    /// Paths that erase marks or make them up, or drop what is marked.
    pub ecn_failed: u64,
    /// Setup packets sent again.
    pub setups_retransmitted: u64,
    /// Requests of our own that were started.
    pub requests_sent: u64,
    /// Requests of peers that were handed to the layer above.
    pub requests_received: u64,
    /// Repeated requests of peers that were not executed again.
    pub requests_duplicate: u64,
    /// Requests of peers refused because their deadline had passed.
    pub requests_late: u64,
    /// Requests of peers refused because too many were open.
    pub requests_busy: u64,
    /// Requests of peers refused while draining.
    pub requests_draining: u64,
    /// Stored answers sent again for a repeated request.
    pub answers_repeated: u64,
    /// Stored answers forgotten to stay below the limit.
    pub answers_evicted: u64,
    /// Stateless resets sent for packets of unknown connections.
    pub resets_sent: u64,
    /// Stateless resets that ended a connection.
    pub resets_received: u64,
    /// Datagrams dropped: too short for what they claim to be.
    pub dropped_truncated: u64,
    /// Datagrams dropped: their first bits name no kind of packet.
    pub dropped_bad_header: u64,
    /// Datagrams dropped: checksum.
    pub dropped_bad_checksum: u64,
    /// Datagrams dropped: not sealed with the keys of their connection, or a handshake message with another key:
    /// forged, damaged, or too late for a key that was replaced.
    pub dropped_bad_seal: u64,
    /// Setup packets dropped: of another security mode.
    pub dropped_wrong_mode: u64,
    /// Setup packets dropped: for another version than the best that both sides speak.
    pub dropped_downgrade: u64,
    /// Datagrams dropped: no such connection.
    pub dropped_unknown_connection: u64,
    /// Datagrams dropped: from a process of the peer that is not the one this connection was made with.
    pub dropped_wrong_epoch: u64,
    /// Datagrams dropped: a frame or a setup body could not be read, or broke the protocol.
    pub dropped_bad_frame: u64,
    /// Datagrams dropped: setup with a version that is not spoken here.
    pub dropped_unknown_version: u64,
    /// Datagrams dropped: of a connection that is not open, from another address than the peer's.
    pub dropped_unexpected_address: u64,
    /// Datagrams dropped: packet number seen before, or too old to tell.
    pub dropped_duplicate: u64,
    /// Datagrams dropped: not expected in the state of the connection.
    pub dropped_unexpected: u64,
    /// Packets dropped as if they were lost: a large message in them had to wait for memory.
    pub dropped_reassembly_max: u64,
    /// Large messages that had to wait for memory.
    pub messages_held: u64,
    /// Setup packets dropped: as many connections as allowed.
    pub dropped_connections_max: u64,
    /// Setup packets dropped: as many connections of their address as allowed.
    pub dropped_address_max: u64,
    /// Setup packets that were answered with a cookie, and forgotten.
    pub cookies_sent: u64,
    /// Peers that proved to be somebody who is not allowed.
    pub refused_identities: u64,
    /// Changes of the key that this side seals with.
    pub key_rotations: u64,
    /// Packets of unknown connections that got no reset because too many were sent lately.
    pub dropped_resets_max: u64,
}

impl Counters {
    /// How many reasons there are to drop something that arrived.
    pub const DROPS: usize = 17;

    /// What was dropped, by reason: the fields that begin with `dropped_`.
    pub const fn drops(&self) -> [(&'static str, u64); Self::DROPS] {
        [
            ("truncated", self.dropped_truncated),
            ("bad_header", self.dropped_bad_header),
            ("bad_checksum", self.dropped_bad_checksum),
            ("bad_seal", self.dropped_bad_seal),
            ("wrong_mode", self.dropped_wrong_mode),
            ("downgrade", self.dropped_downgrade),
            ("unknown_connection", self.dropped_unknown_connection),
            ("wrong_epoch", self.dropped_wrong_epoch),
            ("bad_frame", self.dropped_bad_frame),
            ("unknown_version", self.dropped_unknown_version),
            ("unexpected_address", self.dropped_unexpected_address),
            ("duplicate", self.dropped_duplicate),
            ("unexpected", self.dropped_unexpected),
            ("reassembly_max", self.dropped_reassembly_max),
            ("connections_max", self.dropped_connections_max),
            ("address_max", self.dropped_address_max),
            ("resets_max", self.dropped_resets_max),
        ]
    }
}
