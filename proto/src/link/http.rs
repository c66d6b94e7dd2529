//! The head of an HTTP/1.1 message (RFC 9112 §2.1), collected from pieces: for the WebSocket handshake and for the
//! answer of a proxy.
//!
//! No decisions, no timers. Bounds: [`MAX_HEAD`] bytes, [`MAX_HEADERS`] headers; it is parsed once, when it is
//! complete.

/// Maximum length of a head, in bytes.
pub(crate) const MAX_HEAD: usize = 8 * 1024;
/// Maximum number of headers in a head; proxies add some.
pub(crate) const MAX_HEADERS: usize = 64;
const END: &[u8] = b"\r\n\r\n";

/// The head is longer than [`MAX_HEAD`].
#[derive(Debug)]
pub(crate) struct TooLarge;

/// A head that is being received.
#[derive(Debug, Default)]
pub(crate) struct Head(Vec<u8>);

impl Head {
    /// Consumes bytes until the head is complete; then returns the bytes behind it.
    pub(crate) fn push<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, TooLarge> {
        let before = self.0.len();
        // The end marker may be split between this piece and the one before.
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
