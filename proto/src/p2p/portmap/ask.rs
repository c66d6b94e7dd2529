//! What the three protocols have in common: how they are driven, what comes of asking, when to ask again, and what a gateway's
//! clock says about its memory.
//!
//! Timers: [`Retry`], 250 ms and then twice as long each time (RFC 6886 §3.1). Bounds: [`SENDS`] datagrams for one question.

use std::fmt::Debug;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use super::{Protocol, TRY_WITHIN};
use crate::Instant;
use crate::net::{Action, PipeEvent, PipeId, PipeOptions};

/// What is asked for; a gateway may grant less.
pub(super) const LIFETIME: Duration = Duration::from_secs(3600);
/// Less is not worth the datagrams that would keep it.
const MIN_LIFETIME: Duration = Duration::from_secs(20);
/// More is not believed (RFC 6887 §15).
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A mapping to a port below this is useless: peers drop such candidates (K01, [`crate::p2p::candidate::MIN_PORT`]).
pub(super) const MIN_PORT: u16 = 1024;
/// Between the first two questions.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Times that a question is put.
pub(super) const SENDS: u8 = 6;
/// Times that a mapping is taken back.
const LEAVE_SENDS: u8 = 3;
/// And how long its answer is waited for.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// How long an answer may be late that would give a second mapping.
const STRAY_WITHIN: Duration = Duration::from_secs(5);

/// A pipe to a gateway lives for moments.
pub(super) const HTTP_OPTIONS: PipeOptions = PipeOptions { no_delay: true, keep_alive: None, user_timeout: None };

/// Who is asked for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// PCP and NAT-PMP are spoken to here.
    pub gateway: SocketAddrV4,
    /// This machine's address on the gateway's network.
    pub local: Ipv4Addr,
    /// The UDP port that is to be reached.
    pub port: u16,
}

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The gateway, or SSDP's multicast group.
    pub to: SocketAddr,
    /// The address of the interface to send it from; `None`: the system's choice.
    pub from: Option<IpAddr>,
    /// What it says.
    pub data: Vec<u8>,
}

/// A mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub external: SocketAddrV4,
    pub lifetime: Duration,
}

/// Why there is no mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing was heard in time.
    Silent,
    /// The gateway does not speak this protocol.
    NotSpoken,
    /// It speaks it, and does not want to, or gave what is of no use.
    Refused,
    /// It has lost its memory, and the mapping with it.
    Forgotten,
    /// Its own external address leads nowhere from outside.
    DoubleNat(Ipv4Addr),
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Granted(Grant),
    Failed(Failure),
}

impl Outcome {
    /// What a gateway has given, if it is of use.
    pub(super) fn of(external: SocketAddrV4, lifetime: Duration) -> Self {
        if !is_public(*external.ip()) {
            return Self::Failed(Failure::DoubleNat(*external.ip()));
        }
        if external.port() < MIN_PORT || lifetime < MIN_LIFETIME {
            return Self::Failed(Failure::Refused);
        }
        Self::Granted(Grant { external, lifetime: lifetime.min(MAX_LIFETIME) })
    }
}

