//! Whether a link survived a change of the network.
//!
//! Where this machine's addresses changed, or it slept, a QUIC link is asked first whether it lives, since it may go on
//! from another address with the same keys; after [`PROOF_WITHIN`] of silence it is given up. A TCP link can't move and
//! is lost at once, and so are direct links. Timer: [`PROOF_WITHIN`]. Bound: one probe.

use std::time::Duration;

use super::super::net::{ConnectionId, Net};
use super::{Paths, State};
use crate::Instant;

/// How long a link that may be dead has to show that it is not.
pub(super) const PROOF_WITHIN: Duration = Duration::from_secs(2);

/// The link may be dead, and has until then to show that it is not.
pub(super) struct PathProbe {
    conn: ConnectionId,
    /// What had arrived before.
    received: Option<u64>,
    pub until: Instant,
}

impl Paths {
    /// The network is, or may be, another one: what was connected from there can't go on as it is.
    pub fn handle_moved(&mut self, now: Instant, net: &mut Net) {
        self.lose_direct(now, net);
        let State::Up(links) = &self.state else { return };
        let Some(relay) = links.relay() else { return };
        match relay.conn() {
            conn @ ConnectionId::Quic(..) => {
                let received = net.received(conn);
                self.probe = Some(PathProbe { conn, received, until: now + PROOF_WITHIN });
            }
            ConnectionId::Tcp(_) => {
                let id = relay.id();
                self.lose(now, net, id);
            }
        }
    }

    pub(super) fn judge_probe(&mut self, now: Instant, net: &mut Net) {
        let Some(probe) = self.probe.take_if(|probe| probe.until <= now) else { return };
        let received = net.received(probe.conn);
        let State::Up(links) = &mut self.state else { return };
        if received == probe.received
            && let Some(id) = links.on(probe.conn).map(|link| link.id())
        {
            self.lose(now, net, id);
        }
    }
}
