//! The requests of the negotiation of a direct path to its owner.

use std::net::SocketAddr;

use super::candidate::CandidateTransport;
use crate::net::MARK;
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
        /// The mark in the peer's token, with which the first packet of QUIC begins its destination connection id: the
        /// peer may share its socket.
        mark: [u8; MARK],
    },
    /// Send this datagram, once.
    Probe {
        /// The destination.
        to: SocketAddr,
        /// The contents.
        datagram: [u8; PROBE],
    },
    /// A link of this round was selected as the active path: abandon all other attempts of the round.
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
