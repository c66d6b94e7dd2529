//! A WebSocket (RFC 6455) as a carrier of bytes: frames in both directions, pings, and the close with its code.
//!
//! Processes frames. Binary frames contain the link's bytes, and the boundaries of messages have no meaning; a text
//! frame is an error. tungstenite encodes and decodes the frame headers. Its own stream type is not used, because it
//! collects whole messages and draws masks from the system's randomness; this module passes contents on as they arrive.
//! ```text
//! header → data (any length, as it arrives) ┐
//!    ▲   → control (buffered, 125 bytes)    ├─► header … until a close frame: all later bytes are ignored
//!    └──────────────────────────────────────┘
//! ```
//! Timers: a ping every [`PING_EVERY`]; the TCP connection is lost when nothing was received for [`SILENCE`]. Bounds: a
//! frame has at most [`MAX_FRAME`] bytes (nothing is allocated for it), a control frame 125; of several unanswered
//! pings, only the last one is answered (RFC 6455 §5.5.3). Copies: received bytes are copied once and unmasked in the
//! copy. Sent bytes are copied once if they are masked or encrypted; a server without TLS does not copy them.

mod upgrade;

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::Instant;
use crate::wire::untrusted::Untrusted;

pub use upgrade::{Browsers, UpgradeFailure};
pub(super) use upgrade::{Upgrade, is_path};

/// The interval at which each side sends a ping.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// The idle timeout: the link is lost when nothing was received for this long (three ping intervals) while this side
/// reads.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Maximum length of a frame, in bytes.
pub const MAX_FRAME: u64 = 16 * 1024 * 1024;
/// Maximum length of a frame header: two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;
/// Maximum payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;
/// Payloads from this size on are sent as a piece of their own, if possible, and not copied behind their header.
const WORTH_A_PIECE: usize = 1024;
/// The first of the private close codes (RFC 6455 §7.4.2), which are used for our codes.
const PRIVATE: u16 = 4000;
/// The largest of our codes that fits there; larger ones are replaced by this one.
const LAST_OWN: u16 = 999;

/// A violation of the WebSocket protocol by the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketViolation {
    /// The frame has reserved bits or an opcode that was not negotiated (RFC 6455 §5.2).
    #[error("a WebSocket frame of a type that was not negotiated")]
    Reserved,
    /// A frame of a client has no mask, or a frame of a server has one (§5.1).
    #[error("a WebSocket frame with wrong masking")]
    Mask,
    /// The frame is a text frame.
    #[error("a WebSocket text frame")]
    Text,
    /// A continuation frame has no message to continue, or a new message begins inside a message (§5.4).
    #[error("WebSocket fragments that do not fit together")]
    Fragments,
    /// A control frame is fragmented or too long (§5.5).
    #[error("an invalid WebSocket control frame")]
    Control,
    /// A close frame has an incomplete code, a code that must not be sent, or a reason that is not UTF-8 (§5.5.1).
    #[error("an invalid WebSocket close frame")]
    Close,
    /// The frame is longer than [`MAX_FRAME`].
    #[error("a WebSocket frame that is too long")]
    TooLong,
}

impl WebSocketViolation {
    /// The close code for this violation (RFC 6455 §7.4.1).
    const fn code(self) -> u16 {
        match self {
            Self::Reserved | Self::Mask | Self::Fragments | Self::Control | Self::Close => 1002,
            Self::Text => 1003,
            Self::TooLong => 1009,
        }
    }
}

/// How the other side closed the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CloseSeen {
    /// Without an error: it has finished sending.
    Normal,
    /// With one of our codes.
    Own { code: u32, reason: Untrusted },
    /// With a code of RFC 6455 or of another application.
    Other(u16),
}

/// The role of this side; a client has the generator of its masks.
#[derive(Debug)]
pub(super) enum Role {
    Client(Box<ChaCha20Rng>),
    Server,
}

#[derive(Debug)]
enum Reading {
    Header { bytes: [u8; MAX_HEADER], len: usize },
    Data { left: u64, mask: Mask },
    Control { kind: Control, left: usize, mask: Mask, payload: Vec<u8> },
    Closed,
}

/// A mask and the position in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask([u8; 4]);

const HEADER: Reading = Reading::Header { bytes: [0; MAX_HEADER], len: 0 };
const NO_MASK: Mask = Mask([0; 4]);

/// Which frames are allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Between,
    Inside,
}

/// One end of a WebSocket; the module's documentation describes its states.
#[derive(Debug)]
pub(super) struct WebSocket {
    role: Role,
    reading: Reading,
    message: Message,
    pong: Option<Vec<u8>>,
    seen: Option<CloseSeen>,
    next_ping: Instant,
    heard: Instant,
}

