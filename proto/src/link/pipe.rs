//! One TCP connection and what runs in it, as one link: for clients that dial a relay and for the relay that is dialled.
//!
//! Decides what runs in the pipe (on the server's side by the first bytes and by ALPN), when the link is there, how much may wait
//! in either direction, and how it ends (`ending`).
//! ```text
//! opening: [proxy │ first bytes] → [TLS] → [upgrade] ─► open ─► (both sides finished, or one closed) lingering ─► flushing ─► over
//!     └──────────── refused, broken, too slow ────┴──────────────── lost, broken ──────────────────────────┴─► over
//! ```
//! Inside TLS, `tallow/1` by ALPN means that the link's bytes follow at once, anything else that a WebSocket is asked for. Without
//! TLS only a WebSocket is spoken, and by a server only where it was allowed, behind a proxy that has TLS. The end of what one
//! side says is TLS's `close_notify` or WebSocket's close frame; a pipe that ends without it is lost, since anybody on the way can
//! cut a pipe. TLS has no word for a code and a reason; WebSocket has. Between two peers of one network the bytes may run plain, as
//! their records are sealed; such a link has no word for its end either. Its long records have buffers of their own (`records.rs`).
//!
//! Lower side: [`Pipe::read_buffer`], [`Pipe::handle_filled`], [`Pipe::handle_eof`], [`Pipe::handle_failed`], [`Pipe::output`],
//! [`Pipe::handle_wrote`], and [`Pipe::fate`] for what to do with the socket. [`Pipe::poll_touched`] tells when to look again.
//! Upper side: [`Pipe::read`], [`Pipe::write`], [`Pipe::finish`], [`Pipe::close`], [`Pipe::poll_event`].
//!
//! Timers: [`OPEN_WITHIN`] (with a proxy [`OPEN_WITHIN_PROXIED`]) until the link is there, [`LINGER`] after the last word, a WebSocket's pings and silence.
//! Bounds: what waits to be read is at most the receive window and one read (64 KiB, or a long record), what waits for the socket at
//! most the send window and one piece ([`PIECE`]); three events.
//! Copies: received bytes are opened in place, copied by rustls, and once more on their way to the owner; sent bytes are sealed by
//! rustls and copied once; a WebSocket in TLS puts them behind their header before that. Plain bytes are not copied when they are
//! sent; received ones once, and those of a long record not at all, but for its beginning where that came with what stands before it.

mod ending;
mod event;
mod framing;
mod inbox;
mod records;
mod setup;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::buffers::{Input, Output};
use super::crypto::ALPN;
use super::proxy::{Conversation, Progress};
use super::tls::{Step, Tls};
use super::trust::CertificateSeen;
use super::websocket::Browsers;
use super::{Read, Write};
use crate::Instant;
use crate::pool::Pool;
use framing::Framing;
use inbox::Inbox;
use records::Records;
use setup::First;

pub use super::tls::TlsFailure;
pub use event::{Closed, Event, Fate, Windows};
pub use setup::{Acceptor, BareWebSocket, CannotDial, Dialler, Kind, Target, Transport};

/// How long it may take until the link is there, from the first call.
pub const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// The same through a proxy, which may have to find its own way first (Tor takes its time).
pub const OPEN_WITHIN_PROXIED: Duration = Duration::from_secs(30);
/// How long the last bytes may take, and the other side's end after them.
pub const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are sealed or framed at once. With a frame's header they fill four records of TLS.
const PIECE: usize = 64 * 1024 - 8;

/// What carries the link's bytes.
#[derive(Debug)]
enum Carrier {
    /// A client that has not said enough.
    Unknown(Acceptor),
    /// A proxy, and what comes once it let us through.
    Proxy {
        conversation: Conversation,
        then: Box<Carrier>,
    },
    Bare,
    Tls(Box<Tls>),
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
    /// For a server.
    browsers: Browsers,
    /// A write was turned away.
    blocked: bool,
    /// The lower side has something to do that it has not been told of.
    touched: bool,
    events: VecDeque<Event>,
}

