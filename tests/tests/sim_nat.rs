//! Real peers behind NATs and firewalls: every two get their bytes across, directly where that can be.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, Ecn, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::peer::{
    DirectPath, Event, Failure, Lost, PathKind, ReceiveConfig, RelayAddress, RelayChoice, SendConfig, WaitingFor,
};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;
use tallow_tests::sim::{
    Attachment, Behaviour, Conditions, Dependence, HostId, HostPlan, Kind, LIFETIME, Machine, Observed, PUBLIC, Place,
    RELAY, Rig, Scenario, Segment, Site, World, can_punch, identity, real_relay,
};

/// A second STUN server.
const STUN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2)), 4433);
const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(600);
/// A rate at which this takes some seconds.
const RATE: u64 = 200_000;
const BYTES: usize = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Relayed,
    Direct,
}

/// The result according to the oracle.
fn expected(possible: bool) -> Way {
    if possible { Way::Direct } else { Way::Relayed }
}

fn scenario(seed: u64) -> Scenario {
    let network = Conditions { rate: RATE, ..Conditions::default() };
    Scenario { network, give_up_after: None, ..Scenario::plain(seed, BYTES) }
}

/// The path that a peer reported last.
fn way(rig: &Rig, host: HostId) -> Option<Way> {
    rig.world.said(host).rev().find_map(|event| match event {
        Event::Path(path) => Some(match path.kind {
            PathKind::Relay => Way::Relayed,
            _ => Way::Direct,
        }),
        _ => None,
    })
}

fn until_offered(rig: &mut Rig) {
    let receiver = rig.receiver;
    let offered = |world: &mut World| world.said(receiver).any(|event| matches!(event, Event::Offer(_)));
    assert!(rig.world.run_until(LIMIT, offered), "no offer: {}", rig.told());
}

/// Lets time pass, or less if both are done.
fn pass(rig: &mut Rig, time: Duration) {
    let (sender, receiver) = (rig.sender, rig.receiver);
    rig.world.run_until(time, |world| world.is_closed(sender) && world.is_closed(receiver));
}

/// Everything arrived, byte for byte, and over this path at the end.
fn until_done(rig: &mut Rig, wanted: Way) {
    pass(rig, LIMIT);
    assert!(rig.report().is_done(), "{}", rig.told());
    rig.sink.check_whole();
    let ways = [rig.sender, rig.receiver].map(|host| way(rig, host));
    assert_eq!(ways, [Some(wanted); 2], "{}", rig.told());
}

/// Bytes that the relay sent to a peer.
fn relayed(rig: &Rig) -> u64 {
    rig.relay.map_or(0, |relay| rig.world.sent_in_all(relay).bytes)
}

/// Both search for a direct path; in every second run a second STUN server shows the behaviour of their NATs.
fn look_for(seed: u64) -> impl FnOnce(&mut SendConfig, &mut ReceiveConfig) {
    move |send, receive| {
        let stun = seed.is_multiple_of(2).then(|| RelayAddress { host: STUN.ip().to_string(), port: STUN.port() });
        let mut direct = DirectPath::new(identity());
        direct.stun = stun.into_iter().collect();
        (send.common.direct, receive.common.direct) = (Some(direct.clone()), Some(direct));
    }
}

fn between(seed: u64, place: impl FnOnce(&mut World) -> [Vec<Attachment>; 2]) -> Rig {
    of(&scenario(seed), seed, place)
}

fn of(scenario: &Scenario, seed: u64, place: impl FnOnce(&mut World) -> [Vec<Attachment>; 2]) -> Rig {
    Rig::placed(scenario, look_for(seed), |world| {
        world.add(STUN.ip(), Machine::Relay(Box::new(real_relay(STUN.port(), Seed::new([7; 32])))));
        place(world)
    })
}

