//! One link of a session: its streams, its proof that it belongs to the session, and its liveness.
//!
//! ```text
//!   Handshake ───────────────────────────────────────────────────────▶ Proven
//!   Dialled:   send Bind{n}         ─▶ get Bind{m, echo n}: send Bind{n, echo m} ─▶ get a message  ─▶ Proven
//!   Accepted:  get Bind{n}: send Bind{m, echo n}  ─▶ get Bind{n, echo m} ──────────────────────────▶ Proven
//! ```
//! The side that dialled sends only its proof until it receives a first record, because its chunks could overtake the
//! proof on another stream.
//!
//! Timers, by the link's [`Pace`]: a direct link must prove itself within [`BIND_TIME`] (a fallback link: [`SILENCE`]).
//! A proven direct link sends [`Control::KeepAlive`] every [`DIRECT_KEEP_ALIVE`] (a fallback link: [`KEEP_ALIVE`]). It
//! is dead when nothing was received for [`DIRECT_SILENCE`] (a fallback link: [`SILENCE`]), or when a lane stalls
//! (`lanes.rs`). Bounds: an unproven link may receive [`BIND_BYTES`] and [`BIND_RECORDS`].

use std::time::Duration;

use super::lanes::{Accepted, InStream, Opening, OutStreams, counts, wire_len};
use crate::Instant;
use crate::wire::Frame;
use crate::wire::Violation;
use crate::wire::peer::Control;

/// Keep-alive interval of a fallback link.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Idle timeout of a fallback link.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Keep-alive interval of a direct link; short because a fallback exists.
pub const DIRECT_KEEP_ALIVE: Duration = Duration::from_millis(400);
/// Idle timeout of a direct link.
pub const DIRECT_SILENCE: Duration = Duration::from_millis(1600);
/// Time in which a direct link must prove that it belongs to the session.
pub const BIND_TIME: Duration = Duration::from_secs(5);
/// How many bytes this side accepts on a link that is not proven.
pub const BIND_BYTES: usize = 4 << 10;
/// How many records this side accepts on a link that is not proven.
pub const BIND_RECORDS: u8 = 16;
/// Maximum number of unidirectional streams of a link in each direction.
pub const MAX_STREAMS: u8 = 16;

/// How a link was made, which determines what it has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The handshake of this generation ran on it, and it is a fallback link. A violation on it ends the session.
    Handshake,
    /// It was added within a generation, and this side sends the first `Bind`. A violation ends only the link.
    Dialled(Pace),
    /// It was added within a generation, and the peer sends the first `Bind`. A violation ends only the link.
    Accepted(Pace),
}

impl Origin {
    const fn pace(self) -> Pace {
        match self {
            Self::Handshake => Pace::Relay,
            Self::Dialled(pace) | Self::Accepted(pace) => pace,
        }
    }
}

/// The purpose of a link, which determines its keep-alive interval and idle timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The fallback link, by way of a relay: it should last as long as the session.
    Relay,
    /// A direct path, beside which the session has a fallback link.
    Direct,
}

impl Pace {
    const fn keep_alive(self) -> Duration {
        match self {
            Self::Relay => KEEP_ALIVE,
            Self::Direct => DIRECT_KEEP_ALIVE,
        }
    }

    const fn silence(self) -> Duration {
        match self {
            Self::Relay => SILENCE,
            Self::Direct => DIRECT_SILENCE,
        }
    }

