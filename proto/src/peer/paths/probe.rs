//! Tests whether a link survived a network change.
//!
//! When this machine's addresses changed, or after it was suspended, a QUIC link is probed first, because it can
//! continue from another address with the same keys; if nothing arrives within [`PROOF_WITHIN`], it is given up. A
//! TCP link can't move and is lost at once; so are direct links. Timer: [`PROOF_WITHIN`]. Bound: one probe.

use std::time::Duration;

use super::super::network::{ConnectionId, Network};
use super::{Paths, State};
use crate::Instant;

/// How long a link that may be dead has time to show that it works.
pub(super) const PROOF_WITHIN: Duration = Duration::from_secs(2);

/// The probe of a link that may be dead, and its deadline.
pub(super) struct PathProbe {
    conn: ConnectionId,
    /// The bytes that had arrived before.
    received: Option<u64>,
    pub until: Instant,
}

impl Paths {
    /// The network changed, or may have changed: connections from the old addresses can't continue unchanged.
    pub fn handle_moved(&mut self, now: Instant, net: &mut Network) {
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

    pub(super) fn judge_probe(&mut self, now: Instant, net: &mut Network) {
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
