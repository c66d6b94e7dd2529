//! The chunked transfer coding (RFC 9112 §7.1), decoded as it arrives; trailers are ignored.
//!
//! ```text
//! Size ─► Data ─► DataEnd ─► Size ...      Size of 0 ─► Done
//! ```
//! Each byte is processed once, however small the reads are. Bounds: [`MAX_CHUNKED`] bytes in all, [`MAX_LINE`] for a
//! chunk's size with its extensions, `MAX_BODY` of decoded bytes.

use httparse::{Status, parse_chunk_size};

use super::{MAX_BODY, Malformed};

/// The maximum length of a body including the chunk framing, in bytes.
pub(super) const MAX_CHUNKED: usize = MAX_BODY + MAX_BODY / 2;
/// The maximum length of the line with a chunk's size, in bytes.
const MAX_LINE: usize = 256;

/// A decoder and its decoded bytes.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    received: usize,
    body: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// The received part of the size line.
    Size(Vec<u8>),
    /// This many bytes of the chunk are missing.
    Data(usize),
    /// The line end after the chunk; this many bytes of it were received.
    DataEnd(usize),
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Size(Vec::new())
    }
}

impl Chunked {
    /// Decodes the next bytes; true when the body is complete.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<bool, Malformed> {
        while !bytes.is_empty() && !matches!(self.state, State::Done) {
            let rest = self.push_piece(bytes)?;
            self.received = self.received.saturating_add(bytes.len().saturating_sub(rest.len()));
            if self.received > MAX_CHUNKED {
                return Err(Malformed);
            }
            bytes = rest;
        }
        Ok(matches!(self.state, State::Done))
    }

    /// The decoded bytes so far.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Decodes the bytes that belong to the current state, and returns the bytes after them.
    fn push_piece<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        match &mut self.state {
            State::Size(line) => {
                let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at.saturating_add(1));
                let (piece, rest) = bytes.split_at_checked(end.unwrap_or(bytes.len())).ok_or(Malformed)?;
                if line.len().saturating_add(piece.len()) > MAX_LINE {
                    return Err(Malformed);
                }
                line.extend_from_slice(piece);
                if end.is_some() {
                    self.state = self.parse_size()?;
                }
                Ok(rest)
            }
            State::Data(missing) => {
                let (piece, rest) = bytes.split_at_checked((*missing).min(bytes.len())).ok_or(Malformed)?;
                self.body.extend_from_slice(piece);
                *missing = missing.saturating_sub(piece.len());
                if *missing == 0 {
                    self.state = State::DataEnd(0);
                }
                Ok(rest)
            }
            State::DataEnd(received) => {
                let (byte, rest) = bytes.split_first().ok_or(Malformed)?;
                self.state = match (*received, byte) {
                    (0, b'\r') => State::DataEnd(1),
                    (1, b'\n') => State::default(),
                    _ => return Err(Malformed),
                };
                Ok(rest)
            }
            State::Done => Ok(&[]),
        }
    }

    /// The state after the size line of a chunk.
    fn parse_size(&self) -> Result<State, Malformed> {
        let State::Size(line) = &self.state else { return Err(Malformed) };
        let Ok(Status::Complete((end, size))) = parse_chunk_size(line) else { return Err(Malformed) };
        let size = usize::try_from(size).map_err(|_| Malformed)?;
        if end != line.len() || self.body.len().saturating_add(size) > MAX_BODY {
            return Err(Malformed);
        }
        Ok(if size == 0 { State::Done } else { State::Data(size) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_chunk_is_decoded() {
        let mut chunked = Chunked::default();
        assert_eq!(chunked.push(b"FFFF;name=value\r\nabc"), Ok(false));
        assert_eq!(chunked.body(), b"abc", "no byte waits to be parsed again");
        assert!(matches!(chunked.state, State::Data(missing) if missing == 0xFFFF - 3));
    }

    #[test]
    fn only_the_line_of_a_size_waits_to_be_parsed() {
        let mut chunked = Chunked::default();
        for byte in b"1\r\na\r\n".repeat(MAX_CHUNKED / 6) {
            assert_eq!(chunked.push(&[byte]), Ok(false));
            assert!(!matches!(&chunked.state, State::Size(line) if line.len() > 3));
        }
        assert_eq!(chunked.body().len(), MAX_CHUNKED / 6);
        assert_eq!(chunked.push(b"1\r\na\r\n"), Err(Malformed));
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut chunked = Chunked::default();
        assert_eq!(chunked.push(&[b'0'; MAX_LINE]), Ok(false));
        assert_eq!(chunked.push(b"0"), Err(Malformed));
        let extension = format!("1;{}\r\n", "x".repeat(MAX_LINE));
        assert_eq!(Chunked::default().push(extension.as_bytes()), Err(Malformed));
    }
}
