//! The configuration of a transfer, from the options, the environment and this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tallow_proto::link::Proxy;
use tallow_proto::link::Trust;
use tallow_proto::link::{Allowed, Transport};
use tallow_proto::peer::{Common, RelayAddress, RelayChoice};
use tallow_store::{KnownRelays, RelayTransports};

use crate::args::{self, PeerArgs};
use crate::failure::{Problem, cause};
use crate::output::shown;

/// The environment variable that contains relays.
const VARIABLE: &str = "TALLOW_RELAY";

/// The certificates of known relays, and the transports that reached them, from earlier runs.
#[derive(Debug)]
pub struct Memory {
    known: Result<KnownRelays, String>,
    /// Only makes the next start faster, so errors are ignored.
    transports: Option<RelayTransports>,
}

impl Memory {
    /// Reads the files in `dir`, or in the default state directory.
    #[must_use]
    pub fn load(dir: Option<PathBuf>) -> Self {
        let dir = dir.or_else(tallow_store::default_dir);
        let transports = dir.as_ref().and_then(|dir| RelayTransports::load(dir).ok());
        let known = match dir {
            Some(dir) => KnownRelays::load(&dir).map_err(|error| error.to_string()),
            None => Err("there is no home directory".to_owned()),
        };
        if let Err(error) = &known {
            // The security of a transfer does not depend on the relay, so it can continue.
            tracing::warn!("the certificates of known relays can't be read: {}", shown(error));
        }
        Self { known, transports }
    }

    fn transport(&self, relay: &RelayAddress) -> Option<Transport> {
        self.transports.as_ref()?.get(&relay.to_string())
    }

    /// Stores the transport over which a relay answered.
    pub fn reached(&mut self, relay: &RelayAddress, transport: Transport) {
        if let Some(Err(error)) = self.transports.as_mut().map(|known| known.keep(&relay.to_string(), transport)) {
            tracing::debug!("the relay's transport was not kept: {}", shown(&error.to_string()));
        }
    }

    fn trust(&self, relay: &RelayAddress) -> Trust {
        self.known.as_ref().map_or(Trust::FirstUse, |known| known.trust(&relay.to_string()))
    }

    /// Stores how the certificate of a relay is verified.
    ///
    /// # Errors
    /// It could not be stored, with the reason.
    pub fn keep(&mut self, relay: &RelayAddress, trust: Trust) -> Result<(), String> {
        match &mut self.known {
            Ok(known) => known.keep(&relay.to_string(), trust).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        }
    }

    /// The path of the file with certificates, for messages.
    #[must_use]
    pub fn file(&self) -> String {
        self.known
            .as_ref()
            .map_or_else(|_| "known_relays".to_owned(), |known| known.path().to_string_lossy().into_owned())
    }
}

/// The configuration that senders and receivers share, and the known certificates.
///
/// # Errors
/// A relay or a password can't be read.
pub fn common(args: &PeerArgs, linked: Option<RelayAddress>) -> Result<(Common, Memory), Problem> {
    let password = password(args)?;
    let environment = std::env::var(VARIABLE).unwrap_or_default();
    let configured = if args.relay.is_empty() { relays_of(&environment)? } else { args.relay.clone() };
    // A link names the relay of its code; only the --relay option overrides it.
    let addresses = match linked {
        Some(linked) if args.relay.is_empty() => vec![linked],
        _ => configured.clone(),
    };
    let memory = Memory::load(args.state_dir.clone());
    let choice = |address: RelayAddress| {
        let trust = args.relay_pin.map_or_else(|| memory.trust(&address), Trust::Pin);
        // A link is untrusted: the password is used only at relays that the user configured.
        let password = password.clone().filter(|_| configured.contains(&address));
        let remembered = memory.transport(&address);
        let mut choice = RelayChoice::new(address).with_trust(trust);
        (choice.password, choice.remembered) = (password, remembered);
        choice
    };
    let relays: Vec<RelayChoice> = addresses.into_iter().map(choice).collect();
    let proxy = match &args.proxy {
        Some(_) if relays.is_empty() => {
            return Err(Problem::usage(
                "--proxy is the way to a relay, and no relay is configured",
                "add --relay HOST",
            ));
        }
        Some(proxy) => Some(proxy.clone()),
        None => proxy_of(&relays, |name| std::env::var(name).ok())?,
    };
    let direct = match (args.no_p2p, &proxy) {
        (true, _) | (false, Some(_)) => None,
        (false, None) => tallow_runtime::direct_path().map(|mut direct| {
            (direct.ports, direct.stun) = (args.p2p_port, args.stun.clone());
            (direct.map_ports, direct.only) = (!args.no_port_map, args.p2p_only);
            direct
        }),
    };
    if args.p2p_only && direct.is_none() {
        return Err(Problem::usage("with a proxy there is no direct path", "leave out --p2p-only"));
    }
    let mut common = Common::new(tallow_runtime::machine());
    (common.relays, common.proxy, common.direct) = (relays, proxy, direct);
    (common.transport, common.verify) = (allowed(args.transport), args.verify);
    (common.give_up_after, common.limit) = (args.give_up_after, args.limit);
    Ok((common, memory))
}

