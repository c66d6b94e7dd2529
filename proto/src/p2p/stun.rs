//! The part of STUN Binding (RFC 8489) that is needed to learn a reflexive address: requests and responses, both ends.
//!
//! ```text
//! transaction: asking ──(a response with its id, from the server's address)──► Observed | Refused
//!                 └─────(no response to the last request)────────────────────► over
//! ```
//! Distinguishes STUN from QUIC ([`is_stun`]), decodes messages ([`decode`]), makes the response of a server
//! ([`answer`]), and schedules the requests of a client ([`Transaction`]). There is no authentication, so a response
//! only proves that its sender, on the network path, saw the request: its address may be offered as a candidate, under
//! the rules of [`super::candidate`]. A redirect to an alternate server (300) is not followed.
//!
//! Timers of a transaction: requests at once and after 250 ms, 750 ms, 1.75 s and 3.75 s; it ends after 5.75 s. RFC
//! 8489 §6.2.1 has 500 ms and seven requests, but users wait here, and a server that does not respond within that time
//! does not help to find a direct path. Bounds: messages of [`MAX_LEN`] bytes, [`MAX_ATTRIBUTES`] attributes; a
//! response is at most [`MAX_GAIN`] bytes longer than its request.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_core::Rng;

use crate::Instant;
use crate::net::Slot;

/// Maximum length of a message that is decoded, in bytes: one unfragmented packet.
pub const MAX_LEN: usize = 1500;
/// Maximum number of attributes in a message.
pub const MAX_ATTRIBUTES: usize = 32;
/// By how much a response may be longer than its request, in bytes: an IPv6 address with its attribute header.
#[cfg(any(test, feature = "internals"))]
pub const MAX_GAIN: usize = 24;
/// Maximum number of requests in a transaction.
pub const TRIES: u32 = 5;
/// Length of our requests, in bytes.
#[cfg(test)]
pub const REQUEST_LEN: usize = HEADER + 8;
/// Maximum number of attributes that an error response lists as unknown.
const MAX_NAMED: usize = 8;
/// The retransmission timeout after the first request; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The maximum retransmission timeout.
const LAST_WAIT: Duration = Duration::from_secs(2);
const HEADER: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const COOKIE_BITS: u32 = u32::from_be_bytes(COOKIE);
/// The value with which the CRC of a fingerprint is XORed (RFC 8489 §14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// "Unknown Attribute" (RFC 8489 §14.8).
const UNKNOWN_ATTRIBUTE: u16 = 420;

mod kind {
    pub(super) const REQUEST: u16 = 0x0001;
    pub(super) const INDICATION: u16 = 0x0011;
    pub(super) const SUCCESS: u16 = 0x0101;
    pub(super) const ERROR: u16 = 0x0111;
}

mod attribute {
    pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    /// Attributes from this type on are comprehension-optional (RFC 8489 §14).
    pub(super) const OPTIONAL: u16 = 0x8000;
    /// Known attributes that are ignored because there is no authentication: USERNAME, REALM, NONCE,
    /// PASSWORD-ALGORITHM, USERHASH; and SOURCE-ADDRESS and CHANGED-ADDRESS of RFC 3489, which old servers still send.
    pub(super) const IDLE: [u16; 7] = [0x0006, 0x0014, 0x0015, 0x001D, 0x001E, 0x0004, 0x0005];
}

/// The id that a request and its response have in common: 96 random bits (RFC 8489 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

/// A Binding message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A Binding request.
    Request {
        /// The id, which the response must repeat.
        id: TransactionId,
        /// The first unknown comprehension-required attributes.
        unknown: Vec<u16>,
        /// Whether there was a (correct) FINGERPRINT.
        fingerprint: bool,
    },
    /// A Binding indication, which only keeps a NAT mapping alive.
    Indication,
    /// A success response.
    Success {
        /// The id of the request.
        id: TransactionId,
        /// The address that the server observed, in canonical form.
        observed: SocketAddr,
    },
    /// An error response.
    Error {
        /// The id of the request.
        id: TransactionId,
        /// The error code, 300 to 699 (RFC 8489 §14.8).
        code: u16,
    },
}

