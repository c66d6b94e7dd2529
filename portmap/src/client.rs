//! What the three protocol clients have in common: the [`Client`] trait, outcomes, retransmission, and the epoch, which
//! shows when a gateway has lost its state.
//!
//! Timers: [`Retry`], 250 ms and then twice as long each time (RFC 6886 §3.1). Bounds: [`SENDS`] datagrams for one
//! request.

use std::fmt::Debug;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::mapper::{ATTEMPT_WITHIN, CLOSE_WITHIN, RELEASE_WITHIN};
use crate::{Action, ConnectionEvent, ConnectionId, Instant, Protocol, Transmit};

/// The lifetime that is requested; a gateway may grant less.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);
/// A grant with a shorter lifetime is refused: it is not worth the datagrams for its renewal.
const MIN_LIFETIME: Duration = Duration::from_secs(20);
/// A longer lifetime is reduced to this (RFC 6887 §15).
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The lowest external port that is accepted. Lower ports belong to well-known services; an attacker must not be able
/// to make a peer send packets to them.
pub(crate) const MIN_PORT: u16 = 1024;
/// The delay between the first two transmissions.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The number of transmissions of one request.
pub(crate) const SENDS: u8 = 6;
/// The number of transmissions of a request that deletes a mapping.
const RELEASE_SENDS: u8 = 3;
/// The number of transmissions of a request that deletes a mapping at the end of the application.
const CLOSE_SENDS: u8 = 2;
/// The delay between these transmissions.
const CLOSE_WAIT: Duration = Duration::from_millis(50);
/// Time for the last datagram to leave its socket before the socket closes. No answer is awaited.
const FLUSH_WITHIN: Duration = Duration::from_millis(1);
/// How long a client that lost the race waits for a late answer that may create a second mapping.
const LATE_ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The gateway and the port for which a mapping is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// The gateway's PCP and NAT-PMP server.
    pub server: SocketAddrV4,
    /// This machine's address on the gateway's network.
    pub local: Ipv4Addr,
    /// The UDP port that is to be reachable.
    pub internal_port: u16,
}

/// A mapping that a gateway has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub external: SocketAddrV4,
    pub lifetime: Duration,
}

/// Why a client has no mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No answer arrived in time.
    NoAnswer,
    /// The gateway does not support this protocol.
    Unsupported,
    /// The gateway refused, or granted a port or lifetime that cannot be used.
    Refused,
    /// The gateway was restarted and has lost the mapping.
    StateLost,
    /// The gateway's external address is not reachable from the internet.
    DoubleNat(Ipv4Addr),
}

/// The result of a request or a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted(Grant),
    Failed(Failure),
}

impl Outcome {
    /// Evaluates the gateway's grant.
    pub(crate) fn of(external: SocketAddrV4, lifetime: Duration) -> Self {
        if !is_public(*external.ip()) {
            return Self::Failed(Failure::DoubleNat(*external.ip()));
        }
        if external.port() < MIN_PORT || lifetime < MIN_LIFETIME {
            return Self::Failed(Failure::Refused);
        }
        Self::Granted(Grant { external, lifetime: lifetime.min(MAX_LIFETIME) })
    }
}

/// A client of one protocol at one gateway. It starts with a request: [`Client::handle_timeout`] is due at once.
pub(crate) trait Client: Debug + Send {
    fn protocol(&self) -> Protocol;
    /// Processes a datagram from any host.
    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// The result of the request or renewal; it is returned once.
    fn poll_outcome(&mut self) -> Option<Outcome>;
    /// No other protocol is tried any more that could create the same mapping at this gateway.
    fn end_head_start(&mut self, now: Instant) {
        let _ = now;
    }
    /// Requests the granted mapping again.
    fn renew(&mut self, now: Instant);
    /// Deletes all mappings that were or may have been granted.
    fn release(&mut self, now: Instant);
    /// Deletes what was or may have been granted, at the end of the application, which waits for this. A gateway that
    /// has granted nothing gets one request, and its answer is not awaited.
    fn close(&mut self, now: Instant) {
        self.release(now);
    }
    /// Makes no more requests. A mapping that is still granted is deleted, unless it is `kept`: one gateway may grant
    /// the same mapping by two protocols.
    fn withdraw(&mut self, now: Instant, kept: Option<SocketAddrV4>);
    /// Whether the client was withdrawn and waits only for a late answer.
    fn awaits_late_answer(&self) -> bool {
        false
    }
    /// Whether nothing is granted and nothing is in flight.
    fn is_finished(&self) -> bool;
    /// Stops at once.
    fn abort(&mut self);

