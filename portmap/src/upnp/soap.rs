//! SOAP requests to a gateway's connection service (UPnP WANIPConnection:1 and :2, WANPPPConnection:1), and its
//! responses.
//!
//! No state. A request contains only our own data: numbers, our address, fixed names, the escaped description. Bounds:
//! [`MAX_SERVICES`] of a device description.

use std::net::Ipv4Addr;
use std::time::Duration;

use quick_xml::escape::escape;

use super::url::Url;
use super::xml::{self, Token, Tokens};

/// The most services that are used from a description.
const MAX_SERVICES: usize = 4;
/// The maximum length of a value in a description, in bytes.
const MAX_VALUE: usize = 1024;

/// The type of a connection service, better ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ip2,
    Ip1,
    Ppp1,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Ip2, Self::Ip1, Self::Ppp1];

    const fn name(self) -> &'static str {
        match self {
            Self::Ip2 => "urn:schemas-upnp-org:service:WANIPConnection:2",
            Self::Ip1 => "urn:schemas-upnp-org:service:WANIPConnection:1",
            Self::Ppp1 => "urn:schemas-upnp-org:service:WANPPPConnection:1",
        }
    }
}

/// A connection service and the URL for its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub kind: Kind,
    pub control: Url,
}

/// A request to a connection service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call<'a> {
    Address,
    Add(Mapping<'a>),
    /// Requests a mapping for which the gateway may choose another external port (WANIPConnection:2 §2.5.20).
    AddAny(Mapping<'a>),
    Delete {
        external: u16,
    },
}

/// The parameters of a requested mapping of a UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping<'a> {
    pub external: u16,
    pub internal: u16,
    pub local: Ipv4Addr,
    /// Zero means no expiry, or a week (version 2).
    pub lease: Duration,
    /// The text that the gateway displays with the mapping; it is escaped here.
    pub description: &'a str,
}

/// Error codes after which another request may succeed.
pub(super) mod code {
    pub const INVALID_ACTION: u16 = 401;
    pub const INVALID_ARGS: u16 = 402;
    pub const NOT_IMPLEMENTED: u16 = 602;
    pub const CONFLICT: u16 = 718;
    pub const SAME_PORTS_REQUIRED: u16 = 724;
    pub const ONLY_PERMANENT: u16 = 725;
}

impl Call<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Address => "GetExternalIPAddress",
            Self::Add(_) => "AddPortMapping",
            Self::AddAny(_) => "AddAnyPortMapping",
            Self::Delete { .. } => "DeletePortMapping",
        }
    }

    fn arguments(&self) -> String {
        let port = |external| {
            format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                 <NewProtocol>UDP</NewProtocol>"
            )
        };
        match self {
            Self::Address => String::new(),
            Self::Delete { external } => port(*external),
            Self::Add(Mapping { external, internal, local, lease, description })
            | Self::AddAny(Mapping { external, internal, local, lease, description }) => format!(
                "{}<NewInternalPort>{internal}</NewInternalPort><NewInternalClient>{local}</NewInternalClient>\
                 <NewEnabled>1</NewEnabled><NewPortMappingDescription>{}</NewPortMappingDescription>\
                 <NewLeaseDuration>{}</NewLeaseDuration>",
                port(*external),
                escape(description.replace(char::is_control, "")),
                lease.as_secs()
            ),
        }
    }

    /// The complete HTTP request.
    pub(super) fn request(&self, service: &Service) -> Vec<u8> {
        let (kind, name, arguments) = (service.kind.name(), self.name(), self.arguments());
        let Url { addr, path } = &service.control;
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{name} xmlns:u=\"{kind}\">\
             {arguments}</u:{name}></s:Body></s:Envelope>\r\n"
        );
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
             Content-Length: {}\r\nSOAPAction: \"{kind}#{name}\"\r\n\r\n",
            body.len()
        );
        [head, body].concat().into_bytes()
    }
}

/// The HTTP request for a description.
pub(super) fn description_request(Url { addr, path }: &Url) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// The connection services of the device description at this URL, the preferred ones first.
pub(super) fn services(at: &Url, document: &str) -> Vec<Service> {
    let base = xml::field(document, "URLBase").filter(|base| base.len() <= MAX_VALUE);
    let base = match base {
        Some(base) => Url::parse(&base, *at.addr.ip()),
        None => Some(at.clone()),
    };
    let Some(base) = base else { return Vec::new() };
    let mut found: Vec<Service> = Vec::new();
    let (mut current, mut kind, mut control) = (String::new(), None, None);
    for token in Tokens::new(document) {
        match token {
            Token::Start(name) => {
                if name == "service" {
                    (kind, control) = (None, None);
                }
                current = name;
            }
            Token::End(name) => {
                if name == "service"
                    && let (Some(kind), Some(control)) = (kind.take(), control.take())
                    && found.len() < MAX_SERVICES
                {
                    found.push(Service { kind, control });
                }
                current.clear();
            }
            Token::Text(text) => {
                let text = text.trim();
                if text.is_empty() || text.len() > MAX_VALUE {
                    continue;
                }
                match current.as_str() {
                    "serviceType" => kind = Kind::ALL.into_iter().find(|kind| kind.name() == text),
                    "controlURL" => control = base.join(text),
                    _ => {}
                }
            }
        }
    }
    found.sort_by_key(|service| service.kind);
    found
}

/// The gateway's external address; the unspecified address if it has none.
pub(super) fn address(document: &str) -> Ipv4Addr {
    let text = xml::field(document, "NewExternalIPAddress");
    text.and_then(|text| text.parse().ok()).unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// The external port that the gateway chose.
pub(super) fn reserved_port(document: &str) -> Option<u16> {
    xml::field(document, "NewReservedPort")?.parse().ok()
}

/// The error code of a fault.
pub(super) fn error(document: &str) -> Option<u16> {
    xml::field(document, "errorCode")?.parse().ok()
}

#[cfg(test)]
mod tests;