/// Why a datagram is not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The datagram is not STUN.
    #[error("not STUN")]
    NotStun,
    /// The datagram is too long.
    #[error("too long")]
    TooLong,
    /// The length in the header is wrong.
    #[error("wrong length")]
    Length,
    /// The method is not Binding.
    #[error("not Binding")]
    Method,
    /// An attribute exceeds the message, has a wrong length or an invalid value, or there are too many attributes.
    #[error("malformed attribute")]
    Attribute,
    /// The fingerprint is wrong, or not at the end.
    #[error("wrong fingerprint")]
    Fingerprint,
    /// A response has an unknown comprehension-required attribute.
    #[error("unknown attribute")]
    Unknown,
    /// A response lacks its address or its error code.
    #[error("no address or error code")]
    Empty,
}

/// Whether a datagram is STUN (RFC 7983 §7 and the magic cookie). All others go to QUIC, whose packets look like STUN
/// with a probability of at most 2^-36.
#[must_use]
pub fn is_stun(data: &[u8]) -> bool {
    data.first().is_some_and(|&first| first < 4) && data.len() >= HEADER && data.get(4..8) == Some(&COOKIE)
}

/// The transaction id of a datagram that is STUN.
#[must_use]
pub fn id_of(data: &[u8]) -> Option<&[u8]> {
    data.get(8..HEADER).filter(|_| is_stun(data))
}

/// Decodes one message, which must fill the datagram.
///
/// # Errors
/// [`Invalid`]: the caller must discard the datagram (RFC 8489 §6.3).
pub fn decode(data: &[u8]) -> Result<Message, Invalid> {
    if !is_stun(data) {
        return Err(Invalid::NotStun);
    }
    if data.len() > MAX_LEN {
        return Err(Invalid::TooLong);
    }
    let (header, body) = data.split_first_chunk::<HEADER>().ok_or(Invalid::NotStun)?;
    let [k0, k1, l0, l1, _, _, _, _, id @ ..] = *header;
    let (kind, id) = (u16::from_be_bytes([k0, k1]), TransactionId(id));
    if usize::from(u16::from_be_bytes([l0, l1])) != body.len() || !body.len().is_multiple_of(4) {
        return Err(Invalid::Length);
    }
    if ![kind::REQUEST, kind::INDICATION, kind::SUCCESS, kind::ERROR].contains(&kind) {
        return Err(Invalid::Method);
    }
    let said = Attributes::read(data, body, id)?;
    match kind {
        kind::REQUEST => Ok(Message::Request { id, unknown: said.unknown, fingerprint: said.fingerprint }),
        _ if !said.unknown.is_empty() => Err(Invalid::Unknown),
        kind::SUCCESS => match said.xored.or(said.mapped) {
            Some(observed) => Ok(Message::Success { id, observed }),
            None => Err(Invalid::Empty),
        },
        kind::ERROR => said.code.map(|code| Message::Error { id, code }).ok_or(Invalid::Empty),
        _ => Ok(Message::Indication),
    }
}

/// The attributes of one message. Of several of the same type, the first one counts (RFC 8489 §14).
#[derive(Default)]
struct Attributes {
    mapped: Option<SocketAddr>,
    xored: Option<SocketAddr>,
    code: Option<u16>,
    unknown: Vec<u16>,
    fingerprint: bool,
}