impl WebSocket {
    pub(super) fn new(now: Instant, role: Role) -> Self {
        Self {
            role,
            reading: HEADER,
            message: Message::Between,
            pong: None,
            seen: None,
            next_ping: now + PING_EVERY,
            heard: now,
        }
    }

    /// Restarts the idle timeout: bytes arrived, or this side did not read.
    pub(super) const fn restart_idle(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Processes bytes as they arrive, and passes on the payload: still masked, with the mask that the caller applies
    /// to its copy.
    pub(super) fn receive(
        &mut self,
        mut bytes: &[u8],
        deliver: &mut dyn FnMut(&[u8], &mut Mask),
    ) -> Result<(), WebSocketViolation> {
        while !bytes.is_empty() {
            match &mut self.reading {
                Reading::Header { bytes: header, len } => {
                    let Some((&first, rest)) = bytes.split_first() else { return Ok(()) };
                    if let Some(place) = header.get_mut(*len) {
                        *place = first;
                    }
                    *len = len.saturating_add(1);
                    bytes = rest;
                    let known = header.get(..*len).unwrap_or_default();
                    let parsed = FrameHeader::parse(&mut Cursor::new(known));
                    if let Some((header, length)) = parsed.map_err(|_| WebSocketViolation::Reserved)? {
                        self.begin(&header, length)?;
                    }
                }
                Reading::Data { left, mask } => {
                    let (now, rest) = split(bytes, usize::try_from(*left).unwrap_or(usize::MAX));
                    deliver(now, mask);
                    *left = left.saturating_sub(u64::try_from(now.len()).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.reading = HEADER;
                    }
                    bytes = rest;
                }
                Reading::Control { left, mask, payload, .. } => {
                    let (now, rest) = split(bytes, *left);
                    let begin = payload.len();
                    payload.extend_from_slice(now);
                    mask.apply(payload.get_mut(begin..).unwrap_or_default());
                    *left = left.saturating_sub(now.len());
                    bytes = rest;
                    self.end_control()?;
                }
                Reading::Closed => return Ok(()),
            }
        }
        Ok(())
    }

    fn begin(&mut self, header: &FrameHeader, length: u64) -> Result<(), WebSocketViolation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(WebSocketViolation::Reserved);
        }
        let mask = match (&self.role, header.mask) {
            (Role::Server, Some(mask)) => Mask(mask),
            (Role::Client(_), None) => NO_MASK,
            (Role::Server, None) | (Role::Client(_), Some(_)) => return Err(WebSocketViolation::Mask),
        };
        match header.opcode {
            OpCode::Data(kind) => {
                match (kind, self.message) {
                    (Data::Binary, Message::Between) | (Data::Continue, Message::Inside) => {}
                    (Data::Binary, Message::Inside) | (Data::Continue, Message::Between) => {
                        return Err(WebSocketViolation::Fragments);
                    }
                    (Data::Text, _) => return Err(WebSocketViolation::Text),
                    (Data::Reserved(_), _) => return Err(WebSocketViolation::Reserved),
                }
                if length > MAX_FRAME {
                    return Err(WebSocketViolation::TooLong);
                }
                self.message = if header.is_final { Message::Between } else { Message::Inside };
                self.reading = if length == 0 { HEADER } else { Reading::Data { left: length, mask } };
                Ok(())
            }
            OpCode::Control(kind) => {
                let left = usize::try_from(length).unwrap_or(usize::MAX);
                if !header.is_final || left > MAX_CONTROL {
                    return Err(WebSocketViolation::Control);
                }
                self.reading = Reading::Control { kind, left, mask, payload: Vec::new() };
                self.end_control()
            }
        }
    }

    /// Processes a complete control frame.
    fn end_control(&mut self) -> Result<(), WebSocketViolation> {
        let (kind, payload) = match std::mem::replace(&mut self.reading, HEADER) {
            Reading::Control { kind, left: 0, payload, .. } => (kind, payload),
            unfinished
            @ (Reading::Control { .. } | Reading::Header { .. } | Reading::Data { .. } | Reading::Closed) => {
                self.reading = unfinished;
                return Ok(());
            }
        };
        match kind {
            Control::Ping => self.pong = Some(payload),
            Control::Pong => {}
            Control::Close => {
                self.reading = Reading::Closed;
                self.seen = Some(close_seen(&payload)?);
            }
            Control::Reserved(_) => return Err(WebSocketViolation::Reserved),
        }
        Ok(())
    }

    /// Takes the close frame of the other side; reported once.
    pub(super) fn take_close(&mut self) -> Option<CloseSeen> {
        self.seen.take()
    }

    /// The next control frame to send: a pong, or a ping that is due.
    pub(super) fn poll_control(&mut self, now: Instant) -> Option<Bytes> {
        if let Some(payload) = self.pong.take() {
            return Some(self.control(Control::Pong, &payload));
        }
        if self.next_ping <= now {
            self.next_ping = now + PING_EVERY;
            return Some(self.control(Control::Ping, &[]));
        }
        None
    }

    /// When the next ping is due.
    pub(super) const fn next_ping(&self) -> Instant {
        self.next_ping
    }

    /// Postpones the ping: the bytes that wait for the socket keep the path alive as well.
    pub(super) fn skip_ping(&mut self, now: Instant) {
        if self.next_ping <= now {
            self.next_ping = now + PING_EVERY;
        }
    }

    /// When the idle timeout was last restarted.
    pub(super) const fn last_received(&self) -> Instant {
        self.heard
    }

    /// Makes the next ping due at once.
    pub(super) const fn ping_now(&mut self, now: Instant) {
        self.next_ping = now;
    }

    /// When the idle timeout expires.
    pub(super) fn lost_at(&self) -> Instant {
        self.heard + SILENCE
    }

    /// The close frame with one of our codes.
    pub(super) fn close(&mut self, code: u32, reason: &str) -> Bytes {
        let own = u16::try_from(code).unwrap_or(LAST_OWN).min(LAST_OWN);
        self.close_with(if own == 0 { 1000 } else { PRIVATE.saturating_add(own) }, reason)
    }

    /// The close frame for a violation of the other side.
    pub(super) fn close_for(&mut self, violation: WebSocketViolation) -> Bytes {
        self.close_with(violation.code(), "")
    }

    fn close_with(&mut self, code: u16, reason: &str) -> Bytes {
        let mut payload = code.to_be_bytes().to_vec();
        let fits = reason.floor_char_boundary(MAX_CONTROL.saturating_sub(payload.len()));
        payload.extend_from_slice(reason.get(..fits).unwrap_or_default().as_bytes());
        self.control(Control::Close, &payload)
    }

    fn control(&mut self, kind: Control, payload: &[u8]) -> Bytes {
        self.whole(OpCode::Control(kind), payload)
    }

    /// A frame with the link's bytes. It is returned as two pieces if that saves a copy and `in_one` does not forbid
    /// it.
    pub(super) fn frame(&mut self, payload: Bytes, in_one: bool) -> (Bytes, Option<Bytes>) {
        match &self.role {
            Role::Server if !in_one && payload.len() >= WORTH_A_PIECE => {
                (self.whole_of(OpCode::Data(Data::Binary), payload.len(), &[]), Some(payload))
            }
            Role::Server | Role::Client(_) => (self.whole(OpCode::Data(Data::Binary), &payload), None),
        }
    }

    fn whole(&mut self, opcode: OpCode, payload: &[u8]) -> Bytes {
        self.whole_of(opcode, payload.len(), payload)
    }

    fn whole_of(&mut self, opcode: OpCode, length: usize, payload: &[u8]) -> Bytes {
        let mask = match &mut self.role {
            Role::Client(rng) => Some(rng.next_u32().to_be_bytes()),
            Role::Server => None,
        };
        let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
        let mut frame = Vec::with_capacity(MAX_HEADER.saturating_add(payload.len()));
        // Writing to memory does not fail.
        let _ = header.format(u64::try_from(length).unwrap_or(u64::MAX), &mut frame);
        let begin = frame.len();
        frame.extend_from_slice(payload);
        if let (Some(mask), Some(payload)) = (mask, frame.get_mut(begin..)) {
            Mask(mask).apply(payload);
        }
        Bytes::from(frame)
    }
}