const fn allowed(transport: args::Transport) -> Allowed {
    match transport {
        args::Transport::Auto => Allowed::Auto,
        args::Transport::Quic => Allowed::Only(Transport::Quic),
        args::Transport::Tcp => Allowed::Only(Transport::Tls),
        args::Transport::Websocket => Allowed::Only(Transport::WebSocket),
    }
}

/// The proxy from the environment, unless `NO_PROXY` excludes one of the relays.
fn proxy_of(relays: &[RelayChoice], variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, Problem> {
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_ascii_uppercase()));
    let text = ["all_proxy", "https_proxy"].into_iter().find_map(|name| either(name).filter(|text| !text.is_empty()));
    let Some(text) = text else { return Ok(None) };
    let excepted = either("no_proxy").unwrap_or_default();
    let is_excepted = |relay: &RelayChoice| {
        excepted.split(',').map(str::trim).filter(|name| !name.is_empty()).any(|name| {
            let (name, host) = (name.trim_start_matches('.').to_ascii_lowercase(), &relay.address.host);
            name == "*" || *host == name || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.'))
        })
    };
    if relays.is_empty() || relays.iter().any(is_excepted) {
        return Ok(None);
    }
    let proxy = text
        .parse()
        .map_err(|error| Problem::usage(&format!("ALL_PROXY or HTTPS_PROXY: {error}"), "correct it, or use --proxy"))?;
    Ok(Some(proxy))
}

/// Parses the relays of the environment variable.
fn relays_of(text: &str) -> Result<Vec<RelayAddress>, Problem> {
    let parse = |relay: &str| {
        relay.parse().map_err(|error| {
            Problem::usage(&format!("invalid relay '{}' in TALLOW_RELAY", shown(relay)), &format!("{error}"))
        })
    };
    text.split(',').map(str::trim).filter(|relay| !relay.is_empty()).map(parse).collect()
}

fn password(args: &PeerArgs) -> Result<Option<Arc<str>>, Problem> {
    if let Some(file) = &args.relay_password_file {
        return from_file(file).map(Some);
    }
    Ok(args.relay_password.as_deref().filter(|password| !password.is_empty()).map(Arc::from))
}

fn from_file(file: &Path) -> Result<Arc<str>, Problem> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let file = shown(&file.to_string_lossy());
        Problem::usage(
            &format!("could not read the relay's password from {file}: {}", cause(error.kind())),
            "check --relay-password-file",
        )
    })?;
    Ok(Arc::from(text.trim_end_matches(['\n', '\r'])))
}

/// The listen addresses of the relay inside a sender, in order of preference: the default port, else a free one. A
/// configured port is not replaced.
#[must_use]
pub fn listen(port: Option<u16>) -> Vec<SocketAddr> {
    let ports: &[u16] = match port {
        Some(port) => &[port],
        None => &[tallow_proto::peer::DEFAULT_PORT, 0],
    };
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    ports.iter().flat_map(|&port| any.map(|ip| SocketAddr::new(ip, port))).collect()
}

/// The addresses at which a receiver looks for a sender on this machine.
#[must_use]
pub fn local(port: Option<u16>) -> Vec<SocketAddr> {
    let port = port.unwrap_or(tallow_proto::peer::DEFAULT_PORT);
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    loopback.map(|ip| SocketAddr::new(ip, port)).to_vec()
}

