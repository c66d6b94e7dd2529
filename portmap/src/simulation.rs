//! Gateways for tests: their answers, and a world of one machine and one gateway with a virtual clock.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;

use crate::client::Target;
use crate::{
    Action, Config, ConnectionEvent, ConnectionId, Event, Instant, Interface, MAX_CONNECTIONS, PORT, PortMapper,
    Protocol, Transmit,
};

pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 1), PORT);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub const TARGET: Target = Target { server: GATEWAY, local: LOCAL, internal_port: 40_000 };

pub fn interface(addr: Ipv4Addr) -> Interface {
    Interface { addr: addr.into(), prefix: 24 }
}

/// An answer to a MAP request.
pub fn pcp_answer(request: &[u8], result: u8, lifetime: u32, epoch: u32, external: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut answer = vec![2, 0x81, 0, result];
    answer.extend(lifetime.to_be_bytes());
    answer.extend(epoch.to_be_bytes());
    answer.extend([0; 12]);
    answer.extend(&request[24..42]);
    answer.extend(port.to_be_bytes());
    answer.extend(external.to_ipv6_mapped().octets());
    answer
}

pub fn natpmp_address(result: u16, epoch: u32, external: Ipv4Addr) -> Vec<u8> {
    [&[0, 0x80][..], &result.to_be_bytes(), &epoch.to_be_bytes(), &external.octets()].concat()
}

pub fn natpmp_mapping(result: u16, epoch: u32, internal: u16, external: u16, lifetime: u32) -> Vec<u8> {
    let ports = [internal.to_be_bytes(), external.to_be_bytes()].concat();
    [&[0, 0x81][..], &result.to_be_bytes(), &epoch.to_be_bytes(), &ports, &lifetime.to_be_bytes()].concat()
}

/// Several datagrams, most of which start with these bytes.
pub fn any_datagrams(begin: &'static [u8]) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let rest = prop::collection::vec(any::<u8>(), 0..80);
    let datagram = (0..=begin.len(), rest).prop_map(|(len, rest)| [&begin[..len], &rest].concat());
    prop::collection::vec(datagram, 1..8)
}

/// A gateway's behaviour for one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Silent,
    Unsupported,
    Refuses,
    Garbage,
    Grants,
    /// Grants after this many milliseconds.
    GrantsLate(u64),
}

/// A mapping that the gateway keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub by: Protocol,
    pub external: u16,
    pub until: Instant,
}

pub struct Gateway {
    pub pcp: Manner,
    pub natpmp: Manner,
    pub outside: Ipv4Addr,
    pub lifetime: u32,
    /// When its epoch was zero.
    pub zero: Instant,
    pub held: Vec<Held>,
    pub next_port: u16,
}

impl Gateway {
    /// The answer, and its delay in milliseconds.
    fn answer(&mut self, now: Instant, data: &[u8]) -> Option<(u64, Vec<u8>)> {
        let manner = if data[0] == 2 { self.pcp } else { self.natpmp };
        let delay = match manner {
            Manner::Silent => return None,
            Manner::Garbage => return Some((1, vec![data[0], 0x81, 0, 0, 1, 2, 3])),
            Manner::GrantsLate(delay) => delay,
            Manner::Unsupported | Manner::Refuses | Manner::Grants => 1,
        };
        self.held.retain(|held| held.until > now);
        let epoch = (now - self.zero).as_secs() as u32;
        let answer = match (data[0], data[1]) {
            (2, 1) if manner == Manner::Unsupported => vec![0, 0x81, 0, 1, 0, 0, 0, 1],
            (2, 1) if manner == Manner::Refuses => pcp_answer(data, 2, 30, epoch, Ipv4Addr::UNSPECIFIED, 0),
            (2, 1) => {
                let lifetime = u32::from_be_bytes(data[4..8].try_into().unwrap());
                let (port, lifetime) = self.map(now, Protocol::Pcp, lifetime);
                pcp_answer(data, 0, lifetime, epoch, self.outside, port)
            }
            (0, 0) if manner == Manner::Refuses => natpmp_address(2, epoch, Ipv4Addr::UNSPECIFIED),
            (0, 0) if manner != Manner::Unsupported => natpmp_address(0, epoch, self.outside),
            (0, 1) if manner != Manner::Unsupported => {
                let lifetime = u32::from_be_bytes(data[8..12].try_into().unwrap());
                let internal = u16::from_be_bytes(data[4..6].try_into().unwrap());
                let (port, lifetime) = self.map(now, Protocol::NatPmp, lifetime);
                natpmp_mapping(0, epoch, internal, if lifetime == 0 { 0 } else { port }, lifetime)
            }
            _ => return None,
        };
        Some((delay, answer))
    }

