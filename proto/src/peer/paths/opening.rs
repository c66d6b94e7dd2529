//! A direct connection before it is a link of the session.

use std::net::IpAddr;

use crate::peer::network::ConnectionId;
use crate::session::{Origin, Pace};

/// A direct connection that is not a link yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub conn: ConnectionId,
    pub round: u32,
    /// The source address of an incoming connection; `None`: this side dialled.
    pub from: Option<IpAddr>,
}

impl Opening {
    pub const fn origin(&self) -> Origin {
        match self.from {
            Some(_) => Origin::Accepted(Pace::Direct),
            None => Origin::Dialled(Pace::Direct),
        }
    }
}