/// Both at sites of these kinds.
fn sites(seed: u64, kinds: [Kind; 2], lifetime: Duration) -> (Rig, [HostPlan; 2]) {
    let mut lots = Vec::new();
    let rig = between(seed, |world| {
        let mut build = |number: u8| {
            let lot = kinds[usize::from(number) - 1].build(world, number, lifetime);
            lots.push(lot.clone());
            lot.attachments
        };
        [build(1), build(2)]
    });
    (rig, lots.try_into().expect("two"))
}

/// Every kind of NAT with every kind, for the sender and for the receiver; the receiver's user takes this long to
/// accept.
fn all_pairs(lifetime: Duration, thinks: Duration) {
    for (index, sender) in Kind::ALL.into_iter().enumerate() {
        for (other, receiver) in Kind::ALL.into_iter().enumerate() {
            let wanted = expected(can_punch(&sender.levels(), &receiver.levels()));
            println!("{sender:?} to {receiver:?}: {wanted:?}");
            let (mut rig, _) = sites((index * 10 + other) as u64, [sender, receiver], lifetime);
            until_offered(&mut rig);
            pass(&mut rig, thinks);
            rig.accept();
            until_done(&mut rig, wanted);
            if wanted == Way::Direct && thinks > 10 * SECOND {
                // The path was there before the bytes.
                assert!(relayed(&rig) < BYTES as u64 / 4, "{} bytes", relayed(&rig));
            }
        }
    }
}

#[test]
fn every_pair_of_sites_finds_best_path() {
    all_pairs(LIFETIME, SECOND / 10);
}

#[test]
fn short_lived_nat_mappings_do_not_prevent_the_best_path() {
    all_pairs(30 * SECOND, 100 * SECOND);
}

/// A home's NAT, as most are.
const HOME: Behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
const SYMMETRIC: Behaviour = Behaviour::nat(Dependence::AddressAndPort, Dependence::AddressAndPort);

fn at(segment: Segment, addr: [u8; 4]) -> Vec<Attachment> {
    vec![Attachment::new(segment, addr.into())]
}

fn play(rig: &mut Rig, wanted: Way) {
    until_offered(rig);
    rig.accept();
    until_done(rig, wanted);
}

#[test]
fn peers_on_same_lan_need_no_hairpin() {
    for (seed, behaviour) in [HOME, SYMMETRIC, Behaviour { udp: false, ..HOME }].into_iter().enumerate() {
        let mut rig = between(seed as u64, |world| {
            let home = world.add_site(PUBLIC, Site::private([192, 168, 1, 0], behaviour, [203, 0, 113, 101]));
            [at(home, [192, 168, 1, 10]), at(home, [192, 168, 1, 11])]
        });
        play(&mut rig, expected(true));
    }
}

/// `--p2p-port` with a single port: the sockets of both families use it, and so does traffic over IPv6 if that is the
/// best path.
#[test]
fn one_port_is_used_by_both_families() {
    let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
        let mut direct = DirectPath::new(identity());
        direct.ports = Some((45_000, 45_000));
        let direct = Some(direct);
        (send.common.direct, receive.common.direct) = (direct.clone(), direct);
    };
    let mut rig = Rig::placed(&scenario(1), change, |world| {
        [1, 2].map(|number| {
            let site = Site::private([192, 168, number, 0], HOME, [203, 0, 113, 100 + number]);
            let network = std::net::Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 0);
            let home = world.add_site(PUBLIC, site.with_v6(network.into(), Behaviour::firewall()));
            let own: [IpAddr; 2] = [[192, 168, number, 10].into(), (network.to_bits() | 0x10).to_be_bytes().into()];
            own.map(|addr| Attachment::new(home, addr)).to_vec()
        })
    });
    play(&mut rig, expected(true));
    for host in [rig.sender, rig.receiver] {
        let told = || rig.world.sent(host).filter(|&(_, from, to, _)| from.port() == 45_000 && to != RELAY);
        let bytes =
            |v6: bool| told().filter(|(_, from, ..)| from.is_ipv6() == v6).map(|(.., tally)| tally.bytes).sum::<u64>();
        assert!(bytes(false) > 0 && bytes(true) > bytes(false), "{:?}", told().collect::<Vec<_>>());
    }
}