    /// Each protocol gets its own port here, so that a test detects a port that is mapped twice.
    pub fn map(&mut self, now: Instant, by: Protocol, lifetime: u32) -> (u16, u32) {
        let known = self.held.iter().position(|held| held.by == by).map(|at| self.held.remove(at).external);
        if lifetime == 0 {
            return (known.unwrap_or(0), 0);
        }
        let external = known.unwrap_or_else(|| {
            self.next_port += 1;
            self.next_port
        });
        let lifetime = lifetime.min(self.lifetime);
        self.held.push(Held { by, external, until: now + Duration::from_secs(lifetime.into()) });
        (external, lifetime)
    }
}

/// A gateway with UPnP.
pub struct Igd {
    /// The LOCATION of its search response; `None` if it does not respond.
    pub location: Option<String>,
    pub description: String,
    pub address: String,
    /// Error codes for the next requests for a mapping.
    pub errors: Vec<u16>,
    /// Whether it supports leases.
    pub has_leases: bool,
    /// The port that it grants instead of the requested one (version 2).
    pub chooses: Option<u16>,
    /// The status of every response, unless it is the correct one.
    pub status: Option<u16>,
    /// Whether connections get no response.
    pub hangs: bool,
    /// Whether it refuses connections.
    pub refuses: bool,
    pub chunked: bool,
    /// External port, internal port, lease.
    pub mappings: Vec<(u16, u16, u32)>,
    /// The requests: the request line, or the SOAP action.
    pub asked: Vec<String>,
}

pub const LOCATION: &str = "http://192.168.1.1:5000/desc.xml";

pub fn description(kinds: &[&str]) -> String {
    let services = kinds.iter().map(|kind| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><serviceId>x</serviceId>\
             <SCPDURL>/scpd.xml</SCPDURL><controlURL>/ctl/{kind}</controlURL></service>"
        )
    });
    let services: String = services.collect();
    format!("<?xml version=\"1.0\"?><root><device><serviceList>{services}</serviceList></device></root>")
}

impl Default for Igd {
    fn default() -> Self {
        Self {
            location: None,
            description: description(&["WANIPConnection:1"]),
            address: OUTSIDE.to_string(),
            errors: Vec::new(),
            has_leases: true,
            chooses: None,
            status: None,
            hangs: false,
            refuses: false,
            chunked: false,
            mappings: Vec::new(),
            asked: Vec::new(),
        }
    }
}

impl Igd {
    fn found(&self, data: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(data).ok().filter(|text| text.starts_with("M-SEARCH * HTTP/1.1\r\n"))?;
        let target = text.lines().find_map(|line| line.strip_prefix("ST: "))?;
        let location = self.location.as_ref()?;
        Some(format!("HTTP/1.1 200 OK\r\nST: {target}\r\nLOCATION: {location}\r\n\r\n").into_bytes())
    }

    /// The response, once the request is complete.
    fn answer(&mut self, to: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(request).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let first = lines.next().unwrap();
        let header = |name: &str| lines.clone().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(header("Host:"), Some(&*to.to_string()));
        assert_eq!(header("Connection:"), Some("close"));
        if header("Content-Length:").is_some_and(|length| body.len() < length.parse().unwrap()) {
            return None;
        }
        let (status, answer) = match header("SOAPAction:") {
            None => {
                self.asked.push(first.to_owned());
                (200, self.description.clone())
            }
            Some(action) => {
                let (kind, action) = action.trim_matches('"').split_once('#').unwrap();
                self.asked.push(action.to_owned());
                assert_eq!(first, format!("POST /ctl/{} HTTP/1.1", &kind["urn:schemas-upnp-org:service:".len()..]));
                match self.act(action, body) {
                    Ok(answer) => (200, format!("<s:Envelope><s:Body>{answer}</s:Body></s:Envelope>")),
                    Err(code) => (500, format!("<s:Fault><errorCode>{code}</errorCode></s:Fault>")),
                }
            }
        };
        let status = self.status.unwrap_or(status);
        let answer = if self.chunked {
            let (one, two) = answer.split_at(answer.len() / 2);
            let (len_one, len_two) = (one.len(), two.len());
            format!("Transfer-Encoding: chunked\r\n\r\n{len_one:x}\r\n{one}\r\n{len_two:x}\r\n{two}\r\n0\r\n\r\n")
        } else {
            format!("Content-Length: {}\r\n\r\n{answer}", answer.len())
        };
        Some(format!("HTTP/1.1 {status} Whatever\r\n{answer}").into_bytes())
    }

