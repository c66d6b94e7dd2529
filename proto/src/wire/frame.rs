//! Frames: `[u32 big-endian length][body]`, the unit of everything that a stream carries.
//!
//! The decoder decides how long a body may be, before it takes any memory for it: at most [`GREETING`] bytes until the session
//! is keyed ([`Caps::Greeting`]), then by the first byte of the body, its record kind ([`Caps::Records`]).
//! It is fed any split of the input and gives the same frames. A frame is handed out as the pieces that arrived, so that the one
//! copy that makes it contiguous can be made where it does not hold up a packet, and none if it came in one piece.
//! Small pieces are merged (`pieces`), so that memory follows the bytes that arrived and not the number of pieces.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::pieces::Pieces;
use crate::wire::Violation;

/// The longest body before the session is keyed, in bytes.
pub const GREETING: usize = 4 << 10;
/// The longest body of a control record, in bytes.
pub const CONTROL: usize = 64 << 10;
/// The longest body of a chunk record, in bytes.
pub const CHUNK: usize = (4 << 20) + (4 << 10);
/// The kind byte of a control record.
pub const KIND_CONTROL: u8 = 0;
/// The kind byte of a chunk record.
pub const KIND_CHUNK: u8 = 1;
/// Length of the length prefix, in bytes.
pub const PREFIX: usize = 4;

/// How long a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caps {
    /// At most [`GREETING`] bytes.
    Greeting,
    /// [`CONTROL`] or [`CHUNK`] bytes, as the kind byte says.
    Records,
}

/// The body of one frame, in the pieces in which it arrived.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Frame {
    /// Length of the body in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the body has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `N` bytes, or `None` when there are fewer.
    #[must_use]
    pub fn head<const N: usize>(&self) -> Option<[u8; N]> {
        let mut head = [0; N];
        copy_head(self.pieces.iter().map(Bytes::as_ref), &mut head).then_some(head)
    }

    /// The body as one piece; copied only when it came in several.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.pop().unwrap_or_default(),
            _ => self.gather(BytesMut::with_capacity).freeze(),
        }
    }

    /// The body in a buffer of its own: the one in which it arrived, if it came in one piece that nobody shares, and else a copy in
    /// what `take` gives for its length, which may hold anything.
    #[must_use]
    pub fn into_buffer(mut self, take: impl FnOnce(usize) -> BytesMut) -> BytesMut {
        match self.pieces.as_mut_slice() {
            [piece] => match std::mem::take(piece).try_into_mut() {
                Ok(body) => body,
                Err(shared) => Self::from(shared).gather(take),
            },
            _ => self.gather(take),
        }
    }

    fn gather(self, take: impl FnOnce(usize) -> BytesMut) -> BytesMut {
        let mut body = take(self.len);
        body.clear();
        self.pieces.iter().for_each(|piece| body.extend_from_slice(piece));
        body
    }
}

impl From<Bytes> for Frame {
    fn from(body: Bytes) -> Self {
        Self { len: body.len(), pieces: vec![body] }
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    caps: Caps,
    pieces: Pieces,
    /// Length of the body that is being assembled, once its prefix was read and judged.
    body: Option<usize>,
}

impl Decoder {
    /// Nothing has arrived.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Self { caps, pieces: Pieces::new(), body: None }
    }

    /// What follows is judged by other caps: the session is keyed.
    pub fn set_caps(&mut self, caps: Caps) {
        self.caps = caps;
    }

    /// The next bytes of the stream.
    pub fn push(&mut self, piece: Bytes) {
        self.pieces.push(piece);
    }

    /// Bytes that arrived and were not handed out.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.pieces.len()
    }

    /// The next whole frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// A length that these caps do not allow. The stream is of no use then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Violation> {
        let body = match self.body {
            Some(body) => body,
            None => {
                let Some(body) = self.read_prefix()? else { return Ok(None) };
                self.body = Some(body);
                body
            }
        };
        if self.pieces.len() < PREFIX.saturating_add(body) {
            return Ok(None);
        }
        self.body = None;
        self.pieces.advance(PREFIX);
        Ok(Some(self.take(body)))
    }

    /// Everything that arrived and was not handed out: for a relay, which stops to decode once it has paired.
    #[must_use]
    pub fn into_rest(self) -> VecDeque<Bytes> {
        self.pieces.into_pieces()
    }

    /// The judged length of the next body, as soon as enough of it is here to judge.
    fn read_prefix(&self) -> Result<Option<usize>, Violation> {
        let mut prefix = [0; PREFIX];
        if !self.peek(&mut prefix) {
            return Ok(None);
        }
        let body = u32::from_be_bytes(prefix) as usize;
        match self.caps {
            _ if body == 0 => Err(Violation::EmptyFrame),
            Caps::Greeting if body > GREETING => Err(Violation::FrameTooLong),
            Caps::Greeting => Ok(Some(body)),
            Caps::Records if body > CHUNK => Err(Violation::FrameTooLong),
            Caps::Records => {
                let mut with_kind = [0; PREFIX + 1];
                if !self.peek(&mut with_kind) {
                    return Ok(None);
                }
                let [.., kind] = with_kind;
                match kind {
                    KIND_CONTROL if body <= CONTROL => Ok(Some(body)),
                    KIND_CHUNK => Ok(Some(body)),
                    KIND_CONTROL => Err(Violation::FrameTooLong),
                    _ => Err(Violation::UnknownKind),
                }
            }
        }
    }

    fn peek(&self, into: &mut [u8]) -> bool {
        self.pieces.len() >= into.len() && copy_head(self.pieces.iter(), into)
    }

    fn take(&mut self, len: usize) -> Frame {
        let (mut pieces, mut missing) = (Vec::new(), len);
        while let Some(piece) = (missing > 0).then(|| self.pieces.pop_at_most(missing)).flatten() {
            missing = missing.saturating_sub(piece.len());
            pieces.push(piece);
        }
        Frame { pieces, len: len.saturating_sub(missing) }
    }
}

/// A whole frame around a body.
#[must_use]
pub fn enclose(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX.saturating_add(body.len()));
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(body);
    frame.freeze()
}

/// Fills `into` from the start of the pieces; false when they are shorter.
fn copy_head<'a>(pieces: impl Iterator<Item = &'a [u8]>, into: &mut [u8]) -> bool {
    let mut bytes = pieces.flatten();
    for slot in into {
        let Some(byte) = bytes.next() else { return false };
        *slot = *byte;
    }
    true
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