/// The relay inside the sender answers STUN requests like any relay.
#[test]
fn a_sender_without_a_relay_is_the_receivers_stun_server() {
    let here: SocketAddr = "203.0.113.9:4433".parse().unwrap();
    for (seed, behaviour) in [HOME, SYMMETRIC].into_iter().enumerate() {
        let scenario = Scenario { place: Place::Inside, ..scenario(seed as u64) };
        let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
            let direct = Some(DirectPath::new(identity()));
            (send.common.direct, receive.common.direct) = (direct.clone(), direct);
            send.embedded.as_mut().expect("a relay inside").listen = vec![here];
            let address = RelayAddress { host: here.ip().to_string(), port: here.port() };
            receive.common.relays = vec![RelayChoice::new(address)];
        };
        let mut rig = Rig::placed(&scenario, change, |world| {
            let site = Site::private([192, 168, 1, 0], behaviour, [203, 0, 113, 101]);
            let home = world.add_site(PUBLIC, site);
            [at(PUBLIC, [203, 0, 113, 9]), at(home, [192, 168, 1, 10])]
        });
        play(&mut rig, expected(true));
        let direct = |event: &Event| matches!(event, Event::Path(path) if path.kind == PathKind::Direct);
        assert!(rig.world.said(rig.receiver).any(direct), "{}", rig.told());
        // The link's own mapping, and the one of the socket that asked.
        let answered: Vec<_> = rig.world.sent(rig.sender).filter(|&(_, from, ..)| from == here).collect();
        assert_eq!(answered.len(), 2, "{behaviour:?}: {answered:?}");
        let asked = rig.world.sent(rig.receiver).filter(|&(_, _, to, tally)| to == here && tally.packets <= 2);
        assert_eq!(asked.count(), 1, "{behaviour:?}: it asked again and again");
    }
}

#[test]
fn peers_behind_same_cgn_connect_only_with_hairpin() {
    for hairpin in [false, true] {
        let mut rig = between(u64::from(hairpin), |world| {
            let carrier = Behaviour { hairpin, ..HOME };
            let carrier = world.add_site(PUBLIC, Site::private([100, 64, 0, 0], carrier, [203, 0, 113, 101]));
            [1, 2].map(|number| {
                let home = world.add_site(carrier, Site::private([192, 168, 1, 0], HOME, [100, 64, 0, number]));
                at(home, [192, 168, 1, 10 + number])
            })
        });
        play(&mut rig, expected(hairpin));
    }
}

/// The sender's private address is another machine's at the receiver's site, and the other way round.
#[test]
fn host_with_peers_private_address_is_not_the_peer() {
    for (seed, behaviour) in [HOME, SYMMETRIC].into_iter().enumerate() {
        let mut rig = between(seed as u64, |world| {
            [(101, 10, 11), (102, 11, 10)].map(|(outside, own, other)| {
                let site = Site::private([192, 168, 1, 0], behaviour, [203, 0, 113, outside]);
                let home = world.add_site(PUBLIC, site);
                world.add_at(at(home, [192, 168, 1, other]), Machine::Other(EchoServer::new()));
                at(home, [192, 168, 1, own])
            })
        });
        play(&mut rig, expected(behaviour == HOME));
    }
}

#[test]
fn ipv6_passes_two_firewalls_where_ipv4_passes_no_nat() {
    for firewall in [Behaviour::firewall(), Behaviour { udp: false, ..Behaviour::firewall() }] {
        let mut rig = between(1, |world| {
            [1, 2].map(|number| {
                let network = IpAddr::from([0x2001, 0xdb8, 0x77, u16::from(number), 0, 0, 0, 0]);
                let own = IpAddr::from([0x2001, 0xdb8, 0x77, u16::from(number), 0, 0, 0, 0x10]);
                let site = Site::private([192, 168, number, 0], SYMMETRIC, [203, 0, 113, 100 + number]);
                let home = world.add_site(PUBLIC, site.with_v6(network, firewall));
                [at(home, [192, 168, number, 10]), vec![Attachment::new(home, own)]].concat()
            })
        });
        play(&mut rig, expected(firewall.udp));
    }
}