impl Attributes {
    fn read(data: &[u8], body: &[u8], id: TransactionId) -> Result<Self, Invalid> {
        let (mut said, mut rest, mut count, mut sealed) = (Self::default(), body, 0_usize, false);
        while let Some((&[k0, k1, l0, l1], behind)) = rest.split_first_chunk::<4>() {
            if said.fingerprint {
                return Err(Invalid::Fingerprint);
            }
            count = count.saturating_add(1);
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            let value = behind.get(..len).filter(|_| count <= MAX_ATTRIBUTES).ok_or(Invalid::Attribute)?;
            rest = behind.get(len.next_multiple_of(4)..).ok_or(Invalid::Attribute)?;
            match u16::from_be_bytes([k0, k1]) {
                attribute::FINGERPRINT => {
                    let before = data.len().checked_sub(8).and_then(|end| data.get(..end)).unwrap_or_default();
                    if value != fingerprint(before) || !rest.is_empty() {
                        return Err(Invalid::Fingerprint);
                    }
                    said.fingerprint = true;
                }
                // RFC 8489 §14.5: attributes behind a MESSAGE-INTEGRITY are ignored.
                _ if sealed => {}
                attribute::MESSAGE_INTEGRITY | attribute::MESSAGE_INTEGRITY_SHA256 => sealed = true,
                attribute::XOR_MAPPED_ADDRESS => {
                    let addr = read_addr(value).map(|addr| mix(addr, id)).ok_or(Invalid::Attribute)?;
                    said.xored.get_or_insert(canonical(addr));
                }
                attribute::MAPPED_ADDRESS => {
                    let addr = read_addr(value).ok_or(Invalid::Attribute)?;
                    said.mapped.get_or_insert(canonical(addr));
                }
                attribute::ERROR_CODE => {
                    let code = read_code(value).ok_or(Invalid::Attribute)?;
                    said.code.get_or_insert(code);
                }
                attribute::UNKNOWN_ATTRIBUTES => {}
                kind if kind >= attribute::OPTIONAL || attribute::IDLE.contains(&kind) => {}
                kind if said.unknown.len() < MAX_NAMED => said.unknown.push(kind),
                _ => {}
            }
        }
        Ok(said)
    }
}

fn read_addr(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], ip) = value.split_first_chunk::<4>()?;
    let ip = match family {
        1 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([p0, p1])))
}

fn read_code(value: &[u8]) -> Option<u16> {
    let &[_, _, class, number] = value.first_chunk::<4>()?;
    let class = u16::from(class & 7);
    ((3..=6).contains(&class) && number < 100).then(|| class.saturating_mul(100).saturating_add(number.into()))
}

/// Converts to and from the form of XOR-MAPPED-ADDRESS, which NATs that rewrite addresses in payloads do not recognize
/// (RFC 8489 §14.2).
fn mix(addr: SocketAddr, id: TransactionId) -> SocketAddr {
    let [c0, c1, ..] = COOKIE;
    let ip = match addr.ip() {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() ^ COOKIE_BITS).into()),
        IpAddr::V6(ip) => {
            let mut key = [0; 16];
            for (slot, byte) in key.iter_mut().zip(COOKIE.into_iter().chain(id.0)) {
                *slot = byte;
            }
            IpAddr::V6((ip.to_bits() ^ u128::from_be_bytes(key)).into())
        }
    };
    SocketAddr::new(ip, addr.port() ^ u16::from_be_bytes([c0, c1]))
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    super::candidate::canonical(addr)
}

/// The value of FINGERPRINT for the bytes before it; their header already includes its length.
fn fingerprint(before: &[u8]) -> [u8; 4] {
    // CRC-32 of ITU-T V.42, bit by bit: the messages are short and few.
    let crc = before.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    });
    (!crc ^ FINGERPRINT_XOR).to_be_bytes()
}

/// Builds a message.
struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u16, id: TransactionId) -> Self {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&COOKIE);
        out.extend_from_slice(&id.0);
        Self(out)
    }

    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&kind.to_be_bytes());
        self.0.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.count(0)
    }

    /// Writes the length into the header, with `more` bytes that will follow.
    fn count(mut self, more: usize) -> Self {
        let len = self.0.len().saturating_sub(HEADER).saturating_add(more);
        let len = u16::try_from(len).unwrap_or(0).to_be_bytes();
        self.0.iter_mut().skip(2).zip(len).for_each(|(slot, byte)| *slot = byte);
        self
    }

    fn finish(self, with_fingerprint: bool) -> Vec<u8> {
        if !with_fingerprint {
            return self.0;
        }
        let counted = self.count(8);
        let value = fingerprint(&counted.0);
        counted.put(attribute::FINGERPRINT, &value).0
    }
}