    /// Time limit for the proof.
    const fn proof(self) -> Duration {
        match self {
            Self::Relay => SILENCE,
            Self::Direct => BIND_TIME,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Dialled: waits for the peer to echo its nonce.
    Dialling { nonce: [u8; 16] },
    /// Dialled, and the peer is authenticated: waits for a message that shows that the peer has authenticated this
    /// side, too.
    Confirming,
    /// Accepted: waits for the peer's nonce.
    Waiting { nonce: [u8; 16] },
    /// Accepted: waits for the peer to echo its nonce.
    Answered { nonce: [u8; 16] },
    /// The link is usable.
    Proven,
}

/// The state of one link.
#[derive(Debug)]
pub(super) struct Link {
    pub origin: Origin,
    pub out: OutStreams,
    /// Whether a keep-alive is to be sent now.
    pub send_keep_alive: bool,
    /// Whether the peer's `Sync` arrived.
    pub synced: bool,
    incoming: Vec<InStream>,
    proof: Proof,
    bind_until: Instant,
    bind: Option<Control>,
    /// Bytes and records that arrived before the peer was authenticated on this link.
    tried: (usize, u8),
    keep_alive_at: Instant,
    last_received: Instant,
}

impl Link {
    pub fn new(now: Instant, origin: Origin, streams: u8, nonce: [u8; 16]) -> Self {
        let (proof, bind) = match origin {
            Origin::Handshake => (Proof::Proven, None),
            Origin::Dialled(_) => (Proof::Dialling { nonce }, Some(Control::Bind { nonce, echo: None })),
            Origin::Accepted(_) => (Proof::Waiting { nonce }, None),
        };
        Self {
            origin,
            out: OutStreams::new(streams.min(MAX_STREAMS)),
            send_keep_alive: true,
            synced: false,
            incoming: Vec::new(),
            proof,
            bind_until: now + origin.pace().proof(),
            bind,
            tried: (0, 0),
            keep_alive_at: now + origin.pace().keep_alive(),
            last_received: now,
        }
    }

    pub fn is_proven(&self) -> bool {
        self.proof == Proof::Proven
    }

    /// Whether the peer echoed this side's nonce: records on this link are from the peer now, and not replayed.
    fn is_convinced(&self) -> bool {
        match self.proof {
            Proof::Dialling { .. } | Proof::Waiting { .. } | Proof::Answered { .. } => false,
            Proof::Confirming | Proof::Proven => true,
        }
    }

    /// Validates a record that arrived on a stream and, if it is a control record, decrypts it.
    pub fn accept(&mut self, opening: &mut Opening, stream: u8, frame: Frame) -> Result<Accepted, Violation> {
        if !self.is_convinced() {
            let (bytes, records) = self.tried;
            self.tried = (bytes.saturating_add(wire_len(&frame)), records.saturating_add(1));
            if self.tried.0 > BIND_BYTES || self.tried.1 > BIND_RECORDS {
                return Err(Violation::Unbound);
            }
        }
        match self.incoming(stream)?.accept(opening, frame)? {
            Accepted::Chunk { .. } if !self.is_convinced() => Err(Violation::Unbound),
            accepted @ (Accepted::Chunk { .. } | Accepted::Control(_)) => Ok(accepted),
        }
    }

    /// `buffered` bytes of the stream's next record have arrived.
    pub fn handle_progress(&mut self, now: Instant, stream: u8, buffered: usize) -> Result<(), Violation> {
        if !self.is_convinced() && self.tried.0.saturating_add(buffered) > BIND_BYTES {
            return Err(Violation::Unbound);
        }
        if self.incoming(stream)?.handle_progress(buffered) {
            self.mark_alive(now);
        }
        Ok(())
    }

    pub const fn mark_alive(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Advances the proof by an authentic message: any message on stream 0, or a keep-alive on another stream. Returns
    /// true if the link is proven by it.
    pub fn handle_proof(&mut self, message: &Control) -> Result<bool, Violation> {
        let (proof, bind) = match (self.proof, message) {
            (Proof::Dialling { nonce }, &Control::Bind { nonce: theirs, echo }) if echo == Some(nonce) => {
                (Proof::Confirming, Some(Control::Bind { nonce, echo: Some(theirs) }))
            }
            (Proof::Waiting { nonce }, &Control::Bind { nonce: theirs, echo: None }) => {
                (Proof::Answered { nonce }, Some(Control::Bind { nonce, echo: Some(theirs) }))
            }
            (Proof::Answered { nonce }, &Control::Bind { nonce: _, echo }) if echo == Some(nonce) => {
                (Proof::Proven, None)
            }
            (_, Control::Bind { .. }) => return Err(Violation::UnexpectedBind),
            (Proof::Proven, _) => return Ok(false),
            (Proof::Confirming, _) => (Proof::Proven, None),
            (Proof::Dialling { .. } | Proof::Waiting { .. } | Proof::Answered { .. }, _) => {
                return Err(Violation::Unbound);
            }
        };
        (self.proof, self.bind) = (proof, bind);
        Ok(self.is_proven())
    }

    /// Takes the `Bind` message that is to be sent.
    pub const fn take_bind(&mut self) -> Option<Control> {
        self.bind.take()
    }

    pub fn handle_keep_alive(
        &mut self,
        now: Instant,
        lanes: &[crate::wire::peer::LaneCount],
        reading: bool,
    ) -> Result<(), Violation> {
        self.out.handle_counts(now, lanes)?;
        if !reading {
            self.out.restart_stall(now);
        }
        Ok(())
    }

    /// The keep-alive message with this side's present state.
    pub fn keep_alive(&self, reading: bool) -> Control {
        Control::KeepAlive { lanes: counts(self.incoming.iter()), reading }
    }

    /// Restarts the idle and stall timers: the time during which this side did not read does not count.
    #[cfg(test)]
    pub fn restart(&mut self, now: Instant) {
        self.mark_alive(now);
        self.out.restart_stall(now);
    }

    /// The earliest of keep-alive, idle timeout and stall, or the deadline of the proof.
    pub fn next_timeout(&self, reading: bool) -> (Instant, &'static str) {
        if !self.is_proven() {
            return (self.bind_until, "link proves itself");
        }
        let mut next = (self.keep_alive_at, "keep-alive");
        if reading {
            next = next.min((self.last_received + self.origin.pace().silence(), "link is silent"));
            if let Some(at) = self.out.stalls_at() {
                next = next.min((at, "lane stands"));
            }
        }
        next
    }

    /// Schedules a keep-alive for sending if it is due.
    pub fn handle_keep_alive_timeout(&mut self, now: Instant) {
        if self.is_proven() && now >= self.keep_alive_at {
            self.send_keep_alive = true;
            self.keep_alive_at = now + self.origin.pace().keep_alive();
        }
    }

    pub fn is_silent(&self, now: Instant, reading: bool) -> bool {
        self.is_proven() && reading && now >= self.last_received + self.origin.pace().silence()
    }

    pub fn is_stalled(&self, now: Instant, reading: bool) -> bool {
        self.is_proven() && reading && self.out.stalls_at().is_some_and(|at| now >= at)
    }

    pub fn is_unproven_for_too_long(&self, now: Instant) -> bool {
        !self.is_proven() && now >= self.bind_until
    }

    fn incoming(&mut self, stream: u8) -> Result<&mut InStream, Violation> {
        let index = usize::from(stream);
        if stream <= MAX_STREAMS && index >= self.incoming.len() {
            self.incoming.resize_with(index.saturating_add(1), InStream::default);
        }
        self.incoming.get_mut(index).ok_or(Violation::UnknownStream)
    }
}
