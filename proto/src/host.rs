//! Host and port as users type them and as URLs contain them: `name`, `name:port`, `192.0.2.1:port`,
//! `[2001:db8::1]:port`.
//!
//! The same rule applies to relays, proxies and links (RFC 3986 §3.2.2, RFC 1035 §2.3.4): a name has labels of 1 to 63
//! letters, digits, `-` and `_`, and may end with a dot. International names must be in Punycode. Bound: [`MAX_NAME`].

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

/// Maximum length of a name, in bytes.
const MAX_NAME: usize = 253;
/// Maximum length of one label of a name, in bytes.
const MAX_LABEL: usize = 63;

/// A host with an optional port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: Option<u16>,
}

/// Why a text is not a host with an optional port. The message repeats no part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHostPort {
    /// The host is neither a name nor an address.
    #[error("neither a host name nor an address")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl HostPort {
    /// Makes it from its parts; an IPv6 address has no brackets.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: Option<u16>) -> Result<Self, BadHostPort> {
        let host = if host.contains(':') { parse_v6(host)? } else { parse_name(host)? };
        if port == Some(0) { Err(BadHostPort::Port) } else { Ok(Self { host, port }) }
    }

    /// The host: a name in lower case, or an address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if the text contains one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = BadHostPort;

    fn from_str(text: &str) -> Result<Self, BadHostPort> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(BadHostPort::Host)?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(BadHostPort::Host)?) };
                (parse_v6(address)?, port)
            }
            None => {
                let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
                (parse_name(name)?, port)
            }
        };
        Ok(Self { host, port: port.map(parse_port).transpose()? })
    }
}

/// Formats it as in a URL: an IPv6 address in brackets, and the port if there is one.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn parse_v6(text: &str) -> Result<String, BadHostPort> {
    text.parse::<Ipv6Addr>().map(|address| address.to_string()).map_err(|_| BadHostPort::Host)
}

/// Parses a name or an IPv4 address.
fn parse_name(text: &str) -> Result<String, BadHostPort> {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text.len() <= MAX_NAME && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(BadHostPort::Host)
    }
}

fn parse_port(text: &str) -> Result<u16, BadHostPort> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port: &u16| digits && port != 0).ok_or(BadHostPort::Port)
}

/// Percent-decodes a part of a URL (RFC 3986 §2.1). `None`: a `%` is not followed by two hexadecimal digits.
pub(crate) fn percent_decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut escapes = text.split('%').skip(1);
    let is_escape =
        |rest: &str| rest.as_bytes().first_chunk::<2>().is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
    if !escapes.all(is_escape) {
        return None;
    }
    // The capacity is sufficient, so that growing the buffer never leaves a copy of a secret in memory.
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    decoded.extend(percent_decode_str(text));
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<u16>), BadHostPort> {
        text.parse().map(|HostPort { host, port }| (host, port))
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for (text, host, port) in [
            ("Relay.Example", "relay.example", None),
            ("relay.example.:443", "relay.example.", Some(443)),
            ("my_host-1:1", "my_host-1", Some(1)),
            ("192.0.2.1:65535", "192.0.2.1", Some(65535)),
            ("[2001:DB8::0:1]", "2001:db8::1", None),
            ("[::1]:80", "::1", Some(80)),
        ] {
            assert_eq!(parsed(text), Ok((host.to_owned(), port)), "{text}");
            let again: HostPort = text.parse().unwrap();
            assert_eq!(again.to_string().parse(), Ok(again), "{text}");
        }
    }

    #[test]
    fn invalid_hosts_and_ports_are_refused() {
        let long_label = "x".repeat(MAX_LABEL + 1);
        let long_name = "x.".repeat(MAX_NAME / 2 + 1);
        for text in [
            "",
            ":1",
            ".",
            "a..b",
            ".a",
            "a b",
            "a@b",
            "é",
            "a%41",
            "[::1",
            "[::1]1",
            "[a]",
            "[fe80::1%1]",
            &long_label,
            &long_name,
        ] {
            assert_eq!(parsed(text), Err(BadHostPort::Host), "{text}");
        }
        for text in ["a:", "a:0", "a:65536", "a:+1", "a:x", "a:1:2", "::1", "2001:db8::1"] {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert_eq!(HostPort::new("a", Some(0)), Err(BadHostPort::Port));
        assert_eq!(HostPort::new("::1", None).map(|host| host.to_string()), Ok("[::1]".to_owned()));
    }

    #[test]
    fn escapes_are_decoded_or_refused() {
        for (text, bytes) in [("a%20b", &b"a b"[..]), ("%C3%a9", &[0xC3, 0xA9]), ("", b""), ("%00é", b"\0\xC3\xA9")] {
            assert_eq!(percent_decoded(text).as_deref().map(Vec::as_slice), Some(bytes), "{text}");
        }
        for text in ["%", "a%4", "%+4", "%4é", "%%41", "%zz"] {
            assert!(percent_decoded(text).is_none(), "{text}");
        }
    }
}
