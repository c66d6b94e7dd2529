//! One TCP connection and what runs in it, as one link: for clients that dial a relay and for the relay that is dialled.
//!
//! Decides what runs in the pipe (on the server's side by the first bytes and by ALPN), when the link is there, how much may wait
//! in either direction, and how it ends.
//! ```text
//! opening: [first bytes] → [TLS] → [upgrade] ─► open ─► (both sides finished, or one closed) lingering ─► flushing ─► over
//!     └──────────── refused, broken, too slow ────┴──────────────── lost, broken ──────────────────────────┴─► over
//! ```
//! Inside TLS: `tallow/1` by ALPN means that the link's bytes follow at once. The end of what one side says is TLS's
//! `close_notify`; a pipe that ends without it is lost, since anybody on the way can cut a pipe.
//!
//! Lower side: [`Pipe::read_buffer`], [`Pipe::handle_filled`], [`Pipe::handle_eof`], [`Pipe::handle_failed`], [`Pipe::output`],
//! [`Pipe::handle_wrote`], and [`Pipe::fate`] for what to do with the socket. [`Pipe::poll_touched`] tells when to look again.
//! Upper side: [`Pipe::read`], [`Pipe::write`], [`Pipe::finish`], [`Pipe::close`], [`Pipe::poll_event`].
//!
//! Timers: [`OPEN_WITHIN`] until the link is there, [`LINGER`] after the last word.
//! Bounds: what waits to be read is at most the receive window and one read (64 KiB), what waits for the socket at most the send
//! window and one piece ([`PIECE`]); three events.
//! Copies: received bytes are opened in place, and copied by rustls and once more here; sent bytes are sealed by rustls and copied
//! once.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

use super::buffers::{Input, Output};
use super::crypto::{self, ALPN, BadIdentity, Ticker};
use super::tls::{Step, Tls};
use super::trust::{CertificateSeen, Identity, Trust, Verifier};
use super::{Read, Write};
use crate::Instant;

pub use super::tls::TlsFailure;

/// How long it may take until the link is there, from the first call.
pub const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How long the last bytes may take, and the other side's end after them.
pub const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are sealed or framed at once.
const PIECE: usize = 64 * 1024;
/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// How much may wait in either direction, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// What was received and not read by the owner.
    pub receive: usize,
    /// What was written by the owner and not by the socket.
    pub send: usize,
}

impl Windows {
    /// For the two ends of a transfer.
    #[must_use]
    pub const fn peer() -> Self {
        Self { receive: 1024 * 1024, send: 256 * 1024 }
    }

    /// For a relay: each pipe starts small and is raised by evidence.
    #[must_use]
    pub const fn relay() -> Self {
        Self { receive: 64 * 1024, send: 64 * 1024 }
    }
}

/// What runs in a pipe that is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The link's bytes in TLS.
    Tls,
}

/// What runs in a pipe that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The link's bytes in TLS.
    Tls,
}

/// What a pipe is for, on the client's side.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// What runs in it.
    pub kind: Kind,
    /// The DNS name or IP address (without brackets) that a public authority would vouch for.
    pub host: &'a str,
    /// The port there.
    pub port: u16,
    /// Which certificate is accepted.
    pub trust: Trust,
    /// How much may wait.
    pub windows: Windows,
}

/// Why there is no pipe to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotDial {
    /// Neither a DNS name nor an IP address.
    #[error("the server's name is not valid")]
    Name,
    /// TLS cannot be set up; never with the provider that is built in.
    #[error("TLS cannot be set up")]
    Tls,
}

/// Makes the client's pipes: what they have in common.
#[derive(Debug)]
pub struct Dialler {
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    ticker: Ticker,
}

impl Dialler {
    /// `unix_time` is the wall-clock time (since 1970) at the first call that brings a `now`.
    #[must_use]
    pub fn new(unix_time: Duration) -> Self {
        Self { provider: crypto::crypto_provider(), roots: None, ticker: Ticker::new(unix_time) }
    }