impl Mask {
    /// Applies the mask (RFC 6455 §5.3), continuing at the present position.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        if self.0 == NO_MASK.0 {
            return;
        }
        let [a, b, c, d] = self.0;
        let wide = [a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d];
        for chunk in bytes.chunks_mut(wide.len()) {
            for (byte, key) in chunk.iter_mut().zip(wide) {
                *byte ^= key;
            }
        }
        self.0.rotate_left(bytes.len() % 4);
    }
}

/// Parses the payload of a close frame (RFC 6455 §5.5.1, §7.4).
fn close_seen(payload: &[u8]) -> Result<CloseSeen, WebSocketViolation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(CloseSeen::Normal) } else { Err(WebSocketViolation::Close) };
    };
    let code = u16::from_be_bytes(*code);
    let reason = std::str::from_utf8(reason).map_err(|_| WebSocketViolation::Close)?;
    if !CloseCode::from(code).is_allowed() {
        return Err(WebSocketViolation::Close);
    }
    Ok(match code.checked_sub(PRIVATE) {
        None if code == 1000 => CloseSeen::Normal,
        Some(own @ 0..=LAST_OWN) => CloseSeen::Own { code: own.into(), reason: Untrusted::new(reason.to_owned()) },
        None | Some(_) => CloseSeen::Other(code),
    })
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

#[cfg(test)]
mod tests;
