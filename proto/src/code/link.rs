//! The link form of a code, `tallow://relay.example:4433/7#acorn-bicycle-canal`: what a QR code shows.
//!
//! The password stands in the fragment only, percent-encoded, since a fragment is what browsers and servers do not pass on. User
//! information and a query are refused, so no relay password can hide there. Bound: [`MAX_LINK`] bytes of input.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use super::{Code, CodeError, MAX_TYPED, Nameplate};
use crate::host::{BadHostPort, HostPort, percent_decoded};

/// The longest link that is looked at, in bytes: a host, a port and a code with each character percent-encoded.
const MAX_LINK: usize = 4 * MAX_TYPED;
const SCHEME: &str = "tallow://";
/// What is percent-encoded: all but the unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A code with the relay where it lives. `Debug` hides the password.
#[derive(Clone, Debug)]
pub struct Link {
    relay: HostPort,
    code: Code,
}

impl Link {
    /// A link to this relay; an IPv6 host without brackets.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: Option<u16>, code: Code) -> Result<Self, LinkError> {
        Ok(Self { relay: HostPort::new(host, port)?, code })
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
        let relay = authority.parse()?;
        let nameplate = Nameplate::parse(nameplate)?;
        let words = percent_decoded(words).ok_or(LinkError::Percent)?;
        let mut code = Zeroizing::new(String::with_capacity(super::MAX_TYPED));
        code.push_str(nameplate.as_str());
        code.push('-');
        // A byte that is not ASCII is no part of a code, whichever character it stands for.
        code.extend(words.iter().copied().map(char::from));
        Ok(Self { relay, code: Code::parse(&code)? })
    }

    /// The relay's host: a name in lower case, or an address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.relay.host()
    }

    /// The relay's port, where the link names one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.relay.port()
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
        text.push_str(&self.relay.to_string());
        text.push('/');
        text.push_str(self.code.nameplate().as_str());
        text.push('#');
        text.extend(percent_encode(self.code.password().as_bytes(), RESERVED));
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

impl From<BadHostPort> for LinkError {
    fn from(bad: BadHostPort) -> Self {
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
