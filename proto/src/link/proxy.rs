//! Connections through a proxy: HTTP CONNECT (RFC 9110 §9.3.6) with Basic authentication (RFC 7617), and SOCKS 5 (RFC
//! 1928) with user name and password (RFC 1929).
//!
//! Decides what to send to the proxy and when the proxy has connected; it does not process the bytes that follow. The
//! host name is sent to the proxy unchanged and is never resolved here; this includes `.onion` names.
//! ```text
//! HTTP:   CONNECT ──2xx──► connected
//! SOCKS:  greeting ──► [login] ──► request ──0──► connected
//! ```
//! No timers: the TCP connection has one. Bounds: [`MAX_URL`] for a proxy's URL, one HTTP head, 262 bytes of SOCKS.
//! `Debug` hides the login.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bytes::{BufMut, Bytes};
use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Response};
use zeroize::Zeroizing;

use super::http::{Head, MAX_HEADERS, TooLarge};
use crate::host::{BadHostPort, HostPort, percent_decoded};

/// Maximum length of a URL, in bytes.
const MAX_URL: usize = 2048;
/// Maximum length of a user name and of a password (RFC 1929 §2), for HTTP too.
const MAX_LOGIN: usize = 255;
const HTTP_PORT: u16 = 80;
/// The default port of SOCKS (RFC 1928 §3).
const SOCKS_PORT: u16 = 1080;

const SOCKS_VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks,
}

#[derive(Clone, PartialEq, Eq)]
struct Login {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

/// A proxy: `http://[user:password@]host[:port]`, or the same with `socks5` or `socks5h` (with both, the proxy resolves
/// names).
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    login: Option<Login>,
}

/// Why a text is not a valid proxy. The messages repeat no part of the input, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadProxy {
    /// The URL is longer than [`MAX_URL`].
    #[error("not a valid proxy: it is too long")]
    TooLong,
    /// The scheme is not supported.
    #[error("not a valid proxy: expected http://, socks5:// or socks5h://")]
    Scheme,
    /// The scheme is `https://`.
    #[error("a proxy that is reached over TLS (https://) is not supported; use http://, socks5:// or socks5h://")]
    Tls,
    /// The host is neither a name nor an address.
    #[error("not a valid proxy: the host is neither a name nor an address")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("not a valid proxy: the port is not a number from 1 to 65535")]
    Port,
    /// The user name or password is too long, or contains control characters or a % without two hexadecimal digits.
    #[error("not a valid proxy: the user name or the password is not valid; percent-encode special characters")]
    Login,
    /// A path or a query follows the host.
    #[error("not a valid proxy: a path or a query is not allowed")]
    Path,
}

impl FromStr for Proxy {
    type Err = BadProxy;

    /// Parses a URL; without a scheme it is an HTTP proxy, as in the usual environment variables.
    fn from_str(text: &str) -> Result<Self, BadProxy> {
        let text = text.trim();
        if text.len() > MAX_URL {
            return Err(BadProxy::TooLong);
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (kind, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, HTTP_PORT),
            "socks5" | "socks5h" => (Kind::Socks, SOCKS_PORT),
            "https" => return Err(BadProxy::Tls),
            _ => return Err(BadProxy::Scheme),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !matches!(path, "" | "/") {
            return Err(BadProxy::Path);
        }
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login.parse()?), address),
            None => (None, authority),
        };
        let address: HostPort = address.parse().map_err(BadProxy::of_host)?;
        let (host, port) = (address.host().to_owned(), address.port().unwrap_or(default_port));
        Ok(Self { kind, host, port, login })
    }
}

impl BadProxy {
    const fn of_host(bad: BadHostPort) -> Self {
        match bad {
            BadHostPort::Host => Self::Host,
            BadHostPort::Port => Self::Port,
        }
    }
}

impl FromStr for Login {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<Self, BadProxy> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let (user, password) = (decoded(user)?, decoded(password)?);
        // RFC 7617 §2: a user name contains no colon.
        if user.is_empty() || user.contains(':') {
            return Err(BadProxy::Login);
        }
        Ok(Self { user, password })
    }
}

