//! URLs from devices on our network: `http`, an IPv4 address, a path. No other form is accepted.
//!
//! A device may name only itself, so a URL is compared with the source address of its message. Its path becomes part of
//! a request line, so it may contain only visible ASCII. Bound: [`MAX_PATH`].

use std::net::{Ipv4Addr, SocketAddrV4};

/// The maximum length of a path with its query, in bytes.
pub(super) const MAX_PATH: usize = 512;
const SCHEME: &str = "http://";

/// The target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub addr: SocketAddrV4,
    /// The path with its query; it begins with a slash.
    pub path: String,
}

impl Url {
    /// Parses an absolute URL that points to this host.
    pub(super) fn parse(text: &str, host: Ipv4Addr) -> Option<Self> {
        let rest = strip_scheme(text)?;
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        let (ip, port) = authority.split_once(':').unwrap_or((authority, "80"));
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|&port: &u16| is_number && port != 0)?;
        let ip: Ipv4Addr = ip.parse().ok().filter(|ip| *ip == host)?;
        Some(Self { addr: SocketAddrV4::new(ip, port), path: path_of(path)? })
    }

    /// Resolves a reference in a document from this URL, if it stays on the same host (RFC 3986 §5.2; the device
    /// resolves dot segments).
    pub(super) fn join(&self, reference: &str) -> Option<Self> {
        if strip_scheme(reference).is_some() {
            return Self::parse(reference, *self.addr.ip());
        }
        let first = reference.split(['/', '?', '#']).next().unwrap_or_default();
        if reference.is_empty() || reference.starts_with("//") || first.contains(':') {
            return None;
        }
        let path = if reference.starts_with('/') {
            path_of(reference)?
        } else {
            let base = self.path.split('?').next().unwrap_or_default();
            let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
            path_of(&format!("{directory}/{reference}"))?
        };
        Some(Self { addr: self.addr, path })
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

fn path_of(text: &str) -> Option<String> {
    let text = text.split('#').next().unwrap_or_default();
    let path = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
    (path.len() <= MAX_PATH && path.bytes().all(|byte| byte.is_ascii_graphic())).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn parse(text: &str) -> Option<(u16, String)> {
        Url::parse(text, HOST).map(|url| (url.addr.port(), url.path))
    }

    fn at(port: u16, path: &str) -> Option<(u16, String)> {
        Some((port, path.to_owned()))
    }

    #[test]
    fn only_plain_urls_of_this_host_are_accepted() {
        assert_eq!(parse("http://192.168.1.1:5000/rootDesc.xml"), at(5000, "/rootDesc.xml"));
        assert_eq!(parse("HTTP://192.168.1.1"), at(80, "/"));
        assert_eq!(parse("http://192.168.1.1?a=b#c"), at(80, "/?a=b"));
        for bad in [
            "",
            "http://",
            "ftp://192.168.1.1/",
            "https://192.168.1.1/",
            "http://192.168.1.2/",
            "http://router.lan/",
            "http://192.168.1.1@10.0.0.1/",
            "http://10.0.0.1@192.168.1.1/",
            "http://192.168.1.1:0/",
            "http://192.168.1.1:+80/",
            "http://192.168.1.1:65536/",
            "http://192.168.1.1:/",
            "http://192.168.1.1:80:80/",
            "http://192.168.1.1/a b",
            "http://192.168.1.1/a\r\nX: y",
            "http://192.168.1.1/é",
            "http://[::1]/",
            "http://0300.0250.1.1/",
            "http://3232235777/",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        let long = |len: usize| format!("http://192.168.1.1/{}", "x".repeat(len));
        assert!(parse(&long(MAX_PATH - 1)).is_some());
        assert_eq!(parse(&long(MAX_PATH)), None);
    }

    #[test]
    fn references_stay_on_the_host() {
        let base = Url::parse("http://192.168.1.1:5000/igd/desc.xml?x=/y", HOST).unwrap();
        let join = |text: &str| base.join(text).map(|url| (url.addr.port(), url.path));
        assert_eq!(join("/ctl/IPConn"), at(5000, "/ctl/IPConn"));
        assert_eq!(join("ctl?x"), at(5000, "/igd/ctl?x"));
        assert_eq!(join("http://192.168.1.1:49152/ctl"), at(49152, "/ctl"));
        for bad in ["", "//10.0.0.1/ctl", "http://10.0.0.1/ctl", "ftp:x", "file:///x", "/a b", "/a\r\nHost: x", "a\0"] {
            assert_eq!(join(bad), None, "{bad:?}");
        }
    }
}