    /// A pipe whose TCP connection is up, or coming up.
    ///
    /// # Errors
    /// [`CannotDial`].
    pub fn dial(&mut self, now: Instant, target: &Target<'_>) -> Result<Pipe, CannotDial> {
        self.ticker.tick(now);
        let name = ServerName::try_from(target.host.to_owned()).map_err(|_| CannotDial::Name)?;
        let roots = self.roots.get_or_insert_with(crypto::public_roots).clone();
        let verifier = Verifier::new(target.trust, roots, &self.provider).ok_or(CannotDial::Tls)?;
        let (verifier, clock) = (Arc::new(verifier), self.ticker.clock());
        let (protocol, framing) = match target.kind {
            Kind::Tls => (ALPN, Framing::Bytes),
        };
        let config = crypto::client_tls(verifier.clone(), protocol, &self.provider, clock).ok_or(CannotDial::Tls)?;
        let tls = Tls::client(config, name, verifier).ok_or(CannotDial::Tls)?;
        Ok(Pipe::new(now, Carrier::Tls(Box::new(tls)), framing, target.windows))
    }
}

/// Makes the server's pipes: what they have in common.
#[derive(Debug, Clone)]
pub struct Acceptor {
    tls: Arc<rustls::ServerConfig>,
    windows: Windows,
}

impl Acceptor {
    /// `unix_time` is the wall-clock time (since 1970).
    ///
    /// # Errors
    /// [`BadIdentity`] when certificate and key do not make a server.
    pub fn new(identity: &Identity, windows: Windows, unix_time: Duration) -> Result<Self, BadIdentity> {
        // Its time is asked for by tickets only, and there are none.
        let tls = crypto::server_tls(identity, &[ALPN], Ticker::new(unix_time).clock())?;
        Ok(Self { tls: Arc::new(tls), windows })
    }

    /// A pipe for a TCP connection that was accepted.
    #[must_use]
    pub fn accept(&self, now: Instant) -> Pipe {
        Pipe::new(now, Carrier::Unknown(self.clone()), Framing::Bytes, self.windows)
    }
}

/// What happened on a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link is there.
    Connected {
        /// How the server was recognised; [`CertificateSeen::NotAsked`] on the server's side.
        certificate: CertificateSeen,
        /// What runs in the pipe.
        transport: Transport,
    },
    /// There may be something to read. Said when something arrives and not again for what was left unread.
    Readable,
    /// A write that was [`Write::Blocked`] may go on.
    Writable,
    /// The link is over, and this is its last event. What arrived before can still be read. Not said after a [`Pipe::close`] of our
    /// own.
    Closed(Closed),
}

/// Why a pipe ended, when it was not us who closed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Both sides said all they had to say.
    #[error("both sides are done")]
    Ended,
    /// TLS ended it.
    #[error(transparent)]
    Tls(#[from] TlsFailure),
    /// What a client sent first is nothing that is spoken here.
    #[error("the other end speaks another protocol")]
    Unknown,
    /// The link was not there in time, or nothing was heard for too long.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The connection broke off.
    #[error("the connection was lost")]
    Lost,
}

/// What to do with the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Go on.
    Live,
    /// All is written: end it in good order.
    Finish,
    /// Let it go.
    Abort,
}

/// What carries the link's bytes.
#[derive(Debug)]
enum Carrier {
    /// A client that has not said enough.
    Unknown(Acceptor),
    Tls(Box<Tls>),
}

/// How the link's bytes lie in what the carrier carries.
#[derive(Debug)]
enum Framing {
    /// As they are.
    Bytes,
}

/// Which directions go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Both,
    /// We finished.
    Reading,
    /// The other side finished.
    Writing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening {
        deadline: Instant,
    },
    Open(Flow),
    /// All is said; what comes is thrown away until the other side's end, so that no reset overtakes our last bytes.
    Lingering {
        deadline: Instant,
    },
    /// The rest goes out.
    Flushing {
        deadline: Instant,
    },
    Over(Fate),
}

/// Plaintext that waits for the owner.
#[derive(Debug)]
struct Inbox {
    pieces: VecDeque<Bytes>,
    len: usize,
    window: usize,
    /// The other side said that nothing follows.
    ended: bool,
}