    fn act(&mut self, action: &str, body: &str) -> Result<String, u16> {
        let number = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>")).expect("an argument");
            rest.split_once('<').unwrap().0.parse::<u32>().expect("a number")
        };
        if action == "GetExternalIPAddress" {
            return Ok(format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", self.address));
        }
        let external = number("NewExternalPort") as u16;
        if action == "DeletePortMapping" {
            self.mappings.retain(|&(port, ..)| port != external);
            return Ok(String::new());
        }
        assert!(action == "AddPortMapping" || action == "AddAnyPortMapping", "{action}");
        assert!(body.contains(&format!("<NewInternalClient>{LOCAL}</NewInternalClient>")));
        if !self.errors.is_empty() {
            return Err(self.errors.remove(0));
        }
        let lease = number("NewLeaseDuration");
        if lease > 0 && !self.has_leases {
            return Err(725);
        }
        let external = self.chooses.filter(|_| action == "AddAnyPortMapping").unwrap_or(external);
        self.mappings.retain(|&(port, ..)| port != external);
        self.mappings.push((external, number("NewInternalPort") as u16, lease));
        Ok(format!("<NewReservedPort>{external}</NewReservedPort>"))
    }
}

/// A connection to the gateway.
struct TcpConnection {
    to: SocketAddr,
    is_up: bool,
    request: Vec<u8>,
    reply: Option<Vec<u8>>,
}

/// A machine and its gateway.
pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub map: PortMapper,
    pub gateway: Gateway,
    pub events: Vec<Event>,
    /// The sent datagrams, with their times in milliseconds.
    pub sent: Vec<(u128, Transmit)>,
    pub actions: Vec<Action>,
    /// Datagrams in flight to the machine.
    under_way: Vec<(Instant, SocketAddr, Vec<u8>)>,
    pub bind_fails: bool,
    pub igd: Igd,
    tcp_connections: BTreeMap<ConnectionId, TcpConnection>,
    pub max_tcp_connections: usize,
}

impl World {
    pub fn new(pcp: Manner, natpmp: Manner, protocols: &[Protocol]) -> Self {
        let start = Instant::now() + Duration::from_secs(100_000);
        let zero = start - Duration::from_secs(50_000);
        let (outside, held) = (OUTSIDE, Vec::new());
        let gateway = Gateway { pcp, natpmp, outside, lifetime: 7200, zero, held, next_port: 5000 };
        let map = PortMapper::new(Config::default().with_protocols(protocols), [3; 32]);
        let (events, sent, actions, under_way, tcp_connections, igd) = Default::default();
        let (bind_fails, max_tcp_connections) = (false, 0);
        Self {
            start,
            now: start,
            map,
            gateway,
            events,
            sent,
            actions,
            under_way,
            bind_fails,
            igd,
            tcp_connections,
            max_tcp_connections,
        }
    }

    /// A started mapper in a network with a gateway.
    pub fn started(pcp: Manner, natpmp: Manner, protocols: &[Protocol]) -> Self {
        let mut world = Self::new(pcp, natpmp, protocols);
        world.map.handle_interfaces(world.now, &[interface(LOCAL)]);
        world.map.handle_gateways(world.now, &[(*GATEWAY.ip()).into()]);
        world.map.start(world.now, TARGET.internal_port);
        world
    }

