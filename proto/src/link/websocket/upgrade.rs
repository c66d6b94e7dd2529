//! The opening handshake of a WebSocket (RFC 6455 §4): the client's request, the server's answer, and their validation.
//!
//! Decides whether the other end supports WebSocket with our subprotocol. No timers. If a server refuses a request, it
//! answers with an HTTP error that names the server's purpose, for users who open its address in a browser. Bounds:
//! those of a head, [`super::super::http`].

use aws_lc_rs::digest;
use bytes::Bytes;
use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Header, Request, Response};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::super::http::{Head, MAX_HEAD, MAX_HEADERS, TooLarge};

/// The subprotocol (RFC 6455 §1.9) that both sides name.
pub const SUBPROTOCOL: &str = "tallow.1";
/// The constant of RFC 6455 §4.2.2.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const ABOUT: &str = "This is a tallow relay. Over HTTP it supports only WebSocket with the subprotocol tallow.1.\n";

/// Why the opening handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeFailure {
    /// The received bytes are not HTTP.
    #[error("the other end does not use HTTP")]
    NotHttp,
    /// The head is larger than that of a relay or a proxy can be.
    #[error("the other end's HTTP head is too large")]
    TooLarge,
    /// The server answered with another status than 101.
    #[error("the server answered with HTTP status {0} instead of a WebSocket")]
    Status(u16),
    /// The server's response 101 does not belong to our request.
    #[error("the server's WebSocket response is invalid")]
    Answer,
    /// The server does not support our subprotocol.
    #[error("the server is not a tallow relay")]
    Subprotocol,
    /// The client requested something else than our WebSocket; the server has sent an error.
    #[error("the client did not request a tallow WebSocket")]
    Request,
}

/// Whether a server accepts WebSockets from web pages. If it does, any page can use the relay from its visitors'
/// machines, also a relay on their machine or in their network, which the page's server cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Browsers {
    /// The server answers a request that has an `Origin` header with 403.
    #[default]
    Refused,
    /// The server accepts requests with any `Origin`.
    Allowed,
}

/// The answer to send, and the bytes behind the other side's head.
type Answered<'a> = (Bytes, &'a [u8]);

/// An opening handshake in progress.
#[derive(Debug)]
pub(in crate::link) enum Upgrade {
    /// The client has sent its request and expects this `Sec-WebSocket-Accept`.
    Client { head: Head, accept: String },
    /// The server waits for a request.
    Server { head: Head, browsers: Browsers },
}

impl Upgrade {
    /// The client's request, and the state that waits for the answer.
    pub(in crate::link) fn client(authority: &str, path: &str, rng: &mut ChaCha20Rng) -> (Bytes, Self) {
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let key = BASE64.encode(&nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        );
        (Bytes::from(request), Self::Client { head: Head::default(), accept: accept(key.as_bytes()) })
    }

    pub(in crate::link) fn server(browsers: Browsers) -> Self {
        Self::Server { head: Head::default(), browsers }
    }

    /// Consumes bytes until the other side's head is complete; then returns the answer to send (empty for a client) and
    /// the bytes behind the head.
    ///
    /// # Errors
    /// The reason of the failure, and the answer to send.
    pub(in crate::link) fn receive<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<Answered<'a>>, (UpgradeFailure, Bytes)> {
        match self {
            Self::Client { head, accept } => {
                let silent = |failure| (failure, Bytes::new());
                let Some(rest) = head.push(bytes).map_err(|TooLarge| silent(UpgradeFailure::TooLarge))? else {
                    return Ok(None);
                };
                judge_answer(head.bytes(), accept).map_err(silent)?;
                Ok(Some((Bytes::new(), rest)))
            }
            Self::Server { head, browsers } => {
                let rest = match head.push(bytes) {
                    Ok(rest) => rest,
                    Err(TooLarge) => {
                        return Err((UpgradeFailure::TooLarge, refusal("431 Request Header Fields Too Large", "")));
                    }
                };
                let Some(rest) = rest else { return Ok(None) };
                judge_request(head.bytes(), *browsers).map(|answer| Some((answer, rest)))
            }
        }
    }
}

