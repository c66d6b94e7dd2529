//! What the negotiation of a direct path asks its owner to do.

use std::net::SocketAddr;

use super::candidate::Carrier;
use crate::wire::peer::Control;

/// Bytes of a probe.
pub const PROBE: usize = 20;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Say this to the other side.
    Say(Control),
    /// Connect.
    Dial {
        /// QUIC, or records over TCP.
        carrier: Carrier,
        /// Where.
        to: SocketAddr,
        /// SHA-256 of the certificate that is to be seen there.
        certificate: [u8; 32],
    },
    /// Send this datagram, once.
    Probe {
        /// Where.
        to: SocketAddr,
        /// What.
        datagram: [u8; PROBE],
    },
    /// A link of this round carries the session: what else was begun in it is given up.
    Chosen {
        /// Which.
        round: u32,
    },
    /// The round is over: all its links and attempts are.
    Over {
        /// Which.
        round: u32,
    },
    /// Both sides know that it is: what was under way on its links will not be counted as arrived any more.
    Settled {
        /// Which.
        round: u32,
    },
    /// This round led to nothing, and there is no path.
    NoPath,
}
