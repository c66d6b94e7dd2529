//! One TCP connection with the protocols in it, as one link: for clients that dial a relay, for the relay, and for two
//! peers.
//!
//! Decides which protocols run in the TCP connection (a server decides by the first bytes and by ALPN), when the link
//! is open, how many bytes may be buffered in either direction, and how the link ends (`ending`).
//! ```text
//! opening: [proxy │ first bytes] → [TLS] → [upgrade] ─► open ─► (both finished │ closed) lingering ─► flushing ─► over
//!     └──────────── refused, broken, too slow ────┴──────────────── lost, broken ──────────────────────────┴─► over
//! ```
//! Inside TLS, the ALPN protocol `tallow/1` means that the link's bytes follow at once; any other means that the client
//! requests a WebSocket. Without TLS only a WebSocket is possible, and a server accepts it only if that was allowed,
//! for use behind a proxy that terminates TLS. A side ends its direction with TLS's `close_notify` or with a WebSocket
//! close frame; a TCP connection that ends without either counts as lost, because anyone on the network path can cut a
//! TCP connection. A WebSocket can send a close code and a reason; TLS cannot. Two peers of one network may exchange
//! the link's bytes without TLS, because their records are sealed; such a link has no end marker. Its long records are
//! read into buffers of their own (`records.rs`).
//!
//! Interface to the socket: [`TcpLink::read_buffer`], [`TcpLink::handle_filled`], [`TcpLink::handle_eof`],
//! [`TcpLink::handle_failed`], [`TcpLink::output`], [`TcpLink::handle_wrote`] and [`TcpLink::socket_action`].
//! [`TcpLink::poll_touched`] reports when they have changed. Interface to the owner: [`TcpLink::read`],
//! [`TcpLink::write`], [`TcpLink::finish`], [`TcpLink::close`], [`TcpLink::poll_event`].
//!
//! Timers: [`OPEN_WITHIN`] (with a proxy [`OPEN_WITHIN_PROXIED`]) until the link is open, [`LINGER`] after the last
//! bytes, a WebSocket's pings and its idle timeout. Bounds: received bytes up to the receive window and one read (64
//! KiB, or a long record); unsent bytes up to the send window and one piece ([`PIECE`]); three events. Copies: received
//! bytes are decrypted in place, copied by rustls, and copied once more for the owner. Sent bytes are sealed and copied
//! once by rustls; before that, a WebSocket in TLS copies them behind their frame header. On a TCP connection without
//! TLS, sent bytes are not copied and received bytes are copied once; the bytes of a long record are not copied, except
//! those that arrived in the same read as earlier bytes.

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
pub use event::{Closed, Event, SocketAction, Windows};
#[cfg(any(test, feature = "internals"))]
pub use setup::CannotDial;
pub use setup::{Acceptor, BareWebSocket, Dialler, Kind, Target, Transport};

/// Time limit for opening the link.
pub const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Time limit for opening the link through a proxy, which may need to build its own path first (as Tor does).
pub const OPEN_WITHIN_PROXIED: Duration = Duration::from_secs(30);
/// Time limit for sending the last bytes and for the other side's end after them.
pub const LINGER: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are sealed or framed at once. With a frame's header they fill four TLS records.
const PIECE: usize = 64 * 1024 - 8;

/// The layer below the framing.
#[derive(Debug)]
enum Layer {
    /// A server that has not received enough bytes to recognise the protocol.
    Unknown(Acceptor),
    /// A conversation with a proxy, and the layer that follows once the proxy has connected.
    Proxy {
        conversation: Conversation,
        then: Box<Layer>,
    },
    Bare,
    Tls(Box<Tls>),
}

/// Which directions are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Both,
    /// This side has finished; it still reads.
    Reading,
    /// The other side has finished; this side still writes.
    Writing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening {
        deadline: Instant,
    },
    Open(Flow),
    /// This side has sent its end. It discards received bytes until the other side's end, so that no TCP reset
    /// overtakes the last bytes.
    Lingering {
        deadline: Instant,
    },
    /// The remaining output is being written.
    Flushing {
        deadline: Instant,
    },
    Over(SocketAction),
}

/// One TCP connection as a link; the module's documentation describes its states.
#[derive(Debug)]
pub struct TcpLink {
    input: Input,
    output: Output,
    layer: Layer,
    framing: Framing,
    phase: Phase,
    inbox: Inbox,
    send_window: usize,
    /// For a server: whether it accepts WebSockets from web pages.
    browsers: Browsers,
    /// Whether a write was blocked since the last [`Event::Writable`].
    blocked: bool,
    /// Whether something changed for the socket that was not reported by [`TcpLink::poll_touched`] yet.
    touched: bool,
    events: VecDeque<Event>,
}