impl Inbox {
    fn push(&mut self, piece: Bytes) {
        self.len = self.len.saturating_add(piece.len());
        self.pieces.push_back(piece);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.len = self.len.saturating_sub(piece.len());
        Some(piece)
    }

    const fn is_full(&self) -> bool {
        self.len >= self.window
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Pipe {
    input: Input,
    output: Output,
    carrier: Carrier,
    framing: Framing,
    phase: Phase,
    inbox: Inbox,
    send_window: usize,
    /// A write was turned away.
    blocked: bool,
    /// The lower side has something to do that it has not been told of.
    touched: bool,
    events: VecDeque<Event>,
}

impl Pipe {
    fn new(now: Instant, carrier: Carrier, framing: Framing, windows: Windows) -> Self {
        let mut pipe = Self {
            input: Input::new(),
            output: Output::default(),
            carrier,
            framing,
            phase: Phase::Opening { deadline: now + OPEN_WITHIN },
            inbox: Inbox { pieces: VecDeque::new(), len: 0, window: windows.receive, ended: false },
            send_window: windows.send,
            blocked: false,
            touched: true,
            events: VecDeque::new(),
        };
        // A client speaks first.
        pipe.advance(now);
        pipe
    }

    /// Where the next bytes from the socket go. Empty: do not read now.
    #[must_use]
    pub fn read_buffer(&mut self) -> &mut [u8] {
        match self.phase {
            Phase::Open(Flow::Both | Flow::Reading) if self.inbox.is_full() => &mut [],
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Reading) | Phase::Lingering { .. } => {
                self.input.room()
            }
            Phase::Open(Flow::Writing) | Phase::Flushing { .. } | Phase::Over(_) => &mut [],
        }
    }

    /// So many bytes were put into [`Self::read_buffer`].
    pub fn handle_filled(&mut self, now: Instant, count: usize) {
        self.input.filled(count);
        self.advance(now);
    }

    /// The other side sends no more.
    pub fn handle_eof(&mut self, now: Instant) {
        match self.phase {
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Reading) => self.lose(),
            Phase::Lingering { deadline } => {
                self.phase = Phase::Flushing { deadline };
                self.settle(now);
            }
            Phase::Open(Flow::Writing) | Phase::Flushing { .. } | Phase::Over(_) => {}
        }
    }

    /// The socket failed.
    pub fn handle_failed(&mut self) {
        match self.phase {
            Phase::Opening { .. } | Phase::Open(_) => self.lose(),
            Phase::Lingering { .. } | Phase::Flushing { .. } => self.over(Fate::Abort),
            Phase::Over(_) => {}
        }
    }