/// Whether the path is valid in a request line.
pub(in crate::link) fn is_path(path: &str) -> bool {
    path.len() <= MAX_HEAD / 4
        && path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Validates the server's answer (RFC 6455 §4.1).
fn judge_answer(head: &[u8], accept: &str) -> Result<(), UpgradeFailure> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    let whole = response.parse(head).is_ok_and(|status| status.is_complete());
    let (true, Some(status)) = (whole, response.code) else { return Err(UpgradeFailure::NotHttp) };
    if status != 101 {
        return Err(UpgradeFailure::Status(status));
    }
    let headers = &*response.headers;
    let upgraded = has_token(headers, "upgrade", "websocket") && has_token(headers, "connection", "upgrade");
    if !upgraded || only(headers, "sec-websocket-accept") != Some(accept.as_bytes()) || response.version != Some(1) {
        return Err(UpgradeFailure::Answer);
    }
    // The client offered no extensions.
    if values(headers, "sec-websocket-extensions").next().is_some() {
        return Err(UpgradeFailure::Answer);
    }
    match only(headers, "sec-websocket-protocol") {
        Some(protocol) if protocol == SUBPROTOCOL.as_bytes() => Ok(()),
        Some(_) | None => Err(UpgradeFailure::Subprotocol),
    }
}

/// Validates the client's request and makes the answer (RFC 6455 §4.2).
fn judge_request(head: &[u8], browsers: Browsers) -> Result<Bytes, (UpgradeFailure, Bytes)> {
    let refused = |status, more| (UpgradeFailure::Request, refusal(status, more));
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    let whole = match request.parse(head) {
        Ok(status) => status.is_complete(),
        Err(httparse::Error::TooManyHeaders) => {
            return Err((UpgradeFailure::TooLarge, refusal("431 Request Header Fields Too Large", "")));
        }
        Err(_) => false,
    };
    if !whole {
        return Err((UpgradeFailure::NotHttp, refusal("400 Bad Request", "")));
    }
    if request.method != Some("GET") {
        return Err(refused("405 Method Not Allowed", "Allow: GET\r\n"));
    }
    let headers = &*request.headers;
    if request.version != Some(1) || only(headers, "host").is_none() {
        return Err(refused("400 Bad Request", ""));
    }
    let asks = has_token(headers, "upgrade", "websocket") && has_token(headers, "connection", "upgrade");
    if !asks || only(headers, "sec-websocket-version") != Some(b"13") {
        return Err(refused("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"));
    }
    // A browser sends the origin of the page (RFC 6455 §10.2); our clients do not send this header.
    if browsers == Browsers::Refused && values(headers, "origin").next().is_some() {
        return Err(refused("403 Forbidden", ""));
    }
    let key = only(headers, "sec-websocket-key").filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let Some(key) = key else { return Err(refused("400 Bad Request", "")) };
    if !has_token(headers, "sec-websocket-protocol", SUBPROTOCOL) {
        return Err(refused("400 Bad Request", ""));
    }
    let accept = accept(key);
    Ok(Bytes::from(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )))
}

/// An error response that names the server's purpose; the connection ends after it.
fn refusal(status: &str, more: &str) -> Bytes {
    let connection = if more.starts_with("Upgrade") { "Upgrade, close" } else { "close" };
    Bytes::from(format!(
        "HTTP/1.1 {status}\r\nConnection: {connection}\r\n{more}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{ABOUT}",
        ABOUT.len()
    ))
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    BASE64.encode(hash.finish().as_ref())
}

fn values<'a>(headers: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.trim_ascii())
}

/// The value of a header, if it is present exactly once.
fn only<'a>(headers: &'a [Header<'_>], name: &'a str) -> Option<&'a [u8]> {
    let mut values = values(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// Whether a header's list contains this token (RFC 9110 §5.6.1), ignoring case.
fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    let mut items = values(headers, name).flat_map(|value| value.split(|&byte| byte == b','));
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests;
