//! Frames: `[u32 big-endian length][body]`. Every stream carries a sequence of frames.
//!
//! The decoder checks the length of a body before it takes any memory for it: at most [`GREETING`] bytes until the
//! session is keyed ([`Caps::Greeting`]), afterwards a limit that depends on the record kind, the first byte of the
//! body ([`Caps::Records`]). It returns the same frames for any split of the input. It returns a frame as the pieces
//! that arrived, so that a job can make the one copy that joins them, without delaying packets; a frame that arrived in
//! one piece is not copied. The decoder merges small pieces (`pieces`), so that its memory depends on the number of
//! bytes and not on the number of pieces.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::pieces::Pieces;
use crate::wire::Violation;

/// Maximum length of a body before the session is keyed, in bytes.
pub const GREETING: usize = 4 << 10;
/// Maximum length of the body of a control record, in bytes.
pub const CONTROL: usize = 64 << 10;
/// Maximum length of the body of a chunk record, in bytes.
pub const CHUNK: usize = (4 << 20) + (4 << 10);
/// The kind byte of a control record.
pub const KIND_CONTROL: u8 = 0;
/// The kind byte of a chunk record.
pub const KIND_CHUNK: u8 = 1;
/// Length of the length prefix, in bytes.
pub const PREFIX: usize = 4;

/// The limits on the length of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caps {
    /// At most [`GREETING`] bytes.
    Greeting,
    /// At most [`CONTROL`] or [`CHUNK`] bytes, depending on the kind byte.
    Records,
}

/// The body of one frame, as the pieces in which it arrived.
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

    /// The first `N` bytes; `None` if the body is shorter.
    #[must_use]
    pub fn head<const N: usize>(&self) -> Option<[u8; N]> {
        let mut head = [0; N];
        copy_head(self.pieces.iter().map(Bytes::as_ref), &mut head).then_some(head)
    }

    /// The body as one piece; it is copied only if it arrived in several.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.pop().unwrap_or_default(),
            _ => self.gather(BytesMut::with_capacity).freeze(),
        }
    }

    /// The body in a buffer of its own. This is the buffer in which the body arrived, if it is one piece without other
    /// references; otherwise it is a copy in the buffer that `take` returns for its length, whose contents may be
    /// arbitrary.
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

/// Splits a stream of bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    caps: Caps,
    pieces: Pieces,
    /// Length of the body of the next frame, once its prefix was read and validated.
    body: Option<usize>,
}

impl Decoder {
    /// A decoder without input.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Self { caps, pieces: Pieces::new(), body: None }
    }

    /// Changes the limits for the following frames, once the session is keyed.
    pub fn set_caps(&mut self, caps: Caps) {
        self.caps = caps;
    }

    /// Appends the next bytes of the stream.
    pub fn push(&mut self, piece: Bytes) {
        self.pieces.push(piece);
    }

    /// The number of bytes that arrived and were not returned yet.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.pieces.len()
    }

    /// The next complete frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// A violation if the limits do not allow the frame. The stream cannot be decoded further.
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

    /// All bytes that arrived and were not returned: for a relay, which stops decoding once it has paired two clients.
    #[must_use]
    pub fn into_rest(self) -> VecDeque<Bytes> {
        self.pieces.into_pieces()
    }

    /// The validated length of the next body, as soon as enough bytes have arrived to validate it.
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

/// Makes a complete frame from a body.
#[must_use]
pub fn enclose(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX.saturating_add(body.len()));
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(body);
    frame.freeze()
}

/// Fills `into` from the start of the pieces; returns false if they are shorter.
fn copy_head<'a>(pieces: impl Iterator<Item = &'a [u8]>, into: &mut [u8]) -> bool {
    let mut bytes = pieces.flatten();
    for slot in into {
        let Some(byte) = bytes.next() else { return false };
        *slot = *byte;
    }
    true
}

#[cfg(test)]
mod tests;