    /// The address to connect to, if the client needs a connection; the connection gets this id.
    fn poll_connect(&mut self, id: ConnectionId) -> Option<SocketAddrV4> {
        let _ = id;
        None
    }
    /// The next connection to close.
    fn poll_close(&mut self) -> Option<Action> {
        None
    }
    /// The client's connection.
    fn connection(&self) -> Option<ConnectionId> {
        None
    }
    /// Processes an event of the connection.
    fn handle_connection(&mut self, now: Instant, event: ConnectionEvent) {
        let _ = (now, event);
    }
    fn receive_buffer(&mut self) -> &mut [u8] {
        &mut []
    }
    fn send_queue<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let _ = slices;
        0
    }
}

/// The retransmission schedule of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retry {
    at: Instant,
    wait: Duration,
    left: u8,
    until: Instant,
}

/// The next step of a retransmission schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Send,
    GiveUp,
}

impl Retry {
    /// The schedule of a request; its first transmission is due now.
    pub(crate) fn request(now: Instant) -> Self {
        Self { at: now, wait: FIRST_WAIT, left: SENDS, until: after(now, ATTEMPT_WITHIN) }
    }

    /// The schedule of a request that deletes a mapping; its first transmission is due now.
    pub(crate) fn release(now: Instant) -> Self {
        Self { at: now, wait: FIRST_WAIT, left: RELEASE_SENDS, until: after(now, RELEASE_WITHIN) }
    }

    /// For a request that deletes a mapping while the application waits; its first transmission is due now. Without a
    /// grant the gateway may be silent: the request is sent once, behind the one that it may still grant.
    pub(crate) fn close(now: Instant, has_grant: bool) -> Self {
        let (left, within) = if has_grant { (CLOSE_SENDS, CLOSE_WITHIN) } else { (1, FLUSH_WITHIN) };
        Self { at: now, wait: CLOSE_WAIT, left, until: after(now, within) }
    }

    pub(crate) fn due(&mut self, now: Instant) -> Due {
        if now >= self.until {
            return Due::GiveUp;
        }
        if now < self.at {
            return Due::Nothing;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.at = self.until;
            return Due::Nothing;
        };
        self.left = left;
        self.at = after(now, self.wait).min(self.until);
        self.wait = self.wait.saturating_mul(2);
        Due::Send
    }

    pub(crate) fn at(&self) -> Instant {
        self.at.min(self.until)
    }
}

/// The time until which a withdrawn client waits for a late answer.
pub(crate) fn late_answer_deadline(now: Instant) -> Instant {
    after(now, LATE_ANSWER_WITHIN)
}

/// The last epoch that the gateway sent: a clock that starts at zero when the gateway loses its state.
#[derive(Debug, Default)]
pub(crate) struct Epoch(Option<(Instant, u32)>);

impl Epoch {
    /// RFC 6887 §8.5: returns false if the gateway has lost its state since the last answer.
    pub(crate) fn is_valid_pcp(&mut self, now: Instant, server: u32) -> bool {
        let Some((then, before)) = self.0.replace((now, server)) else { return true };
        if server.saturating_add(1) < before {
            return false;
        }
        let client = now.saturating_duration_since(then).as_secs();
        let server = u64::from(server.saturating_sub(before));
        let most = |delta: u64| delta.saturating_sub(delta / 16);
        client.saturating_add(2) >= most(server) && server.saturating_add(2) >= most(client)
    }

    /// RFC 6886 §3.6: returns false if the gateway has lost its state; an epoch ahead of time proves nothing.
    pub(crate) fn is_valid_natpmp(&mut self, now: Instant, server: u32) -> bool {
        let Some((then, before)) = self.0.replace((now, server)) else { return true };
        let elapsed = now.saturating_duration_since(then).as_secs();
        let estimate = u64::from(before).saturating_add(elapsed.saturating_sub(elapsed.div_ceil(8)));
        u64::from(server).saturating_add(2) >= estimate
    }
}

/// Whether packets from the internet can reach this address. False for private addresses, the shared addresses of
/// carriers (RFC 6598) and addresses that belong to no single host. The documentation networks are accepted, since
/// tests use them.
pub(crate) fn is_public(ip: Ipv4Addr) -> bool {
    let [first, second, third, _] = ip.octets();
    !(ip.is_private()
        || is_shared(ip)
        || ip.is_loopback()
        || ip.is_link_local()
        || first == 0
        || first >= 224
        || (first, second, third) == (192, 0, 0))
}

/// Whether the address is in 100.64.0.0/10 (RFC 6598).
pub(crate) fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0xC0 == 64
}

pub(crate) fn after(at: Instant, duration: Duration) -> Instant {
    at.checked_add(duration).unwrap_or(at)
}

/// The next `N` bytes.
pub(crate) fn take<'a, const N: usize>(data: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = data.split_first_chunk()?;
    *data = rest;
    Some(taken)
}