/// The addresses at which other machines may reach a listener at `listening`.
#[must_use]
pub fn reachable(listening: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<String> {
    let mut reachable: Vec<SocketAddr> = Vec::new();
    for &at in listening {
        if !at.ip().is_unspecified() {
            reachable.push(at);
            continue;
        }
        // A listener at `[::]` accepts IPv4, too.
        let fits = |ip: &&IpAddr| at.is_ipv6() || ip.is_ipv4();
        reachable.extend(interfaces.iter().filter(fits).map(|&ip| SocketAddr::new(ip, at.port())));
    }
    reachable.retain(|at| !at.ip().is_loopback());
    reachable.sort_by_key(|at| at.is_ipv6());
    reachable.dedup();
    reachable.into_iter().map(|at| RelayAddress { host: at.ip().to_string(), port: at.port() }.to_string()).collect()
}

/// The source address of each family that the system selects for a remote destination. Nothing is sent.
#[must_use]
pub fn routed() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737 and RFC 3849), which are assigned to no host.
    let far: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let own = |(any, far): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        socket.local_addr().ok().map(|own| own.ip())
    };
    far.into_iter().filter_map(own).filter(|ip| !ip.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_excludes_a_relay_from_the_proxy() {
        let relay = |host: &str| RelayChoice::new(host.parse().unwrap());
        let proxy = |host: &str, variables: &[(&str, &str)]| {
            let variables: Vec<(String, String)> =
                variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            proxy_of(&[relay(host)], |name| variables.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone()))
        };
        assert_eq!(proxy("relay.example", &[]).unwrap(), None);
        let found = proxy("relay.example", &[("ALL_PROXY", "socks5h://127.0.0.1:9050")]).unwrap().unwrap();
        assert_eq!((found.host(), found.port()), ("127.0.0.1", 9050));
        assert!(proxy("relay.example", &[("https_proxy", "proxy.example:3128")]).unwrap().is_some());
        for excepted in ["*", "relay.example", "example", ".example", "a, example"] {
            let variables = [("ALL_PROXY", "http://p"), ("NO_PROXY", excepted)];
            assert_eq!(proxy("relay.example", &variables).unwrap(), None, "{excepted}");
        }
        let variables = [("ALL_PROXY", "http://p"), ("NO_PROXY", "ample,other.example")];
        assert!(proxy("relay.example", &variables).unwrap().is_some());
        assert!(proxy("relay.example", &[("ALL_PROXY", "ftp://p")]).is_err());
        assert_eq!(proxy_of(&[], |_| Some("http://p".to_owned())).unwrap(), None);
    }

    #[test]
    fn relays_are_separated_by_commas() {
        let relays = relays_of("a.example, b.example:99,,[::1]:1").unwrap();
        let shown: Vec<String> = relays.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a.example", "b.example:99", "[::1]:1"]);
        assert_eq!(relays_of("").unwrap(), []);
        let problem = relays_of("a b\x1b").unwrap_err();
        assert_eq!(problem.code, 2);
        assert!(problem.line().contains("TALLOW_RELAY") && !problem.line().contains('\x1b'));
    }

    #[test]
    fn the_embedded_relay_prefers_the_default_port() {
        let ports: Vec<u16> = listen(None).iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [4433, 4433, 0, 0]);
        assert!(listen(Some(7)).iter().all(|at| at.port() == 7), "a port that was asked for is not replaced");
        assert!(local(Some(7)).iter().all(|at| at.port() == 7 && at.ip().is_loopback()));
    }

    #[test]
    fn reachable_addresses_exclude_loopback() {
        let interfaces: [IpAddr; 3] =
            ["2001:db8::5".parse().unwrap(), "10.0.0.5".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(reachable(&[at("[::]:4433")], &interfaces), ["10.0.0.5", "[2001:db8::5]"]);
        assert_eq!(reachable(&[at("0.0.0.0:99")], &interfaces), ["10.0.0.5:99"]);
        assert_eq!(reachable(&[at("127.0.0.1:99")], &interfaces), Vec::<String>::new());
    }
}
