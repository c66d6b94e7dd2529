//! False candidates (rows K): the addresses to which a peer can be made to send packets, and how many. Every sent
//! packet is counted.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tallow_proto::code::Code;
use tallow_proto::p2p::candidate::{Candidate, CandidateTransport, Kind, MAX};
use tallow_proto::peer::{DirectPath, Peer};
use tallow_proto::seed::Seed;
use tallow_proto::wire::BoundedVec;
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{
    Attachment, Behaviour, CODE, Dependence, HostId, Machine, MaliciousPeer, Network, PUBLIC, Place, RELAY, Received,
    Relay, Scenario, Script, Site, Tally, World, honest, identity, receive_config, send_config,
};

/// Longer than a round, and shorter than a budget lasts.
const LONG: Duration = Duration::from_secs(280);
/// An unused and valid address: packets to it show that candidates are tried at all.
const GOOD: &str = "203.0.113.99:5000";

fn udp(addr: &str) -> Candidate {
    Candidate { kind: Kind::Host, transport: CandidateTransport::Udp, addr: addr.parse().unwrap() }
}

fn tcp(addr: &str) -> Candidate {
    Candidate { transport: CandidateTransport::Tcp, ..udp(addr) }
}

/// Sends these candidates, a few at a time, in each of `rounds` rounds.
fn lying(candidates: Vec<Candidate>, rounds: u32) -> Script {
    let say = move |round: u32, output: &mut tallow_tests::sim::ScriptOutput| {
        for some in candidates.chunks(MAX) {
            output.say(Control::CandidateOffer {
                round,
                candidates: BoundedVec::truncated(some.to_vec()),
                certificate: [7; 32],
                token: [8; 16],
                dependent: false,
            });
        }
        output.say(Control::CandidatesDone { round });
    };
    let mut said = 0;
    Box::new(move |heard, output| match heard {
        Received::Control(Control::CandidateOffer { round, .. }) if round > said => {
            said = round;
            say(round, output);
        }
        Received::Control(Control::DirectFailed { round }) if round == said => {
            output.say(Control::DirectFailed { round });
            if round < rounds {
                said = round + 1;
                say(said, output);
            }
        }
        Received::Paired | Received::Keyed | Received::Control(_) | Received::Chunk(_) => {}
    })
}

/// The location of the honest peer.
#[derive(Debug, Clone, Copy)]
enum At {
    /// 192.168.1.10 behind a NAT that lets every endpoint answer, with IPv6.
    Home,
    /// 203.0.113.9.
    Public,
}

/// An honest peer receives these candidates from a malicious one; returns what it sends meanwhile.
fn hears(role: Role, at: At, candidates: Vec<Candidate>, rounds: u32, time: Duration) -> (World, HostId) {
    let scenario = Scenario { place: Place::ScriptedRelay, ..Scenario::plain(5, 1000) };
    let seed = Seed::new(scenario.seed);
    let mut world = World::new(Network::new(scenario.network, &seed), &seed);
    let relay = Relay::new(RELAY.port(), tallow_tests::sim::Policy::Proper, honest(), seed.derive("relay"));
    world.add(RELAY.ip(), Machine::Other(relay));
    let attachments = match at {
        At::Home => {
            let behaviour = Behaviour::nat(Dependence::Independent, Dependence::Independent);
            let network = "2001:db8:77::".parse().unwrap();
            let site = Site::private([192, 168, 1, 0], behaviour, [203, 0, 113, 101]);
            let home = world.add_site(PUBLIC, site.with_v6(network, Behaviour::firewall()));
            let own: [IpAddr; 2] = [[192, 168, 1, 10].into(), "2001:db8:77::10".parse().unwrap()];
            own.map(|addr| Attachment::new(home, addr)).to_vec()
        }
        At::Public => vec![Attachment::new(PUBLIC, [203, 0, 113, 9].into())],
    };
    let mut direct = DirectPath::new(identity());
    direct.map_ports = false;
    let direct = Some(direct);
    let now = world.now;
    let liar =
        MaliciousPeer::new(role, Code::parse(CODE).unwrap(), RELAY, lying(candidates, rounds), seed.derive("hostile"));
    let peer = match role {
        Role::Sender => {
            let mut config = receive_config(&scenario);
            config.common.direct = direct;
            Peer::receiver(config, now, seed.derive("peer"))
        }
        Role::Receiver => {
            let mut config = send_config(&scenario);
            config.common.direct = direct;
            Peer::sender(config, now, seed.derive("peer"))
        }
    };
    world.add([192, 0, 2, 66].into(), Machine::Other(liar));
    let peer = world.add_at(attachments, Machine::Peer(Box::new(peer)));
    world.run_until(time, |_| false);
    assert!(world.end(peer).is_none(), "{:?}", world.end(peer));
    (world, peer)
}

/// All packets to other hosts than the relay.
fn elsewhere(world: &World, peer: HostId) -> Vec<(SocketAddr, Tally)> {
    world.sent(peer).filter(|(_, _, to, _)| *to != RELAY).map(|(_, _, to, tally)| (to, tally)).collect()
}

