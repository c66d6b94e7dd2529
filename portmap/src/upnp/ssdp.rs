//! SSDP (UPnP Device Architecture 1.1 §1.3): the search for gateways, and its responses.
//!
//! No state. Bounds: [`MAX_ANSWER`] bytes, [`MAX_HEADERS`] headers.

use std::net::{Ipv4Addr, SocketAddrV4};

use httparse::{EMPTY_HEADER, Response};

use super::url::Url;

/// The multicast group of all UPnP devices.
pub(super) const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), PORT);
/// The UDP port of the group, and of each device for unicast searches.
pub(super) const PORT: u16 = 1900;
/// The maximum length of a response, in bytes.
const MAX_ANSWER: usize = 2048;
/// The maximum number of headers in a response.
const MAX_HEADERS: usize = 32;
/// The search target of each round. The standard requires devices of later versions to answer searches for earlier
/// ones.
const TARGETS: [&str; 4] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
];
/// Search targets of accepted responses, without the version.
const ANSWERED: [&str; 3] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:",
    "urn:schemas-upnp-org:service:WANIPConnection:",
    "urn:schemas-upnp-org:service:WANPPPConnection:",
];

/// The number of searches in one attempt.
pub(super) const ROUNDS: usize = TARGETS.len();

/// The search of this round; `None` after the last one.
pub(super) fn search(round: usize, to: SocketAddrV4) -> Option<Vec<u8>> {
    let target = TARGETS.get(round)?;
    let text = format!("M-SEARCH * HTTP/1.1\r\nHOST: {to}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n");
    Some(text.into_bytes())
}

/// The URL of the description, if `data` is a gateway's response from this address.
pub(super) fn location(from: Ipv4Addr, data: &[u8]) -> Option<Url> {
    let data = data.get(..).filter(|data| data.len() <= MAX_ANSWER)?;
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    if !response.parse(data).is_ok_and(|status| status.is_complete()) || response.code != Some(200) {
        return None;
    }
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let target = header("st")?;
    ANSWERED.iter().any(|known| target.starts_with(known)).then_some(())?;
    Url::parse(header("location")?, from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn answer(status: &str, st: &str, location: &str) -> String {
        format!("HTTP/1.1 {status}\r\nCACHE-CONTROL: max-age=120\r\nst: {st}\r\nEXT:\r\nLocation:{location}\r\n\r\n")
    }

    #[test]
    fn ssdp_search_matches_upnp_standard() {
        let text = String::from_utf8(search(0, GROUP).unwrap()).unwrap();
        assert_eq!(
            text,
            "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
        );
        assert!(search(ROUNDS - 1, GROUP).is_some() && search(ROUNDS, GROUP).is_none());
    }

    #[test]
    fn only_a_gateway_that_names_itself_is_accepted() {
        let (ok, here) = ("200 OK", "http://192.168.1.1:5000/desc.xml");
        let of = |text: &str| location(FROM, text.as_bytes());
        for st in TARGETS {
            assert_eq!(of(&answer(ok, st, here)), Url::parse(here, FROM));
        }
        assert!(of(&answer(ok, TARGETS[0], here)).is_some());
        for bad in [
            answer("302 Found", TARGETS[0], here),
            answer(ok, "upnp:rootdevice", here),
            answer(ok, TARGETS[0], "http://192.168.1.9:5000/desc.xml"),
            answer(ok, TARGETS[0], "http://203.0.113.1/desc.xml"),
            answer(ok, TARGETS[0], ""),
            answer(ok, TARGETS[0], here).replace("Location", "Elsewhere"),
            answer(ok, TARGETS[0], here).replace("HTTP/1.1 ", "NOTIFY * "),
            answer(ok, TARGETS[0], here).trim_end().to_owned(),
            answer(ok, TARGETS[0], here).replace("EXT", &format!("{}EXT", "X: y\r\n".repeat(40))),
            answer(ok, TARGETS[0], here).replace("EXT:", &format!("EXT:{}", "x".repeat(MAX_ANSWER))),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }
}