/// K04: if either peer reveals no address, both send packets to the relay only.
#[test]
fn peer_without_p2p_sends_packets_only_to_relay() {
    for (sender, receiver) in [(true, false), (false, true), (true, true)] {
        for one_lan in [false, true] {
            let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
                look_for(1)(send, receive);
                send.common.direct.take_if(|_| sender);
                receive.common.direct.take_if(|_| receiver);
            };
            let mut rig = Rig::placed(&scenario(7), change, |world| {
                let first = world.add_site(PUBLIC, Site::private([192, 168, 1, 0], HOME, [203, 0, 113, 101]));
                let second = Site::private([192, 168, 2, 0], HOME, [203, 0, 113, 102]);
                let second = if one_lan { first } else { world.add_site(PUBLIC, second) };
                [at(first, [192, 168, 1, 10]), at(second, [192, 168, if one_lan { 1 } else { 2 }, 11])]
            });
            play(&mut rig, Way::Relayed);
            let site = |host| if one_lan || host == rig.sender { 1 } else { 2 };
            let gateway = |host| IpAddr::from([192, 168, site(host), 1]);
            for host in [rig.sender, rig.receiver] {
                let refuses = if host == rig.sender { sender } else { receiver };
                // A peer that searches for a direct path contacts its own router before it has received features of
                // the other side.
                let is_own = |to: IpAddr| !refuses && (to == gateway(host) || to == IpAddr::from([239, 255, 255, 250]));
                let elsewhere = rig.world.sent(host).filter(|(_, _, to, _)| *to != RELAY && !is_own(to.ip()));
                let elsewhere: Vec<_> = elsewhere.collect();
                assert!(elsewhere.is_empty(), "{elsewhere:?}");
                assert!(rig.world.sent_to(host, RELAY.ip()).packets > 10, "nothing was counted");
            }
        }
    }
}

/// What happens in mid-transfer: two homes, their sites, and bytes that take a while.
struct Midway {
    rig: Rig,
    sites: [Segment; 2],
    bytes: u64,
}

const OUTSIDE: [[u8; 4]; 2] = [[203, 0, 113, 101], [203, 0, 113, 102]];

impl Midway {
    /// It has run for some seconds, and found its way.
    fn new(seed: u64) -> Self {
        Self::with(seed, None, |_, _| ())
    }