/// Those candidates are never sent a packet, and one that nothing is wrong with is.
fn denied(at: At, candidates: Vec<Candidate>) {
    for role in [Role::Sender, Role::Receiver] {
        for some in candidates.chunks(MAX - 1) {
            let all = some.iter().copied().chain([udp(GOOD)]).collect();
            let (world, peer) = hears(role, at, all, 1, LONG);
            let sent = elsewhere(&world, peer);
            let good: SocketAddr = GOOD.parse().unwrap();
            assert!(sent.iter().any(|(to, _)| *to == good), "{role:?}: no candidate was tried");
            assert!(sent.iter().all(|(to, _)| *to == good), "{role:?}, {at:?}: {sent:?}");
        }
    }
}

#[test]
fn k01_addresses_of_no_peer_get_no_packets() {
    let udps = [
        "127.0.0.1:5000",
        "0.0.0.0:5000",
        "0.1.2.3:5000",
        "[::1]:5000",
        "[::]:5000",
        "169.254.169.254:5000",
        "224.0.0.1:5000",
        "239.255.255.250:1900",
        "255.255.255.255:5000",
        "240.0.0.1:5000",
        "192.168.1.255:5000",
        "192.168.1.0:5000",
        "192.168.1.10:0",
        "192.168.1.1:0",
        "192.168.1.1:22",
        "192.168.1.1:25",
        "192.168.1.1:53",
        "192.168.1.1:80",
        "192.168.1.1:443",
        "192.168.1.1:1023",
        "198.51.100.7:53",
        "198.51.100.7:443",
        "[fe80::1]:5000",
        "[ff02::1]:5000",
        "[ff05::2]:5000",
        "[::ffff:127.0.0.1]:5000",
        "[::ffff:192.168.1.255]:5000",
        "[::ffff:192.168.1.1]:80",
        "[::127.0.0.1]:5000",
        "[64:ff9b::7f00:1]:5000",
        "[2002:7f00:1::1]:5000",
    ];
    let tcps = [
        "198.51.100.7:5000",
        "192.168.2.1:5000",
        "10.0.0.1:5000",
        "127.0.0.1:5000",
        "192.168.1.255:5000",
        "192.168.1.1:443",
    ];
    denied(At::Home, udps.iter().map(|addr| udp(addr)).chain(tcps.iter().map(|addr| tcp(addr))).collect());
}

#[test]
fn k04_private_addresses_need_own_private_address() {
    let addresses = [
        "10.0.0.5:5000",
        "172.16.0.5:5000",
        "192.168.1.5:5000",
        "100.64.0.5:5000",
        "[fd00::5]:5000",
        "[::ffff:10.0.0.5]:5000",
    ];
    denied(At::Public, addresses.iter().map(|addr| udp(addr)).chain(addresses.iter().map(|addr| tcp(addr))).collect());
}

/// The limit of datagrams and bytes to one address, and to all addresses together.
const ONE: Tally = Tally { packets: 20, bytes: 24 << 10 };
const ALL: Tally = Tally { packets: 100, bytes: 120 << 10 };

fn is_within(tally: Tally, limit: Tally) -> bool {
    tally.packets <= limit.packets && tally.bytes <= limit.bytes
}

/// The packets caused by these candidates stay within the limits, whichever side is malicious.
fn limited(candidates: &[Candidate], rounds: u32) {
    for role in [Role::Sender, Role::Receiver] {
        let (world, peer) = hears(role, At::Home, candidates.to_vec(), rounds, LONG);
        let sent = elsewhere(&world, peer);
        assert!(!sent.is_empty(), "{role:?}: no candidate was tried");
        for ip in sent.iter().map(|(to, _)| to.ip()) {
            let tally = world.sent_to(peer, ip);
            assert!(is_within(tally, ONE), "a liar as {role:?}: {tally:?} to {ip}");
        }
        let all = sent.iter().map(|&(_, tally)| tally).sum();
        assert!(is_within(all, ALL), "a liar as {role:?}: {all:?} in all");
    }
}

#[test]
fn k02_repeatedly_offered_victim_gets_few_bytes() {
    limited(&[udp(GOOD)], 20);
    limited(&vec![udp(GOOD); 64], 20);
    let ports: Vec<Candidate> = (0..64).map(|port| udp(&format!("203.0.113.99:{}", 5000 + port))).collect();
    limited(&ports, 20);
}

#[test]
fn k02_many_victims_get_few_bytes_in_total() {
    let many: Vec<Candidate> = (0..200).map(|host| udp(&format!("203.0.113.{host}:5000"))).collect();
    limited(&many, 20);
}

/// T33: in a round TCP is dialled on the own network only, and a few times.
#[test]
fn no_more_than_four_tcp_connections_are_tried_on_the_lan() {
    let many: Vec<Candidate> = (20..120).map(|host| tcp(&format!("192.168.1.{host}:5000"))).collect();
    for role in [Role::Sender, Role::Receiver] {
        let (world, peer) = hears(role, At::Home, many.clone(), 1, Duration::from_secs(9));
        let dialled = world.sent(peer).filter(|(transport, ..)| *transport == tallow_tests::sim::Protocol::Syn).count();
        assert!((1..=4).contains(&dialled), "{role:?}: {dialled}");
    }
}

/// A system repeats the request for a TCP connection that is not answered.
#[test]
fn k02_one_neighbour_gets_few_tcp_connection_attempts() {
    let ports: Vec<Candidate> = (0..64).map(|port| tcp(&format!("192.168.1.77:{}", 5000 + port))).collect();
    limited(&ports, 20);
}