/// Percent-decodes a user name or password.
fn decoded(text: &str) -> Result<Zeroizing<String>, BadProxy> {
    let bytes = percent_decoded(text).ok_or(BadProxy::Login)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| BadProxy::Login)?;
    if text.len() > MAX_LOGIN || text.chars().any(char::is_control) {
        return Err(BadProxy::Login);
    }
    Ok(Zeroizing::new(text.to_owned()))
}

impl Proxy {
    /// The proxy's host: a name in lower case, or an address; IPv6 without brackets. This machine resolves this name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The proxy's port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// Formats the URL without the login, so that it can be shown.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks => "socks5h",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.login.is_some() { " with a login" } else { "" };
        write!(f, "Proxy({self}{login})")
    }
}

/// Formats host and port as in a URL; an IPv6 address has brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Why a proxy did not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyFailure {
    /// The answer is not of the proxy's protocol.
    #[error("the proxy does not use the protocol in its URL")]
    NotAProxy,
    /// The proxy requires a user name and a password.
    #[error("the proxy requires a user name and a password")]
    LoginNeeded,
    /// The proxy refused the user name and the password.
    #[error("the proxy refused the user name and the password")]
    LoginRefused,
    /// An HTTP proxy answered with this status.
    #[error("the proxy answered with HTTP status {0}")]
    Status(u16),
    /// A SOCKS proxy answered with this code (RFC 1928 §6).
    #[error("the proxy could not connect: {}", socks_reply(*.0))]
    Socks(u8),
}

const fn socks_reply(code: u8) -> &'static str {
    match code {
        2 => "the proxy's rules do not allow it",
        3 => "the network is unreachable",
        4 => "the host is unreachable",
        5 => "the connection was refused",
        6 => "the time to live expired",
        7 => "the proxy does not support the command",
        8 => "the proxy does not support this type of address",
        // Tor's extended error codes, which an option of Tor enables.
        0xf0..=0xf7 => "the onion service is unreachable",
        _ => "general failure",
    }
}

/// The progress of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are needed.
    Wait,
    /// The conversation consumed this many bytes; there may be more to do.
    Took(usize),
    /// The conversation consumed this many bytes and is complete: the proxy has connected.
    Through(usize),
}

enum State {
    Http(Head),
    Greeting,
    Login,
    Request,
}

/// The conversation with a proxy.
pub(super) struct Conversation {
    state: State,
    login: Option<Login>,
    host: String,
    port: u16,
    say: Option<Bytes>,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Http(_) => "Http",
            State::Greeting => "Greeting",
            State::Login => "Login",
            State::Request => "Request",
        };
        f.debug_struct("Conversation").field("state", &state).finish_non_exhaustive()
    }
}

impl Conversation {
    /// `host` is a valid DNS name or an IP address without brackets.
    pub(super) fn new(proxy: &Proxy, host: &str, port: u16) -> Self {
        let (login, host) = (proxy.login.clone(), host.to_owned());
        let (state, say) = match proxy.kind {
            Kind::Http => (State::Http(Head::default()), http_request(&authority(&host, port), login.as_ref())),
            Kind::Socks => {
                let methods: &[u8] = if login.is_some() { &[NO_LOGIN, LOGIN] } else { &[NO_LOGIN] };
                (State::Greeting, [&[SOCKS_VERSION, short(methods.len())], methods].concat().into())
            }
        };
        Self { state, login, host, port, say: Some(say) }
    }

    /// Takes the bytes to send now.
    pub(super) const fn poll_message(&mut self) -> Option<Bytes> {
        self.say.take()
    }

