//! The head of an HTTP/1.1 message (RFC 9112 §2.1), gathered from pieces: what a WebSocket begins
//! with, and the answer of a proxy.
//!
//! No decisions, no timers. Bounds: [`MAX_HEAD`] bytes, [`MAX_HEADERS`] headers; it is parsed once, when it is whole.

/// Bytes of a head.
pub(crate) const MAX_HEAD: usize = 8 * 1024;
/// Headers in it; what stands between adds some.
pub(crate) const MAX_HEADERS: usize = 64;
const END: &[u8] = b"\r\n\r\n";

/// More than [`MAX_HEAD`].
#[derive(Debug)]
pub(crate) struct TooLarge;

/// A head that is being gathered.
#[derive(Debug, Default)]
pub(crate) struct Head(Vec<u8>);

impl Head {
    /// Takes bytes until the head is whole, and returns those behind it then.
    pub(crate) fn push<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, TooLarge> {
        let before = self.0.len();
        // Its end may lie across the border.
        let from = before.saturating_sub(END.len());
        let taken = bytes.len().min(MAX_HEAD.saturating_sub(before));
        self.0.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        let searched = self.0.get(from..).unwrap_or_default();
        if let Some(at) = searched.windows(END.len()).position(|window| window == END) {
            let end = from.saturating_add(at).saturating_add(END.len());
            self.0.truncate(end);
            return Ok(bytes.get(end.saturating_sub(before)..));
        }
        if self.0.len() >= MAX_HEAD { Err(TooLarge) } else { Ok(None) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
