//! One link of a session: whether it has proven that it belongs to it, its streams, and whether it lives.
//!
//! ```text
//!   Handshake ───────────────────────────────────────────────────────▶ Proven
//!   Dialled:   say Bind{n}          ─▶ hear Bind{m, echo n}: say Bind{n, echo m} ─▶ hear a message ─▶ Proven
//!   Accepted:  hear Bind{n}: say Bind{m, echo n}  ─▶ hear Bind{n, echo m} ─────────────────────────▶ Proven
//! ```
//! The side that dialled waits for a first record before it sends more than its proof, because its chunks could overtake
//! the proof on another stream.
//!
//! Timers, by the link's [`Pace`]: an unproven link has [`BIND_TIME`] (a floor: [`SILENCE`]); a proven one says [`Control::KeepAlive`]
//! every [`DIRECT_KEEP_ALIVE`] (a floor: [`KEEP_ALIVE`]) and is dead when nothing was heard for [`DIRECT_SILENCE`] (a floor:
//! [`SILENCE`]), or when a lane stands (`lanes.rs`). Bounds: an unproven link may carry [`BIND_BYTES`] and [`BIND_RECORDS`].

use std::time::Duration;

use super::lanes::{Accepted, InStream, Opening, OutStreams, counts, wire_len};
use crate::Instant;
use crate::wire::Frame;
use crate::wire::Violation;
use crate::wire::peer::Control;

/// How often a link says that it lives.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A link on which nothing was heard for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// The same for a direct link: there is another to go on with, so that its end is to be noticed soon.
pub const DIRECT_KEEP_ALIVE: Duration = Duration::from_millis(400);
/// The same.
pub const DIRECT_SILENCE: Duration = Duration::from_millis(1600);
/// How long a direct link may take to prove that it belongs to the session.
pub const BIND_TIME: Duration = Duration::from_secs(5);
/// How many bytes a link may carry to this side before it has proven itself.
pub const BIND_BYTES: usize = 4 << 10;
/// How many records a link may try on this side before it has proven itself.
pub const BIND_RECORDS: u8 = 16;
/// How many unidirectional streams a link has in each direction at most.
pub const MAX_STREAMS: u8 = 16;

/// Where a link comes from, and so what it has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The handshake of this generation ran on it, and it is a floor. A broken rule on it ends the session.
    Handshake,
    /// It came within a generation, and this side speaks first. A broken rule ends only the link.
    Dialled(Pace),
    /// It came within a generation, and the other side speaks first. A broken rule ends only the link.
    Accepted(Pace),
}

impl Origin {
    const fn pace(self) -> Pace {
        match self {
            Self::Handshake => Pace::Floor,
            Self::Dialled(pace) | Self::Accepted(pace) => pace,
        }
    }
}

/// What a link is for, and so how soon its silence tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// What the session falls back to: it is there to last.
    Floor,
    /// A direct path, beside which there is a floor.
    Direct,
}

impl Pace {
    const fn keep_alive(self) -> Duration {
        match self {
            Self::Floor => KEEP_ALIVE,
            Self::Direct => DIRECT_KEEP_ALIVE,
        }
    }

    const fn silence(self) -> Duration {
        match self {
            Self::Floor => SILENCE,
            Self::Direct => DIRECT_SILENCE,
        }
    }

    /// How long the proof may take.
    const fn proof(self) -> Duration {
        match self {
            Self::Floor => SILENCE,
            Self::Direct => BIND_TIME,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Dialled: waits for its nonce to come back.
    Dialling { nonce: [u8; 16] },
    /// Dialled and proven to this side: waits for a sign that the other side is convinced too.
    Confirming,
    /// Accepted: waits for the other side's nonce.
    Waiting { nonce: [u8; 16] },
    /// Accepted: waits for its own nonce to come back.
    Answered { nonce: [u8; 16] },
    /// May be used.
    Proven,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub origin: Origin,
    pub out: OutStreams,
    /// A keep-alive is to be sent now.
    pub say_alive: bool,
    /// The peer's `Sync` came.
    pub synced: bool,
    incoming: Vec<InStream>,
    proof: Proof,
    bind_until: Instant,
    bind: Option<Control>,
    /// Bytes and records that came before this side was convinced.
    tried: (usize, u8),
    keep_alive_at: Instant,
    heard: Instant,
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
            say_alive: true,
            synced: false,
            incoming: Vec::new(),
            proof,
            bind_until: now + origin.pace().proof(),
            bind,
            tried: (0, 0),
            keep_alive_at: now + origin.pace().keep_alive(),
            heard: now,
        }
    }

    pub fn is_proven(&self) -> bool {
        self.proof == Proof::Proven
    }

    /// Whether this side's own nonce came back: what comes now is the peer's.
    fn is_convinced(&self) -> bool {
        match self.proof {
            Proof::Dialling { .. } | Proof::Waiting { .. } | Proof::Answered { .. } => false,
            Proof::Confirming | Proof::Proven => true,
        }
    }

    /// Judges and, if it is a control record, opens what came on a stream.
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

    /// `buffered` bytes of the stream's next record are here.
    pub fn handle_progress(&mut self, now: Instant, stream: u8, buffered: usize) -> Result<(), Violation> {
        if !self.is_convinced() && self.tried.0.saturating_add(buffered) > BIND_BYTES {
            return Err(Violation::Unbound);
        }
        if self.incoming(stream)?.handle_progress(buffered) {
            self.hear(now);
        }
        Ok(())
    }

    pub const fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A genuine message came on the first stream, or a keep-alive on another. True: the link is proven by it.
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

    /// A record of the proof that is to be sent.
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

    /// What this side says of itself.
    pub fn keep_alive(&self, reading: bool) -> Control {
        Control::KeepAlive { lanes: counts(self.incoming.iter()), reading }
    }

    /// The time during which this side did not read does not count.
    pub fn restart(&mut self, now: Instant) {
        self.hear(now);
        self.out.restart_stall(now);
    }

    /// The next keep-alive, silence and stall, or the end of the wait for a proof.
    pub fn next_timeout(&self, reading: bool) -> (Instant, &'static str) {
        if !self.is_proven() {
            return (self.bind_until, "link proves itself");
        }
        let mut next = (self.keep_alive_at, "keep-alive");
        if reading {
            next = next.min((self.heard + self.origin.pace().silence(), "link is silent"));
            if let Some(at) = self.out.stalls_at() {
                next = next.min((at, "lane stands"));
            }
        }
        next
    }

    /// Asks for a keep-alive when it is due.
    pub fn handle_keep_alive_timeout(&mut self, now: Instant) {
        if self.is_proven() && now >= self.keep_alive_at {
            self.say_alive = true;
            self.keep_alive_at = now + self.origin.pace().keep_alive();
        }
    }

    pub fn is_silent(&self, now: Instant, reading: bool) -> bool {
        self.is_proven() && reading && now >= self.heard + self.origin.pace().silence()
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
