//! The link form of a code, `tallow://relay.example:4433/7#acorn-bicycle-canal`, which QR codes contain.
//!
//! The password is only in the fragment, percent-encoded, because browsers do not send fragments to servers. User
//! information and a query are refused, so that no link contains a relay password. Bound: [`MAX_LINK`] bytes of input.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use super::{Code, CodeError, MAX_TYPED, Nameplate};
use crate::host::{BadHostPort, HostPort, percent_decoded};

/// Maximum length of a link, in bytes: a host, a port and a code with each character percent-encoded.
const MAX_LINK: usize = 4 * MAX_TYPED;
const SCHEME: &str = "tallow://";
/// The characters that are percent-encoded: all but the unreserved ones (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A code together with the relay that holds its room. `Debug` hides the password.
#[derive(Clone, Debug)]
pub struct Link {
    relay: HostPort,
    code: Code,
}

impl Link {
    /// Makes a link to this relay; an IPv6 `host` has no brackets.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: Option<u16>, code: Code) -> Result<Self, LinkError> {
        Ok(Self { relay: HostPort::new(host, port).map_err(LinkError::of_host)?, code })
    }

    /// Whether the text has the form of a link and not of a bare code.
    #[must_use]
    pub fn is_link(typed: &str) -> bool {
        strip_scheme(typed.trim()).is_some()
    }

    /// Parses a link.
    ///
    /// # Errors
    /// [`LinkError`] if the text is not exactly of the form `tallow://host[:port]/nameplate#words`.
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
        let relay = authority.parse().map_err(LinkError::of_host)?;
        let nameplate = Nameplate::parse(nameplate)?;
        let words = percent_decoded(words).ok_or(LinkError::Percent)?;
        let mut code = Zeroizing::new(String::with_capacity(super::MAX_TYPED));
        code.push_str(nameplate.as_str());
        code.push('-');
        // `Code::parse` refuses every byte that is not ASCII, so its mapping to a character does not matter.
        code.extend(words.iter().copied().map(char::from));
        Ok(Self { relay, code: Code::parse(&code)? })
    }

    /// The relay's host: a name in lower case, or an address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.relay.host()
    }

    /// The relay's port, if the link contains one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.relay.port()
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> &Code {
        &self.code
    }

    /// The link as text, including the password. Show it only to the user.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(MAX_LINK));
        text.push_str(SCHEME);
        text.push_str(&self.relay.to_string());
        text.push('/');
        text.push_str(self.code.nameplate().as_str());
        text.push('#');
        text.extend(percent_encode(self.code.password().as_bytes(), RESERVED));
        text
    }
}

/// Why a text is not a valid link. The messages repeat no part of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The text is longer than a host, a port and a code can be.
    #[error("not a valid link: it is too long; a link looks like tallow://relay.example/7#acorn-bicycle-canal")]
    TooLong,
    /// The text does not have the form of a link.
    #[error("not a valid link; a link looks like tallow://relay.example/7#acorn-bicycle-canal")]
    Form,
    /// The link has no fragment.
    #[error("not a valid link: no words follow a #; a link looks like tallow://relay.example/7#acorn-bicycle-canal")]
    NoWords,
    /// The link has a user name or a password before the host.
    #[error("not a valid link: it must not hold a user name or a password for the relay")]
    UserInfo,
    /// The link has a query.
    #[error("not a valid link: it must not hold a query")]
    Query,
    /// The host is neither a name nor an address.
    #[error("not a valid link: the relay is neither a host name nor an address")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("not a valid link: the port is not a number from 1 to 65535")]
    Port,
    /// A % is not followed by two hexadecimal digits.
    #[error("not a valid link: a % is not followed by two hexadecimal digits")]
    Percent,
    /// The code in the link is not valid.
    #[error(transparent)]
    Code(#[from] CodeError),
}

impl LinkError {
    const fn of_host(bad: BadHostPort) -> Self {
        match bad {
            BadHostPort::Host => Self::Host,
            BadHostPort::Port => Self::Port,
        }
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}
