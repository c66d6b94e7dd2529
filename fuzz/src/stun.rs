//! A STUN client, with arbitrary answers from its servers and from other machines.
//!
//! Oracles: no panic; an answer is not much longer than its request; no candidate is offered that can't be tried; the
//! number of datagrams to a server is bounded, and the next deadline is always in the future.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tallow_proto::net::Interface;
use tallow_proto::p2p::candidate::{self, Candidate, Candidates, Family, Kind};
use tallow_proto::p2p::gather::{Config, Gather, MAX_PACKETS, MAX_SERVERS};
use tallow_proto::p2p::stun;
use tallow_proto::seed::Seed;
use tallow_proto::wire;

use crate::steps::{step, steps};

/// The body arrives from the server, unchanged.
pub const RAW: u8 = 0;
/// The body is the attributes after the header of an answer to the last request. Its first byte is added to the kind.
pub const ATTRIBUTES: u8 = 1;
/// Time passes: the first byte is the number of seconds.
pub const TIME: u8 = 2;
/// The interfaces change: each four bytes are an address.
pub const INTERFACES: u8 = 3;
/// The body is a list of candidates of the other side, encoded as in a record.
pub const CANDIDATES: u8 = 4;
/// Other servers: each has four bytes of an address and two of a port.
pub const SERVERS: u8 = 5;

const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4433);

/// Runs the steps, and returns the state after them.
///
/// # Panics
/// An oracle fails.
pub fn run(data: &[u8]) -> Gather {
    let mut now = Instant::now();
    let mut gather = Gather::new(Config { seed: Seed::new([1; 32]), slot: None });
    let mut own = vec![interface(Ipv4Addr::new(192, 168, 1, 2))];
    gather.handle_interfaces(now, &own);
    gather.handle_bound(now, Family::V4, SocketAddr::from(([0, 0, 0, 0], 5000)));
    gather.handle_absent(now, Family::V6);
    gather.handle_servers(now, vec![RELAY]);
    let (mut asked, mut sent) = (None, 0);
    for (tag, body) in steps(data) {
        let (to, id) = asked.unwrap_or((RELAY, [0; 12]));
        match tag {
            RAW => hear(&mut gather, now, to, body),
            ATTRIBUTES => hear(&mut gather, now, to, &answer(id, body)),
            TIME => {
                now += Duration::from_secs(body.first().copied().unwrap_or(0).into());
                gather.handle_timeout(now);
            }
            INTERFACES => {
                own = body.chunks_exact(4).map(|ip| interface([ip[0], ip[1], ip[2], ip[3]].into())).collect();
                (_, sent) = (gather.handle_interfaces(now, &own), 0);
            }
            CANDIDATES => {
                if let Ok(theirs) = wire::decode::<Candidates>(body) {
                    let admitted = candidate::admit(theirs.as_slice(), &own);
                    assert!(admitted.len() <= candidate::MAX && admitted.iter().all(may_be_tried));
                }
            }
            SERVERS => {
                let addr = |a: &[u8]| SocketAddr::from(([a[0], a[1], a[2], a[3]], u16::from_be_bytes([a[4], a[5]])));
                (_, sent) = (gather.handle_servers(now, body.chunks_exact(6).map(addr).collect()), 0);
            }
            _ => {}
        }
        while let Some((family, to, request)) = gather.poll_transmit() {
            assert!(family == Family::V4 && stun::answer(&request, to).is_some());
            asked = request[8..20].try_into().ok().map(|id| (to, id));
            sent += 1;
        }
        assert!(sent <= MAX_PACKETS as usize * MAX_SERVERS);
        let known = gather.candidates();
        assert!(known.len() <= candidate::MAX && known.iter().all(may_be_tried));
        // An answer can make an action due that waited for it; then it is done at once.
        gather.handle_timeout(now);
        assert!(gather.poll_timeout().is_none_or(|due| due > now));
        while gather.poll_candidate().is_some() {}
        let _ = (gather.nat(Family::V4), gather.is_done());
    }
    gather
}

fn hear(gather: &mut Gather, now: Instant, from: SocketAddr, data: &[u8]) {
    assert_eq!(gather.handle_datagram(now, Family::V4, from, data), stun::is_stun(data));
    if let Some(said) = stun::answer(data, from) {
        assert!(said.len() <= data.len() + stun::MAX_GAIN && stun::answer(&said, from).is_none());
    }
}

fn may_be_tried(candidate: &Candidate) -> bool {
    let ip = candidate.addr.ip();
    let nobody = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    matches!(candidate.kind, Kind::Host | Kind::Reflexive | Kind::Mapped) && candidate.addr.port() >= 1024 && !nobody
}

fn interface(ip: Ipv4Addr) -> Interface {
    Interface { name: "eth0".into(), addr: ip.into(), prefix: 24 }
}

fn answer(id: [u8; 12], body: &[u8]) -> Vec<u8> {
    let (&kind, attributes) = body.split_first().unwrap_or((&0, &[]));
    let mut message = stun::request(stun::TransactionId(id));
    message.truncate(20);
    message[0] = 1;
    message[1] = message[1].wrapping_add(kind);
    message[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
    message.extend_from_slice(attributes);
    message
}

/// Servers that answer in all ways, and lists of candidates.
#[must_use]
pub fn honest() -> Vec<(&'static str, Vec<u8>)> {
    let plain = [0, 1, 0, 8, 0, 1, 0x1b, 0x58, 198, 51, 100, 1];
    let mixed = [0, 0x20, 0, 8, 0, 1, 0x3a, 0x4a, 0xe7, 0x21, 0xc0, 0x43];
    let asked = step(TIME, &[0]);
    let said = |attributes: &[u8]| [asked.clone(), step(ATTRIBUTES, &[&[0], attributes].concat())].concat();
    let others = step(SERVERS, &[192, 0, 2, 2, 13, 150, 192, 0, 2, 3, 13, 150]);
    let refused = [asked.clone(), step(ATTRIBUTES, &[0x10, 0, 9, 0, 4, 0, 0, 5, 0])].concat();
    let theirs = ["192.168.1.9:5000", "127.0.0.1:5000", "[2001:db8::1]:5000", "10.0.0.1:80"].map(|addr| Candidate {
        kind: Kind::Host,
        transport: candidate::CandidateTransport::Udp,
        addr: addr.parse().expect("an address"),
    });
    vec![
        ("answered", [said(&plain), step(TIME, &[20]), said(&mixed)].concat()),
        ("elsewhere", [said(&plain), others, said(&mixed), step(INTERFACES, &[10, 0, 0, 2]), said(&plain)].concat()),
        ("refused", [refused, step(TIME, &[90])].concat()),
        ("asked", step(RAW, &stun::request(stun::TransactionId([7; 12])))),
        ("candidates", step(CANDIDATES, &wire::encode(&Candidates::truncated(theirs.to_vec())))),
    ]
}