    /// What waits for the socket, first things first; returns how many slices were filled in.
    #[must_use]
    pub fn output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.output.slices(slices)
    }

    /// The socket took so many bytes of [`Self::output`].
    pub fn handle_wrote(&mut self, now: Instant, count: usize) {
        self.output.wrote(count);
        if self.blocked && self.output.len() <= self.send_window / 2 {
            self.blocked = false;
            self.tell(Event::Writable);
        }
        self.settle(now);
    }

    /// What to do with the socket.
    #[must_use]
    pub const fn fate(&self) -> Fate {
        match self.phase {
            Phase::Over(fate) => fate,
            Phase::Opening { .. } | Phase::Open(_) | Phase::Lingering { .. } | Phase::Flushing { .. } => Fate::Live,
        }
    }

    /// Whether the lower side should look at the pipe again: there is something to write, room to read, or its fate is decided.
    #[must_use]
    pub fn poll_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Opening { deadline } | Phase::Lingering { deadline } | Phase::Flushing { deadline } => {
                Some(deadline)
            }
            Phase::Open(_) | Phase::Over(_) => None,
        }
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Opening { deadline } if deadline <= now => {
                self.tell(Event::Closed(Closed::TimedOut));
                self.over(Fate::Abort);
            }
            Phase::Lingering { deadline } | Phase::Flushing { deadline } if deadline <= now => {
                let fate = if self.output.is_empty() { Fate::Finish } else { Fate::Abort };
                self.over(fate);
            }
            Phase::Opening { .. }
            | Phase::Open(_)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => {}
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next bytes of the link, as they arrived.
    pub fn read(&mut self) -> Read {
        let was_full = self.inbox.is_full();
        if let Some(piece) = self.inbox.pop() {
            self.touched |= was_full && !self.inbox.is_full();
            return Read::Data(piece);
        }
        if self.inbox.ended {
            return Read::End;
        }
        match self.phase {
            Phase::Opening { .. } | Phase::Open(_) => Read::Blocked,
            Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => Read::Gone,
        }
    }

    /// Writes what the window allows; `data` keeps the rest.
    pub fn write(&mut self, now: Instant, data: &mut Bytes) -> Write {
        match self.phase {
            Phase::Opening { .. } => {
                self.blocked = true;
                return Write::Blocked;
            }
            Phase::Open(Flow::Both | Flow::Writing) => {}
            Phase::Open(Flow::Reading) | Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => {
                return Write::Gone;
            }
        }
        while !data.is_empty() {
            if self.output.len() >= self.send_window {
                self.blocked = true;
                return Write::Blocked;
            }
            let piece = data.split_to(data.len().min(PIECE));
            let sent = match &mut self.framing {
                Framing::Bytes => self.carrier.send(&mut self.input, &mut self.output, piece),
            };
            if let Err(closed) = sent {
                self.fail(now, closed);
                return Write::Gone;
            }
            self.touched = true;
        }
        Write::Done
    }

    /// Says that nothing more will be written; the other side reads [`Read::End`]. Once both did so, [`Closed::Ended`] follows.
    pub fn finish(&mut self, now: Instant) {
        let next = match self.phase {
            Phase::Open(Flow::Both) => Phase::Open(Flow::Reading),
            Phase::Open(Flow::Writing) => Phase::Flushing { deadline: now + LINGER },
            Phase::Opening { .. }
            | Phase::Open(Flow::Reading)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => return,
        };
        self.end();
        if matches!(next, Phase::Flushing { .. }) {
            self.tell(Event::Closed(Closed::Ended));
        }
        self.phase = next;
        self.settle(now);
    }

    /// Ends the link: what was written goes out first, if it can within [`LINGER`]; what was not read is lost; no event follows.
    pub fn close(&mut self, now: Instant) {
        let deadline = now + LINGER;
        let next = match self.phase {
            Phase::Opening { .. } => return self.over(Fate::Abort),
            Phase::Open(Flow::Both | Flow::Reading) => Phase::Lingering { deadline },
            Phase::Open(Flow::Writing) => Phase::Flushing { deadline },
            Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => return,
        };
        if self.phase != Phase::Open(Flow::Reading) {
            self.end();
        }
        self.phase = next;
        self.input.close();
        self.inbox = Inbox { pieces: VecDeque::new(), len: 0, window: self.inbox.window, ended: false };
        self.events.clear();
        self.settle(now);
    }

    /// Changes how much may wait.
    pub fn set_windows(&mut self, windows: Windows) {
        self.touched |= self.inbox.is_full() && windows.receive > self.inbox.len;
        self.inbox.window = windows.receive;
        self.send_window = windows.send;
        if self.blocked && self.output.len() < self.send_window && matches!(self.phase, Phase::Open(_)) {
            self.blocked = false;
            self.tell(Event::Writable);
        }
    }

    /// How many bytes wait for the socket.
    #[must_use]
    pub const fn unsent(&self) -> usize {
        self.output.len()
    }
}

impl Pipe {
    /// Works on what arrived.
    fn advance(&mut self, now: Instant) {
        match self.phase {
            Phase::Opening { .. } | Phase::Open(_) => {
                if let Err(closed) = self.absorb(now) {
                    self.fail(now, closed);
                }
            }
            Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => self.input.clear(),
        }
        self.touched |= !self.output.is_empty();
        self.settle(now);
    }