    fn with(
        seed: u64,
        give_up_after: Option<Duration>,
        change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig),
    ) -> Self {
        let scenario = Scenario { files: vec![10 * BYTES], give_up_after, ..scenario(seed) };
        let mut sites = Vec::new();
        let look = look_for(seed);
        let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
            look(send, receive);
            change(send, receive);
        };
        let rig = Rig::placed(&scenario, change, |world| {
            world.add(STUN.ip(), Machine::Relay(Box::new(real_relay(STUN.port(), Seed::new([7; 32])))));
            [1, 2].map(|number: u8| {
                let site = Site::private([192, 168, number, 0], HOME, OUTSIDE[usize::from(number) - 1]);
                let home = world.add_site(PUBLIC, site);
                sites.push(home);
                at(home, [192, 168, number, 10])
            })
        });
        let mut midway = Self { rig, sites: sites.try_into().expect("two"), bytes: 10 * BYTES as u64 };
        until_offered(&mut midway.rig);
        midway.rig.accept();
        pass(&mut midway.rig, 5 * SECOND);
        let before = relayed(&midway.rig);
        let wanted = expected(true);
        assert_eq!([midway.rig.sender, midway.rig.receiver].map(|host| way(&midway.rig, host)), [Some(wanted); 2]);
        pass(&mut midway.rig, 5 * SECOND);
        let since = relayed(&midway.rig) - before;
        assert_eq!(since < RATE / 10, wanted == Way::Direct, "the relay has sent {since} bytes");
        midway
    }

    fn arrived(&self) -> u64 {
        let progress = self.rig.world.said(self.rig.receiver).rev().find_map(|event| match event {
            Event::Progress(progress) => Some(progress.bytes),
            _ => None,
        });
        progress.unwrap_or(0)
    }

    /// All events of both sides except for progress.
    fn history(&self) -> String {
        let said = |host| {
            let events = self.rig.world.said(host).filter(|event| !matches!(event, Event::Progress(_)));
            events.map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n  ")
        };
        let hosts = [self.rig.sender, self.rig.receiver].map(said);
        format!(
            "{} of {}, {:?}\nsender:\n  {}\nreceiver:\n  {}",
            self.arrived(),
            self.bytes,
            self.rig.report().is_done(),
            hosts[0],
            hosts[1]
        )
    }

    /// The longest time without arriving data in the following period.
    fn stall(&mut self, within: Duration) -> Duration {
        let (start, mut longest) = (self.rig.world.now, Duration::ZERO);
        let (mut had, mut since) = (self.arrived(), start);
        while self.rig.world.now - start < within && had < self.bytes {
            pass(&mut self.rig, SECOND / 50);
            let has = self.arrived();
            if has > had {
                (had, since) = (has, self.rig.world.now);
            }
            longest = longest.max(self.rig.world.now - since);
        }
        longest
    }

    /// The transfer after a fault: nothing is lost, the stall is no longer than this, and the last path is this one.
    fn goes_on(mut self, within: Duration, wanted: Way) {
        assert!(self.arrived() < self.bytes / 2, "too late to matter");
        let stall = self.stall(60 * SECOND);
        assert!(stall <= within, "nothing came for {stall:?}: {}", self.history());
        pass(&mut self.rig, LIMIT);
        println!("{}", self.history());
        until_done(&mut self.rig, wanted);
    }
}

/// The time to fall back from a lost path to the relay, plus the possible delay of a progress event.
const FALLBACK: Duration = Duration::from_millis(2_500);

#[test]
fn cut_direct_path_falls_back_to_relay() {
    for (seed, ways) in [&[(0, 1), (1, 0)][..], &[(0, 1)], &[(1, 0)]].into_iter().enumerate() {
        let mut midway = Midway::new(seed as u64);
        let before = midway.rig.world.network.default_conditions();
        for &(from, to) in ways {
            let cut = Conditions { cut: true, ..before };
            midway.rig.world.network.set(OUTSIDE[from].into(), OUTSIDE[to].into(), cut);
        }
        midway.goes_on(FALLBACK, Way::Relayed);
    }
}

/// If data may not use a relay, the transfer waits for another direct path and reports this, for no longer than the
/// user configured.
#[test]
fn p2p_only_transfer_waits_for_direct_path_until_timeout() {
    for sender_only in [true, false] {
        let mut midway = Midway::with(50, Some(30 * SECOND), |send, receive| {
            let common = if sender_only { &mut send.common } else { &mut receive.common };
            common.direct.as_mut().expect("it looks for one").only = true;
        });
        let before = midway.rig.world.network.default_conditions();
        for (from, to) in [(0, 1), (1, 0)] {
            let cut = Conditions { cut: true, ..before };
            midway.rig.world.network.set(OUTSIDE[from].into(), OUTSIDE[to].into(), cut);
        }
        let sent = relayed(&midway.rig);
        let hosts = [midway.rig.sender, midway.rig.receiver];
        let who = hosts[usize::from(!sender_only)];
        let ended = midway.rig.world.run_until(45 * SECOND, |world| hosts.iter().all(|&host| world.is_closed(host)));
        assert!(ended, "{}", midway.history());
        assert!(relayed(&midway.rig) - sent < RATE / 4, "{}", midway.history());
        for host in hosts {
            let waits = |event: &Event| matches!(event, Event::Waiting(WaitingFor::DirectPath));
            assert!(midway.rig.world.said(host).any(waits), "{}", midway.history());
        }
        let gave_up = |event: &Event| matches!(event, Event::Failed(Failure::Lost(Lost::NoDirectPath)));
        assert!(midway.rig.world.said(who).any(gave_up), "{}", midway.history());
    }
}

