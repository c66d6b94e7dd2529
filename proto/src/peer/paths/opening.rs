//! A direct connection before it is a link of the session.

use std::net::IpAddr;

use crate::peer::net::ConnectionId;
use crate::session::{Origin, Pace};

/// A connection that is no link yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub conn: ConnectionId,
    pub round: u32,
    /// The address that it came in from; `None`: it was dialled.
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