impl TcpLink {
    fn new(now: Instant, open_within: Duration, layer: Layer, framing: Framing, windows: Windows) -> Self {
        let mut tcp = Self {
            input: Input::new(),
            output: Output::default(),
            layer,
            framing,
            phase: Phase::Opening { deadline: now + open_within },
            inbox: Inbox::new(windows.receive),
            send_window: windows.send,
            browsers: Browsers::Refused,
            blocked: false,
            touched: true,
            events: VecDeque::new(),
        };
        // A client sends the first bytes.
        tcp.advance(now);
        tcp
    }

    /// The buffer for the next bytes from the socket. If it is empty, the caller must not read now.
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

    /// The socket wrote this many bytes into [`Self::read_buffer`].
    pub fn handle_filled(&mut self, now: Instant, count: usize) {
        match self.framing.records() {
            Some(records) if records.assembling() > 0 => records.filled(count),
            Some(_) | None => self.input.filled(count),
        }
        self.advance(now);
    }

    /// Fills `slices` with the bytes that wait for the socket, in order; returns the number of filled slices.
    #[must_use]
    pub fn output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.output.slices(slices)
    }

    /// The socket accepted this many bytes of [`Self::output`].
    pub fn handle_wrote(&mut self, now: Instant, count: usize) {
        self.output.wrote(count);
        if self.blocked && self.output.len() <= self.send_window / 2 {
            self.blocked = false;
            self.queue_event(Event::Writable);
        }
        if let Err(closed) = self.send_pending(now) {
            self.fail(now, closed);
        }
        self.settle();
    }

    /// Whether the caller should serve the TCP connection's socket again: the TCP connection has output, has room to
    /// read, or wants its socket closed.
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

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Opening { deadline } if deadline <= now => self.time_out(),
            Phase::Lingering { deadline } | Phase::Flushing { deadline } if deadline <= now => {
                let action = if self.output.is_empty() { SocketAction::Finish } else { SocketAction::Abort };
                self.over(action);
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

    /// The next received bytes of the link, in the pieces in which they arrived.
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

    /// Writes as many bytes as the window allows; `data` keeps the rest.
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
            let in_one = matches!(self.layer, Layer::Tls(_));
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

    /// The owner has authenticated the peer on this link: from now on, the long records of a TCP connection without TLS
    /// are read into buffers of their own, and so arrive in one piece.
    pub fn assemble(&mut self, buffers: Arc<Pool>) {
        if let Some(records) = self.framing.records() {
            records.assemble(buffers);
        }
    }

    /// The number of received bytes of an incomplete long record, which cannot be read yet.
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

    /// Sends a ping on a WebSocket, whose other end must answer it (RFC 6455 §5.5.2), if nothing was received since
    /// `fresh`.
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
        let Some(socket) = self.framing.socket().filter(|socket| socket.last_received() < fresh) else { return false };
        socket.ping_now(now);
        if let Err(closed) = self.send_pending(now) {
            self.fail(now, closed);
        }
        self.touched = true;
        true
    }

    /// Whether this is an accepted TCP connection on which no bytes have arrived yet.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        matches!(self.layer, Layer::Unknown(_)) && self.input.len() == 0
    }

    /// Changes the windows.
    pub fn set_windows(&mut self, windows: Windows) {
        self.touched |= self.inbox.is_full() && windows.receive > self.inbox.len();
        self.inbox.window = windows.receive;
        self.send_window = windows.send;
        if self.blocked && self.output.len() < self.send_window && matches!(self.phase, Phase::Open(_)) {
            self.blocked = false;
            self.queue_event(Event::Writable);
        }
    }

    /// The present windows.
    #[must_use]
    pub const fn windows(&self) -> Windows {
        Windows { receive: self.inbox.window, send: self.send_window }
    }

    /// The number of bytes that wait for the socket.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn unsent(&self) -> usize {
        self.output.len()
    }
}

