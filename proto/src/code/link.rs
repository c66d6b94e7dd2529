//! The link form of a code, `tallow://relay.example:4433/7#acorn-bicycle-canal`: what a QR code shows.
//!
//! The password stands in the fragment only, percent-encoded, since a fragment is what browsers and servers do not pass on. User
//! information and a query are refused, so no relay password can hide there. Bound: [`MAX_LINK`] bytes of input.

use std::net::Ipv6Addr;

use zeroize::Zeroizing;

use super::{Code, CodeError, MAX_TYPED, Nameplate};

/// The longest link that is looked at, in bytes: a host, a port and a code with each character percent-encoded.
const MAX_LINK: usize = 4 * MAX_TYPED;
/// RFC 1035 §2.3.4.
const MAX_HOST: usize = 253;
/// RFC 1035 §2.3.4.
const MAX_LABEL: usize = 63;
const SCHEME: &str = "tallow://";

/// A code with the relay where it lives. `Debug` hides the password.
#[derive(Clone, Debug)]
pub struct Link {
    host: String,
    port: Option<u16>,
    code: Code,
}

impl Link {
    /// A link to this relay; an IPv6 host without brackets.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: Option<u16>, code: Code) -> Result<Self, LinkError> {
        let host = if host.contains(':') { parse_v6(host)? } else { parse_name(host)? };
        if port == Some(0) { Err(LinkError::Port) } else { Ok(Self { host, port, code }) }
    }

    /// Whether the text means to be a link and not a bare code.
    #[must_use]
    pub fn is_link(typed: &str) -> bool {
        strip_scheme(typed.trim()).is_some()
    }

    /// Reads a link.
    ///
    /// # Errors
    /// Anything that is not exactly of the form `tallow://host[:port]/nameplate#words`.
    pub fn parse(typed: &str) -> Result<Self, LinkError> {
        if typed.len() > MAX_LINK {
            return Err(LinkError::TooLong);
        }
        let rest = strip_scheme(typed.trim()).ok_or(LinkError::Form)?;
        let (public, words) = rest.split_once('#').ok_or(LinkError::NoWords)?;
        if public.contains('@') {
            return Err(LinkError::UserInfo);
        }
        if public.contains('?') {
            return Err(LinkError::Query);
        }
        let (authority, nameplate) = public.split_once('/').ok_or(LinkError::Form)?;
        let (host, port) = parse_authority(authority)?;
        let nameplate = Nameplate::parse(nameplate)?;
        let words = percent_decoded(words)?;
        let mut code = Zeroizing::new(String::with_capacity(super::MAX_TYPED));
        code.push_str(nameplate.as_str());
        code.push('-');
        code.push_str(&words);
        Ok(Self { host, port, code: Code::parse(&code)? })
    }

    /// The relay's host: a name in lower case, or an address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The relay's port, where the link names one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> &Code {
        &self.code
    }

    /// The link as text, to be shown to the person who may know it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(MAX_LINK));
        text.push_str(SCHEME);
        if self.host.contains(':') {
            text.push('[');
            text.push_str(&self.host);
            text.push(']');
        } else {
            text.push_str(&self.host);
        }
        if let Some(port) = self.port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        text.push('/');
        text.push_str(self.code.nameplate().as_str());
        text.push('#');
        for &byte in self.code.password().as_bytes() {
            // RFC 3986 §2.3: the unreserved characters stand for themselves.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                text.push(char::from(byte));
            } else {
                text.push('%');
                text.extend(
                    [byte >> 4, byte & 15]
                        .map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or_default().to_ascii_uppercase()),
                );
            }
        }
        text
    }
}

/// Why a text is no link. The texts repeat nothing of what was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// More than a host, a port and a code can take.
    #[error("not a valid link: it is too long; a link looks like tallow://relay.example/7#acorn-bicycle-canal")]
    TooLong,
    /// Not of the form of a link at all.
    #[error("not a valid link; a link looks like tallow://relay.example/7#acorn-bicycle-canal")]
    Form,
    /// No fragment.
    #[error("not a valid link: no words follow a #; a link looks like tallow://relay.example/7#acorn-bicycle-canal")]
    NoWords,
    /// A name or a password before the host.
    #[error("not a valid link: it must not hold a user name or a password for the relay")]
    UserInfo,
    /// A query.
    #[error("not a valid link: it must not hold a query")]
    Query,
    /// Neither a name nor an address.
    #[error("not a valid link: the relay is neither a host name nor an address")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("not a valid link: the port is not a number from 1 to 65535")]
    Port,
    /// A % without two hexadecimal digits.
    #[error("not a valid link: a % is not followed by two hexadecimal digits")]
    Percent,
    /// The code in it is none.
    #[error(transparent)]
    Code(#[from] CodeError),
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

fn parse_authority(authority: &str) -> Result<(String, Option<u16>), LinkError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(LinkError::Host)?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(LinkError::Host)?) };
        (parse_v6(address)?, port)
    } else {
        let (name, port) = authority.split_once(':').map_or((authority, None), |(name, port)| (name, Some(port)));
        (parse_name(name)?, port)
    };
    Ok((host, port.map(parse_port).transpose()?))
}

fn parse_v6(text: &str) -> Result<String, LinkError> {
    text.parse::<Ipv6Addr>().map(|address| address.to_string()).map_err(|_| LinkError::Host)
}

/// A host name or an IPv4 address (RFC 3986 §3.2.2), less what no relay's name holds; an international name stands as Punycode.
fn parse_name(text: &str) -> Result<String, LinkError> {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text.len() <= MAX_HOST && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(LinkError::Host)
    }
}

fn parse_port(text: &str) -> Result<u16, LinkError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port: &u16| digits && port != 0).ok_or(LinkError::Port)
}

fn percent_decoded(text: &str) -> Result<Zeroizing<String>, LinkError> {
    let mut decoded = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            decoded.push(c);
            continue;
        }
        let mut digit = || chars.next().and_then(|c| c.to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(LinkError::Percent) };
        // What is not ASCII stays so, and is no part of a code.
        decoded.push(char::from((high << 4) | low));
    }
    Ok(decoded)
}