#[test]
fn transfer_survives_flushed_nat() {
    for (site, outside) in OUTSIDE.into_iter().enumerate() {
        let mut midway = Midway::new(10 + site as u64);
        midway.rig.world.topology.nat_mut(midway.sites[site], outside.into()).expect("a NAT").flush();
        midway.goes_on(FALLBACK, expected(true));
    }
}

#[test]
fn transfer_survives_changed_nat_address() {
    for (site, outside) in OUTSIDE.into_iter().enumerate() {
        let mut midway = Midway::new(20 + site as u64);
        let nat = midway.rig.world.topology.nat_mut(midway.sites[site], outside.into());
        nat.expect("a NAT").readdress([203, 0, 113, 150].into());
        midway.goes_on(FALLBACK, expected(true));
    }
}

#[test]
fn transfer_survives_move_to_another_site() {
    for which in 0..2 {
        let mut midway = Midway::new(30 + which as u64);
        let site = Site::private([10, 77, 1, 0], HOME, [203, 0, 113, 151]);
        let world = &mut midway.rig.world;
        let elsewhere = world.add_site(PUBLIC, site);
        let host = [midway.rig.sender, midway.rig.receiver][which];
        midway.rig.world.relocate(host, at(elsewhere, [10, 77, 1, 10]));
        // A runtime may take three seconds to see it.
        midway.goes_on(FALLBACK + 3 * SECOND, expected(true));
    }
}

#[test]
fn a_transfer_survives_a_firewall_that_starts_to_block_udp() {
    for (site, outside) in OUTSIDE.into_iter().enumerate() {
        let mut midway = Midway::new(40 + site as u64);
        let nat = midway.rig.world.topology.nat_mut(midway.sites[site], outside.into());
        nat.expect("a NAT").allow_udp(false);
        pass(&mut midway.rig, 60 * SECOND);
        until_done(&mut midway.rig, Way::Relayed);
    }
}

/// Echoes datagrams at the ports that peers prefer.
struct EchoServer {
    actions: VecDeque<Action>,
    answers: BTreeMap<SocketId, VecDeque<(SocketAddr, BytesMut)>>,
}

impl EchoServer {
    fn new() -> Box<Self> {
        let bind = |number: u8| {
            let addr = SocketAddr::new([0, 0, 0, 0].into(), 40_000 + u16::from(number));
            Action::Bind(SocketId(number), Bind { addr, dual_stack: true, share_port: false, group: None, slot: None })
        };
        Box::new(Self { actions: (0..8).map(bind).collect(), answers: BTreeMap::new() })
    }
}

impl Node for EchoServer {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, _: Instant, arrival: Arrival, data: BytesMut) {
        self.answers.entry(arrival.socket).or_default().push_back((arrival.from, data));
    }

    fn handle_input(&mut self, _: Instant, _: Input) {}

    fn handle_command(&mut self, _: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn settle(&mut self, _: Instant) {}

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, socket: SocketId, _: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (to, data) = self.answers.get_mut(&socket)?.pop_front()?;
        buf.extend_from_slice(&data);
        Some(Transmit { to, src_ip: None, ecn: Ecn::NotEct, size: data.len(), segment_size: None })
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Observed> {
        None
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn is_closed(&self) -> bool {
        false
    }
}