impl Pipe {
    fn new(now: Instant, open_within: Duration, carrier: Carrier, framing: Framing, windows: Windows) -> Self {
        let mut pipe = Self {
            input: Input::new(),
            output: Output::default(),
            carrier,
            framing,
            phase: Phase::Opening { deadline: now + open_within },
            inbox: Inbox::new(windows.receive),
            send_window: windows.send,
            browsers: Browsers::Refused,
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
                match self.framing.records().and_then(Records::room) {
                    Some(room) => room,
                    None => self.input.room(self.inbox.window),
                }
            }
            Phase::Open(Flow::Writing) | Phase::Flushing { .. } | Phase::Over(_) => &mut [],
        }
    }

    /// So many bytes were put into [`Self::read_buffer`].
    pub fn handle_filled(&mut self, now: Instant, count: usize) {
        match self.framing.records() {
            Some(records) if records.assembling() > 0 => records.filled(count),
            Some(_) | None => self.input.filled(count),
        }
        self.advance(now);
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
        if let Err(closed) = self.speak(now) {
            self.fail(now, closed);
        }
        self.settle();
    }

    /// Whether the lower side should look at the pipe again: there is something to write, room to read, or its fate is decided.
    #[must_use]
    pub fn poll_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.phase, &self.framing) {
            (Phase::Opening { deadline } | Phase::Lingering { deadline } | Phase::Flushing { deadline }, _) => {
                Some(deadline)
            }
            (Phase::Open(Flow::Both), Framing::WebSocket { socket, .. }) => {
                Some(socket.next_ping().min(socket.lost_at()))
            }
            (Phase::Open(Flow::Writing), Framing::WebSocket { socket, .. }) => Some(socket.next_ping()),
            (Phase::Open(Flow::Reading), Framing::WebSocket { socket, .. }) => Some(socket.lost_at()),
            (
                Phase::Open(_) | Phase::Over(_),
                Framing::Undecided
                | Framing::Bytes
                | Framing::Records(_)
                | Framing::Upgrading { .. }
                | Framing::WebSocket { .. }
                | Framing::Refused { .. },
            ) => None,
        }
    }

    /// Deadlines may have come. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Opening { deadline } if deadline <= now => self.time_out(),
            Phase::Lingering { deadline } | Phase::Flushing { deadline } if deadline <= now => {
                let fate = if self.output.is_empty() { Fate::Finish } else { Fate::Abort };
                self.over(fate);
            }
            Phase::Open(flow) => self.keep_alive(now, flow),
            Phase::Opening { .. } | Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => {}
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
            let in_one = matches!(self.carrier, Carrier::Tls(_));
            let (first, second) = match self.framing.socket() {
                Some(socket) => socket.frame(piece, in_one),
                None => (piece, None),
            };
            let sent = self.send(first).and_then(|()| second.map_or(Ok(()), |second| self.send(second)));
            if let Err(closed) = sent {
                self.fail(now, closed);
                return Write::Gone;
            }
            self.touched = true;
        }
        Write::Done
    }

    /// The link has proven to be the other peer's: the long records of a plain pipe are read into buffers of their own from now on,
    /// and so come in one piece.
    pub fn assemble(&mut self, buffers: Arc<Pool>) {
        if let Some(records) = self.framing.records() {
            records.assemble(buffers);
        }
    }

    /// How many bytes are here of a record that is not whole, so that they cannot be read yet.
    #[must_use]
    pub fn assembling(&self) -> usize {
        match &self.framing {
            Framing::Records(records) => records.assembling(),
            Framing::Undecided
            | Framing::Bytes
            | Framing::Upgrading { .. }
            | Framing::WebSocket { .. }
            | Framing::Refused { .. } => 0,
        }
    }

    /// Sends a ping where there is one: in a WebSocket, whose other end must answer it (RFC 6455 §5.5.2), if nothing
    /// was heard since `fresh`.
    #[must_use]
    pub fn probe(&mut self, now: Instant, fresh: Instant) -> bool {
        match self.phase {
            Phase::Open(Flow::Both | Flow::Writing) => {}
            Phase::Opening { .. }
            | Phase::Open(Flow::Reading)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => return false,
        }
        let Some(socket) = self.framing.socket().filter(|socket| socket.last_heard() < fresh) else { return false };
        socket.ping_now(now);
        if let Err(closed) = self.speak(now) {
            self.fail(now, closed);
        }
        self.touched = true;
        true
    }

    /// Whether it was accepted, and nothing has arrived yet.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        matches!(self.carrier, Carrier::Unknown(_)) && self.input.len() == 0
    }

    /// Changes how much may wait.
    pub fn set_windows(&mut self, windows: Windows) {
        self.touched |= self.inbox.is_full() && windows.receive > self.inbox.len();
        self.inbox.window = windows.receive;
        self.send_window = windows.send;
        if self.blocked && self.output.len() < self.send_window && matches!(self.phase, Phase::Open(_)) {
            self.blocked = false;
            self.tell(Event::Writable);
        }
    }

    /// How much may wait.
    #[must_use]
    pub const fn windows(&self) -> Windows {
        Windows { receive: self.inbox.window, send: self.send_window }
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
        self.settle();
    }

    fn absorb(&mut self, now: Instant) -> Result<(), Closed> {
        let waiting = self.inbox.len();
        let mut result = Ok(Step::Again);
        while matches!(result, Ok(Step::Again)) {
            result = self.work(now);
        }
        // Not before: nothing can be sealed while a whole record waits to be opened.
        let result = result.and_then(|_| self.speak(now));
        if self.inbox.len() > waiting {
            self.tell(Event::Readable);
        }
        result?;
        self.look_for_end(now)
    }

    /// One step of what lies below the link.
    fn work(&mut self, now: Instant) -> Result<Step, Closed> {
        match &mut self.carrier {
            Carrier::Unknown(acceptor) => {
                match acceptor.judge(self.input.bytes()) {
                    First::TooFew => return Ok(Step::Wait),
                    First::Tls(tls) => self.carrier = Carrier::Tls(tls),
                    First::WebSocket => {
                        self.carrier = Carrier::Bare;
                        self.framing = Framing::answer(self.browsers);
                    }
                    First::Unknown => return Err(Closed::Unknown),
                }
                Ok(Step::Again)
            }
            Carrier::Proxy { conversation, then } => {
                let step = conversation.receive(self.input.bytes())?;
                while let Some(say) = conversation.poll_say() {
                    self.output.push(say);
                }
                match step {
                    Progress::Wait => return Ok(Step::Wait),
                    Progress::Took(count) => self.input.consume(count),
                    Progress::Through(count) => {
                        self.input.consume(count);
                        let then = std::mem::replace(&mut **then, Carrier::Bare);
                        self.carrier = then;
                    }
                }
                Ok(Step::Again)
            }
            Carrier::Bare => {
                let result = self.framing.receive(now, self.input.bytes(), &mut self.inbox);
                self.input.clear();
                result.map(|()| Step::Wait)
            }
            Carrier::Tls(tls) => {
                let (inbox, framing, mut result) = (&mut self.inbox, &mut self.framing, Ok(()));
                let mut deliver = |plain: &[u8]| {
                    if result.is_ok() {
                        result = framing.receive(now, plain, inbox);
                    }
                };
                let step = tls.step(&mut self.input, &mut self.output, &mut deliver)?;
                result?;
                // The client's wish is known before it can send anything under it.
                if tls.is_server() && tls.is_handshaking() {
                    self.framing =
                        if tls.protocol() == Some(ALPN) { Framing::Bytes } else { Framing::answer(self.browsers) };
                }
                Ok(step)
            }
        }
    }

    /// Says what the framing has to say, and that the link is there once it is.
    fn speak(&mut self, now: Instant) -> Result<(), Closed> {
        let may_speak = match self.phase {
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Writing) => self.carrier.is_ready(),
            Phase::Open(Flow::Reading) | Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => false,
        };
        while may_speak
            && self.output.len() < self.send_window
            && let Some(say) = self.framing.poll_say(now)
        {
            self.send(say)?;
        }
        if !may_speak || !matches!(self.phase, Phase::Opening { .. }) {
            return Ok(());
        }
        let (certificate, transport) = match (&self.framing, &self.carrier) {
            (Framing::Bytes, Carrier::Tls(tls)) if tls.protocol() == Some(ALPN) => (tls.certificate(), Transport::Tls),
            (Framing::Records(_), _) => (CertificateSeen::NotAsked, Transport::Plain),
            // A server that knows nothing of protocols agrees to none, and is no relay.
            (Framing::Bytes, _) => {
                return Err(TlsFailure::NoCommonProtocol.into());
            }
            (Framing::WebSocket { .. }, Carrier::Tls(tls)) => (tls.certificate(), Transport::SecureWebSocket),
            (Framing::WebSocket { .. }, Carrier::Bare | Carrier::Unknown(_) | Carrier::Proxy { .. }) => {
                (CertificateSeen::NotAsked, Transport::WebSocket)
            }
            (Framing::Undecided | Framing::Upgrading { .. } | Framing::Refused { .. }, _) => return Ok(()),
        };
        self.phase = Phase::Open(Flow::Both);
        self.tell(Event::Connected { certificate, transport });
        if std::mem::take(&mut self.blocked) {
            self.tell(Event::Writable);
        }
        Ok(())
    }

    fn send(&mut self, bytes: Bytes) -> Result<(), Closed> {
        self.touched = true;
        match &mut self.carrier {
            Carrier::Unknown(_) | Carrier::Proxy { .. } => {}
            Carrier::Bare => self.output.push(bytes),
            Carrier::Tls(tls) => tls.send(&mut self.input, &mut self.output, &bytes)?,
        }
        Ok(())
    }

    fn keep_alive(&mut self, now: Instant, flow: Flow) {
        let (paused, stuck) = (self.inbox.is_full(), self.output.len() >= self.send_window);
        let Some(socket) = self.framing.socket() else { return };
        if paused {
            socket.heard(now);
        }
        if flow != Flow::Writing && socket.lost_at() <= now {
            return self.time_out();
        }
        if stuck {
            socket.skip_ping(now);
        }
        if let Err(closed) = self.speak(now) {
            self.fail(now, closed);
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
    /// Whether it carries the framing's bytes.
    fn is_ready(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::Proxy { .. } => false,
            Self::Bare => true,
            Self::Tls(tls) => !tls.is_handshaking(),
        }
    }

    /// The carrier's own end, where it has one and can still say it.
    fn close(&mut self, input: &mut Input, output: &mut Output) {
        match self {
            Self::Unknown(_) | Self::Proxy { .. } | Self::Bare => {}
            Self::Tls(tls) if tls.is_handshaking() => {}
            Self::Tls(tls) => drop(tls.close(input, output)),
        }
    }
}

#[cfg(test)]
#[path = "pipe_tests.rs"]
mod tests;