/// Encodes a request of `REQUEST_LEN` bytes.
#[must_use]
pub fn request(id: TransactionId) -> Vec<u8> {
    Writer::new(kind::REQUEST, id).finish(true)
}

/// The response of a server to a datagram from `from`; `None` unless it is a Binding request. The response is at most
/// [`MAX_GAIN`] bytes longer than the request, and has a FINGERPRINT if the request has one.
#[must_use]
pub fn answer(data: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let Ok(Message::Request { id, unknown, fingerprint }) = decode(data) else { return None };
    if unknown.is_empty() {
        let addr = mix(canonical(from), id);
        let [p0, p1] = addr.port().to_be_bytes();
        let value = match addr.ip() {
            IpAddr::V4(ip) => [&[0, 1, p0, p1][..], &ip.octets()].concat(),
            IpAddr::V6(ip) => [&[0, 2, p0, p1][..], &ip.octets()].concat(),
        };
        return Some(Writer::new(kind::SUCCESS, id).put(attribute::XOR_MAPPED_ADDRESS, &value).finish(fingerprint));
    }
    let (class, number) = (UNKNOWN_ATTRIBUTE / 100, UNKNOWN_ATTRIBUTE % 100);
    let code = [0, 0, u8::try_from(class).ok()?, u8::try_from(number).ok()?];
    let named: Vec<u8> = unknown.into_iter().flat_map(u16::to_be_bytes).collect();
    let error = Writer::new(kind::ERROR, id).put(attribute::ERROR_CODE, &code);
    Some(error.put(attribute::UNKNOWN_ATTRIBUTES, &named).finish(fingerprint))
}

/// A client's transaction with a server, until it gets a response or times out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    id: TransactionId,
    to: SocketAddr,
    sent: u32,
    due: Instant,
}

/// The next step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this request now.
    Send(Vec<u8>),
    /// Wait until this time.
    Wait(Instant),
    /// The transaction timed out.
    Over,
}

/// The response of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The server observed this address.
    Observed(SocketAddr),
    /// The server responded with this error (RFC 8489 §14.8).
    Refused(u16),
}

impl Transaction {
    /// Starts a transaction at `now`.
    #[must_use]
    pub fn new(now: Instant, to: SocketAddr, rng: &mut impl Rng) -> Self {
        let mut id = [0; 12];
        rng.fill_bytes(&mut id);
        Self { id: TransactionId(id), to, sent: 0, due: now }
    }

    /// The id begins with this mark, so that the owner of a shared socket finds the response's node. Called before the
    /// first step.
    pub fn mark(&mut self, slot: &Slot) {
        slot.mark(&mut self.id.0);
    }

    /// The next step; call it again after each `Send`.
    #[must_use]
    pub fn step(&mut self, now: Instant) -> Step {
        if now < self.due {
            return Step::Wait(self.due);
        }
        if self.sent >= TRIES {
            return Step::Over;
        }
        let wait = FIRST_WAIT.saturating_mul(1_u32.checked_shl(self.sent).unwrap_or(u32::MAX)).min(LAST_WAIT);
        self.sent = self.sent.saturating_add(1);
        self.due = now.checked_add(wait).unwrap_or(now);
        Step::Send(request(self.id))
    }

    /// When the next step is due.
    #[must_use]
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Processes a message from `from`. Returns a response only if the message has the id of the transaction and comes
    /// from the server's address.
    #[must_use]
    pub fn handle_message(&self, from: SocketAddr, message: &Message) -> Option<Answer> {
        let (id, answer) = match *message {
            Message::Success { id, observed } => (id, Answer::Observed(observed)),
            Message::Error { id, code } => (id, Answer::Refused(code)),
            Message::Request { .. } | Message::Indication => return None,
        };
        (id == self.id && canonical(from) == canonical(self.to) && self.sent > 0).then_some(answer)
    }
}

#[cfg(test)]
mod tests;