impl TcpLink {
    /// Processes the received bytes.
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
        // This comes last, because rustls cannot seal data while a complete record waits to be decrypted.
        let result = result.and_then(|_| self.send_pending(now));
        if self.inbox.len() > waiting {
            self.queue_event(Event::Readable);
        }
        result?;
        self.look_for_end(now)
    }

    /// One step of the layers below the link.
    fn work(&mut self, now: Instant) -> Result<Step, Closed> {
        match &mut self.layer {
            Layer::Unknown(acceptor) => {
                match acceptor.judge(self.input.bytes()) {
                    First::TooFew => return Ok(Step::Wait),
                    First::Tls(tls) => self.layer = Layer::Tls(tls),
                    First::WebSocket => {
                        self.layer = Layer::Bare;
                        self.framing = Framing::answer(self.browsers);
                    }
                    First::Unknown => return Err(Closed::Unknown),
                }
                Ok(Step::Again)
            }
            Layer::Proxy { conversation, then } => {
                let step = conversation.receive(self.input.bytes())?;
                while let Some(say) = conversation.poll_message() {
                    self.output.push(say);
                }
                match step {
                    Progress::Wait => return Ok(Step::Wait),
                    Progress::Took(count) => self.input.consume(count),
                    Progress::Through(count) => {
                        self.input.consume(count);
                        let then = std::mem::replace(&mut **then, Layer::Bare);
                        self.layer = then;
                    }
                }
                Ok(Step::Again)
            }
            Layer::Bare => {
                let result = self.framing.receive(now, self.input.bytes(), &mut self.inbox);
                self.input.clear();
                result.map(|()| Step::Wait)
            }
            Layer::Tls(tls) => {
                let (inbox, framing, mut result) = (&mut self.inbox, &mut self.framing, Ok(()));
                let mut deliver = |plain: &[u8]| {
                    if result.is_ok() {
                        result = framing.receive(now, plain, inbox);
                    }
                };
                let step = tls.step(&mut self.input, &mut self.output, &mut deliver)?;
                result?;
                // The client's ALPN protocols are known before the client can send data for them.
                if tls.is_server() && tls.is_handshaking() {
                    self.framing =
                        if tls.protocol() == Some(ALPN) { Framing::Bytes } else { Framing::answer(self.browsers) };
                }
                Ok(step)
            }
        }
    }

    /// Sends the pending bytes of the framing, and reports when the link is open.
    fn send_pending(&mut self, now: Instant) -> Result<(), Closed> {
        let may_speak = match self.phase {
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Writing) => self.layer.is_ready(),
            Phase::Open(Flow::Reading) | Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => false,
        };
        while may_speak
            && self.output.len() < self.send_window
            && let Some(say) = self.framing.poll_message(now)
        {
            self.send(say)?;
        }
        if !may_speak || !matches!(self.phase, Phase::Opening { .. }) {
            return Ok(());
        }
        let (certificate, transport) = match (&self.framing, &self.layer) {
            (Framing::Bytes, Layer::Tls(tls)) if tls.protocol() == Some(ALPN) => (tls.certificate(), Transport::Tls),
            (Framing::Records(_), _) => (CertificateSeen::NotAsked, Transport::Plain),
            // A server without ALPN support selects no protocol, and is not a relay.
            (Framing::Bytes, _) => {
                return Err(TlsFailure::NoCommonProtocol.into());
            }
            (Framing::WebSocket { .. }, Layer::Tls(tls)) => (tls.certificate(), Transport::SecureWebSocket),
            (Framing::WebSocket { .. }, Layer::Bare | Layer::Unknown(_) | Layer::Proxy { .. }) => {
                (CertificateSeen::NotAsked, Transport::WebSocket)
            }
            (Framing::Undecided | Framing::Upgrading { .. } | Framing::Refused { .. }, _) => return Ok(()),
        };
        self.phase = Phase::Open(Flow::Both);
        self.queue_event(Event::Connected { certificate, transport });
        if std::mem::take(&mut self.blocked) {
            self.queue_event(Event::Writable);
        }
        Ok(())
    }

    fn send(&mut self, bytes: Bytes) -> Result<(), Closed> {
        self.touched = true;
        match &mut self.layer {
            Layer::Unknown(_) | Layer::Proxy { .. } => {}
            Layer::Bare => self.output.push(bytes),
            Layer::Tls(tls) => tls.send(&mut self.input, &mut self.output, &bytes)?,
        }
        Ok(())
    }

    fn keep_alive(&mut self, now: Instant, flow: Flow) {
        let (paused, stuck) = (self.inbox.is_full(), self.output.len() >= self.send_window);
        let Some(socket) = self.framing.socket() else { return };
        if paused {
            socket.restart_idle(now);
        }
        if flow != Flow::Writing && socket.lost_at() <= now {
            return self.time_out();
        }
        if stuck {
            socket.skip_ping(now);
        }
        if let Err(closed) = self.send_pending(now) {
            self.fail(now, closed);
        }
    }

    /// Queues an event, unless one of the same kind is queued already.
    fn queue_event(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }
}

impl Layer {
    /// Whether the carrier can send and receive the framing's bytes.
    fn is_ready(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::Proxy { .. } => false,
            Self::Bare => true,
            Self::Tls(tls) => !tls.is_handshaking(),
        }
    }

    /// Sends the end marker of the carrier, if it has one and can still send it.
    fn close(&mut self, input: &mut Input, output: &mut Output) {
        match self {
            Self::Unknown(_) | Self::Proxy { .. } | Self::Bare => {}
            Self::Tls(tls) if tls.is_handshaking() => {}
            Self::Tls(tls) => drop(tls.close(input, output)),
        }
    }
}

#[cfg(test)]
mod tests;