    pub fn at(&self) -> u128 {
        (self.now - self.start).as_millis()
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.pump();
            let arrival = self.under_way.iter().map(|(at, ..)| *at).min();
            let Some(at) = arrival.into_iter().chain(self.map.poll_timeout()).min().filter(|&at| at <= until) else {
                self.now = until;
                return;
            };
            let is_due = self.map.poll_timeout().is_some_and(|due| due <= at);
            self.now = self.now.max(at);
            if let Some(first) = self.under_way.iter().position(|(arrives, ..)| *arrives <= self.now) {
                let (_, from, data) = self.under_way.remove(first);
                self.map.handle_datagram(self.now, from, &data);
            } else if is_due {
                self.map.handle_timeout(self.now);
                let again = self.map.poll_timeout();
                assert!(again.is_none_or(|again| again > self.now), "it spins");
            }
        }
    }

    /// Runs the world for this many milliseconds.
    pub fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    fn pump(&mut self) {
        loop {
            while let Some(action) = self.map.poll_action() {
                self.act(&action);
                self.actions.push(action);
            }
            while let Some(out) = self.map.poll_transmit() {
                self.transmit(out);
            }
            if !self.pump_tcp() {
                break;
            }
        }
        while let Some(event) = self.map.poll_event() {
            self.events.push(event);
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::OpenSocket => self.map.handle_socket(self.now, !self.bind_fails),
            Action::CloseSocket => {}
            Action::Connect(id, to) => {
                let tcp = TcpConnection { to: (*to).into(), is_up: false, request: Vec::new(), reply: None };
                assert!(self.tcp_connections.insert(*id, tcp).is_none(), "an id is used once");
                self.max_tcp_connections = self.max_tcp_connections.max(self.tcp_connections.len());
                assert!(self.tcp_connections.len() <= MAX_CONNECTIONS);
            }
            Action::Close(id) | Action::Abort(id) => assert!(self.tcp_connections.remove(id).is_some(), "closed twice"),
        }
    }

    fn transmit(&mut self, out: Transmit) {
        if out.to == GATEWAY.into()
            && let Some((delay, data)) = self.gateway.answer(self.now, &out.data)
        {
            self.under_way.push((self.now + Duration::from_millis(delay), GATEWAY.into(), data));
        }
        if out.to.port() == 1900
            && let Some(data) = self.igd.found(&out.data)
        {
            let from = SocketAddr::new((*GATEWAY.ip()).into(), 1900);
            self.under_way.push((self.now + Duration::from_millis(100), from, data));
        }
        self.sent.push((self.at(), out));
    }

    /// Processes one event of one TCP connection.
    fn pump_tcp(&mut self) -> bool {
        let ids: Vec<ConnectionId> = self.tcp_connections.keys().copied().collect();
        for id in ids {
            let tcp = self.tcp_connections.get_mut(&id).unwrap();
            if self.igd.hangs {
                continue;
            }
            if self.igd.refuses {
                self.tcp_connections.remove(&id);
                self.map.handle_connection(self.now, id, ConnectionEvent::Failed);
                return true;
            }
            if !tcp.is_up {
                tcp.is_up = true;
                self.map.handle_connection(self.now, id, ConnectionEvent::Connected);
                return true;
            }
            let mut slices = [IoSlice::new(&[]); 2];
            if self.map.send_queue(id, &mut slices) > 0 {
                let count = slices[0].len().min(100);
                tcp.request.extend(&slices[0][..count]);
                self.map.handle_connection(self.now, id, ConnectionEvent::Sent(count));
                return true;
            }
            if tcp.reply.is_none() {
                tcp.reply = self.igd.answer(tcp.to, &tcp.request);
            }
            if let Some(reply) = &mut tcp.reply {
                let buffer = self.map.receive_buffer(id);
                let count = buffer.len().min(reply.len()).min(200);
                buffer[..count].copy_from_slice(&reply[..count]);
                reply.drain(..count);
                let event = if count == 0 { ConnectionEvent::Eof } else { ConnectionEvent::Received(count) };
                self.map.handle_connection(self.now, id, event);
                return true;
            }
        }
        false
    }

    /// Delivers a datagram from any host.
    pub fn inject(&mut self, from: SocketAddr, data: &[u8]) {
        self.map.handle_datagram(self.now, from, data);
        self.pump();
    }
}