    /// Processes all received bytes that were not consumed.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Progress, ProxyFailure> {
        if bytes.is_empty() {
            return Ok(Progress::Wait);
        }
        match &mut self.state {
            State::Http(head) => {
                let rest = head.push(bytes).map_err(|TooLarge| ProxyFailure::NotAProxy)?;
                let Some(rest) = rest else { return Ok(Progress::Took(bytes.len())) };
                judge_http(head.bytes(), self.login.is_some())?;
                Ok(Progress::Through(bytes.len().saturating_sub(rest.len())))
            }
            State::Greeting => {
                let Some((&[version, method], _)) = bytes.split_first_chunk() else { return Ok(Progress::Wait) };
                match (version, method, &self.login) {
                    (SOCKS_VERSION, NO_LOGIN, _) => self.request()?,
                    (SOCKS_VERSION, LOGIN, Some(login)) => {
                        self.say = Some(socks_login(login));
                        self.state = State::Login;
                    }
                    (SOCKS_VERSION, NO_METHOD, None) => return Err(ProxyFailure::LoginNeeded),
                    (SOCKS_VERSION, NO_METHOD, Some(_)) => return Err(ProxyFailure::LoginRefused),
                    _ => return Err(ProxyFailure::NotAProxy),
                }
                Ok(Progress::Took(2))
            }
            State::Login => {
                let Some((&[version, status], _)) = bytes.split_first_chunk() else { return Ok(Progress::Wait) };
                match (version, status) {
                    (LOGIN_VERSION, 0) => self.request()?,
                    (LOGIN_VERSION, _) => return Err(ProxyFailure::LoginRefused),
                    _ => return Err(ProxyFailure::NotAProxy),
                }
                Ok(Progress::Took(2))
            }
            State::Request => socks_reply_length(bytes),
        }
    }

    /// Sends the SOCKS request (RFC 1928 §4).
    fn request(&mut self) -> Result<(), ProxyFailure> {
        let mut say = vec![SOCKS_VERSION, CONNECT, 0];
        match self.host.parse() {
            Ok(IpAddr::V4(address)) => {
                say.push(IPV4);
                say.extend(address.octets());
            }
            Ok(IpAddr::V6(address)) => {
                say.push(IPV6);
                say.extend(address.octets());
            }
            Err(_) => {
                say.push(NAME);
                say.push(u8::try_from(self.host.len()).map_err(|_| ProxyFailure::Socks(8))?);
                say.extend(self.host.as_bytes());
            }
        }
        say.put_u16(self.port);
        self.say = Some(say.into());
        self.state = State::Request;
        Ok(())
    }
}

fn http_request(authority: &str, login: Option<&Login>) -> Bytes {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(Login { user, password }) = login {
        let login = Zeroizing::new([user.as_bytes(), b":", password.as_bytes()].concat());
        request.push_str("Proxy-Authorization: Basic ");
        BASE64.encode_append(&login, &mut request);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    Bytes::from(request)
}

fn judge_http(head: &[u8], had_login: bool) -> Result<(), ProxyFailure> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    if !response.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err(ProxyFailure::NotAProxy);
    }
    match response.code {
        Some(200..=299) => Ok(()),
        Some(407) if had_login => Err(ProxyFailure::LoginRefused),
        Some(407) => Err(ProxyFailure::LoginNeeded),
        Some(status) => Err(ProxyFailure::Status(status)),
        None => Err(ProxyFailure::NotAProxy),
    }
}

/// The SOCKS message with user name and password (RFC 1929 §2).
fn socks_login(Login { user, password }: &Login) -> Bytes {
    let mut say = vec![LOGIN_VERSION];
    for part in [user, password] {
        say.push(short(part.len()));
        say.extend(part.as_bytes());
    }
    say.into()
}

/// The length of a SOCKS reply (RFC 1928 §6), which contains an address of the proxy that is not used.
fn socks_reply_length(bytes: &[u8]) -> Result<Progress, ProxyFailure> {
    match bytes {
        [SOCKS_VERSION] | [SOCKS_VERSION, 0] => return Ok(Progress::Wait),
        [SOCKS_VERSION, 0, ..] => {}
        [SOCKS_VERSION, code, ..] => return Err(ProxyFailure::Socks(*code)),
        _ => return Err(ProxyFailure::NotAProxy),
    }
    let address = match bytes.get(3..) {
        Some([IPV4, ..]) => 4,
        Some([IPV6, ..]) => 16,
        Some([NAME, length, ..]) => usize::from(*length).saturating_add(1),
        Some([] | [NAME]) | None => return Ok(Progress::Wait),
        Some(_) => return Err(ProxyFailure::NotAProxy),
    };
    let length = address.saturating_add(4 + 2);
    Ok(if bytes.len() < length { Progress::Wait } else { Progress::Through(length) })
}

/// Converts a length that was checked before.
fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
