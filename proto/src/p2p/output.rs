//! The requests of the negotiation of a direct path to its owner.

use std::net::SocketAddr;

use super::candidate::CandidateTransport;
use crate::wire::peer::Control;

/// Length of a probe, in bytes.
pub const PROBE: usize = 20;

/// A request to the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this message to the peer.
    Send(Control),
    /// Connect to a candidate.
    Dial {
        /// The transport: QUIC, or records over TCP.
        transport: CandidateTransport,
        /// The address.
        to: SocketAddr,
        /// SHA-256 of the certificate that the peer must present.
        certificate: [u8; 32],
    },
    /// Send this datagram, once.
    Probe {
        /// The destination.
        to: SocketAddr,
        /// The contents.
        datagram: [u8; PROBE],
    },
    /// A link of this round was selected to carry the session: abandon all other attempts of the round.
    Chosen {
        /// The round.
        round: u32,
    },
    /// The round has ended: close all its links and abandon its attempts.
    Over {
        /// The round.
        round: u32,
    },
    /// Both sides know that the round has ended: neither side will acknowledge chunks in flight on its links any more.
    Settled {
        /// The round.
        round: u32,
    },
    /// This round failed, and there is no direct path.
    NoPath,
}