    fn absorb(&mut self, now: Instant) -> Result<(), Closed> {
        let waiting = self.inbox.len;
        loop {
            match &mut self.carrier {
                Carrier::Unknown(acceptor) => match self.input.bytes().first() {
                    None => return Ok(()),
                    Some(&TLS_HANDSHAKE) => {
                        let tls = Tls::server(acceptor.tls.clone()).ok_or(TlsFailure::Broken)?;
                        self.carrier = Carrier::Tls(Box::new(tls));
                    }
                    Some(_) => return Err(Closed::Unknown),
                },
                Carrier::Tls(tls) => {
                    let (inbox, framing) = (&mut self.inbox, &mut self.framing);
                    let mut deliver = |plain: &[u8]| match framing {
                        Framing::Bytes => inbox.push(Bytes::copy_from_slice(plain)),
                    };
                    let step = tls.step(&mut self.input, &mut self.output, &mut deliver)?;
                    if matches!(self.phase, Phase::Opening { .. }) && !tls.is_handshaking() {
                        self.connected()?;
                    }
                    if step == Step::Wait {
                        break;
                    }
                }
            }
        }
        if self.inbox.len > waiting {
            self.tell(Event::Readable);
        }
        let ended = match &self.carrier {
            Carrier::Unknown(_) => false,
            Carrier::Tls(tls) => tls.has_ended(),
        };
        if ended {
            self.handle_end(now);
        }
        Ok(())
    }

    fn connected(&mut self) -> Result<(), Closed> {
        let Carrier::Tls(tls) = &self.carrier else { return Ok(()) };
        // A server that knows nothing of protocols agrees to none, and is no relay.
        if tls.protocol() != Some(ALPN) {
            return Err(TlsFailure::NoCommonProtocol.into());
        }
        let certificate = tls.certificate();
        self.phase = Phase::Open(Flow::Both);
        self.tell(Event::Connected { certificate, transport: Transport::Tls });
        if std::mem::take(&mut self.blocked) {
            self.tell(Event::Writable);
        }
        Ok(())
    }

    /// The other side said that nothing follows.
    fn handle_end(&mut self, now: Instant) {
        self.inbox.ended = true;
        match self.phase {
            Phase::Open(Flow::Both) => {
                self.phase = Phase::Open(Flow::Writing);
                self.tell(Event::Readable);
            }
            Phase::Open(Flow::Reading) => {
                self.tell(Event::Closed(Closed::Ended));
                self.phase = Phase::Flushing { deadline: now + LINGER };
            }
            Phase::Opening { .. }
            | Phase::Open(Flow::Writing)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => {}
        }
    }

    /// Our own end. If it cannot be said, the other side notices that the pipe ends without.
    fn end(&mut self) {
        let _ = match &mut self.carrier {
            Carrier::Unknown(_) => Ok(()),
            Carrier::Tls(tls) => tls.close(&mut self.input, &mut self.output),
        };
        self.touched = true;
    }

    /// The link ends by somebody's fault; what is to be said about it is in the output.
    fn fail(&mut self, now: Instant, closed: Closed) {
        self.tell(Event::Closed(closed));
        self.input.close();
        self.phase = Phase::Lingering { deadline: now + LINGER };
    }

    fn lose(&mut self) {
        self.tell(Event::Closed(Closed::Lost));
        self.over(Fate::Abort);
    }

    fn over(&mut self, fate: Fate) {
        self.phase = Phase::Over(fate);
        self.input.close();
        self.output.clear();
        self.touched = true;
    }

    fn settle(&mut self, _now: Instant) {
        if matches!(self.phase, Phase::Flushing { .. }) && self.output.is_empty() {
            self.over(Fate::Finish);
        }
    }

    /// Each kind of event waits at most once.
    fn tell(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }
}

impl Carrier {
    fn send(&mut self, input: &mut Input, output: &mut Output, piece: Bytes) -> Result<(), Closed> {
        match self {
            Self::Unknown(_) => Ok(()),
            Self::Tls(tls) => Ok(tls.send(input, output, &piece)?),
        }
    }
}

#[cfg(test)]
#[path = "pipe_tests.rs"]
mod tests;