/// One protocol at one gateway. It begins by asking: [`Ask::handle_timeout`] is due at once.
pub(super) trait Ask: Debug + Send {
    fn protocol(&self) -> Protocol;
    /// A datagram from anybody.
    fn handle_datagram(&mut self, now: Instant, from: SocketAddrV4, data: &[u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_transmit(&mut self) -> Option<Outgoing>;
    /// The last word on the question.
    fn poll_outcome(&mut self) -> Option<Outcome>;
    /// No other protocol is spoken here that could make the same mapping.
    fn alone(&mut self, now: Instant) {
        let _ = now;
    }
    /// Asks again for what was granted.
    fn renew(&mut self, now: Instant);
    /// Takes back what was or may have been granted.
    fn release(&mut self, now: Instant);
    /// Asks for nothing more. What is still granted is taken back, unless it is what `kept` names: the same gateway may give the
    /// same mapping by two protocols.
    fn let_go(&mut self, now: Instant, kept: Option<SocketAddrV4>);
    /// It was let go, and only an answer that is late is waited for.
    fn is_waiting(&self) -> bool {
        false
    }
    /// Nothing is held, nothing is on its way.
    fn is_over(&self) -> bool;

    /// A pipe that is wanted, with this name.
    fn poll_dial(&mut self, next: PipeId) -> Option<Action> {
        let _ = next;
        None
    }
    /// What ends a pipe that is not needed any more.
    fn poll_closing(&mut self) -> Option<Action> {
        None
    }
    /// Ends everything here and now.
    fn abandon(&mut self);
    /// The pipe that is open.
    fn pipe(&self) -> Option<PipeId> {
        None
    }
    /// Something happened to it.
    fn handle_pipe(&mut self, now: Instant, event: PipeEvent) {
        let _ = (now, event);
    }
    fn pipe_buffer(&mut self) -> &mut [u8] {
        &mut []
    }
    fn pipe_output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let _ = slices;
        0
    }
}

/// When a question is put again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    at: Instant,
    wait: Duration,
    left: u8,
    until: Instant,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Send,
    GiveUp,
}

impl Retry {
    /// The first time is now.
    pub(super) fn asking(now: Instant) -> Self {
        Self { at: now, wait: FIRST_WAIT, left: SENDS, until: after(now, TRY_WITHIN) }
    }

    /// The same for taking back.
    pub(super) fn leaving(now: Instant) -> Self {
        Self { at: now, wait: FIRST_WAIT, left: LEAVE_SENDS, until: after(now, LEAVE_WITHIN) }
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
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

    pub(super) fn at(&self) -> Instant {
        self.at.min(self.until)
    }
}

/// Until when a late answer is waited for.
pub(super) fn stray_until(now: Instant) -> Instant {
    after(now, STRAY_WITHIN)
}

/// The gateway's clock, which starts at zero when it loses its memory, as it was heard last.
#[derive(Debug, Default)]
pub(super) struct Epoch(Option<(Instant, u32)>);

impl Epoch {
    /// RFC 6887 §8.5: false when the gateway has lost its state since the last time.
    pub(super) fn is_valid_pcp(&mut self, now: Instant, server: u32) -> bool {
        let Some((then, before)) = self.0.replace((now, server)) else { return true };
        if server.saturating_add(1) < before {
            return false;
        }
        let client = now.saturating_duration_since(then).as_secs();
        let server = u64::from(server.saturating_sub(before));
        let most = |delta: u64| delta.saturating_sub(delta / 16);
        client.saturating_add(2) >= most(server) && server.saturating_add(2) >= most(client)
    }

    /// RFC 6886 §3.6: the same, where a clock that runs ahead means nothing.
    pub(super) fn is_valid_natpmp(&mut self, now: Instant, server: u32) -> bool {
        let Some((then, before)) = self.0.replace((now, server)) else { return true };
        let elapsed = now.saturating_duration_since(then).as_secs();
        let estimate = u64::from(before).saturating_add(elapsed.saturating_sub(elapsed.div_ceil(8)));
        u64::from(server).saturating_add(2) >= estimate
    }
}

/// Whether packets from the internet can reach this address: not when it is private, shared by a carrier's customers (RFC 6598),
/// or of no single machine at all. Documentation's networks pass; tests use them.
pub(super) fn is_public(ip: Ipv4Addr) -> bool {
    let [first, second, third, _] = ip.octets();
    !(ip.is_private()
        || is_shared(ip)
        || ip.is_loopback()
        || ip.is_link_local()
        || first == 0
        || first >= 224
        || (first, second, third) == (192, 0, 0))
}

/// 100.64.0.0/10.
pub(super) fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0xC0 == 64
}

pub(super) fn after(at: Instant, duration: Duration) -> Instant {
    at.checked_add(duration).unwrap_or(at)
}

/// The next `N` bytes.
pub(super) fn take<'a, const N: usize>(data: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = data.split_first_chunk()?;
    *data = rest;
    Some(taken)
}
