//! The link that a session falls back to is lost while its bytes go directly, and found again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::peer::{
    Command, DirectPath, Event, PathKind, Payload, ReceiveConfig, RelayAddress, RelayChoice, SendConfig, WaitingFor,
};
use tallow_proto::transfer::stream::memory::{MemoryPipe, MemoryStream, Piece};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::Side;
use tallow_tests::sim::{
    Attachment, Behaviour, Conditions, Dependence, Fate, HostId, PUBLIC, Passing, Place, Policy, RELAY, Rig, Scenario,
    Site, Tamper, World, identity, noise,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(1200);
/// A home's NAT, as most are.
const HOME: Behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
/// The public addresses of the sender's and the receiver's.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 101)), IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 102))];
/// When a path that is gone is left for the floor.
const FALLBACK: Duration = Duration::from_secs(2);
/// Until a new floor is there, after its relay is: the old one's silence where nobody resets it, a pause, the meeting.
const FOUND: Duration = Duration::from_secs(20);

/// Two whose bytes go directly, in mid-transfer.
struct Midway {
    rig: Rig,
    bytes: u64,
    /// Between these two nothing may get through any more; the sender's, the receiver's.
    direct: [IpAddr; 2],
}

impl Midway {
    fn new(seed: u64, took: Duration) -> Self {
        Self::with(seed, took, |_, _| {})
    }

    /// What is sent takes so long.
    fn with(seed: u64, took: Duration, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Self {
        let mut midway = Self::idle(seed, took, change);
        midway.accept();
        midway
    }

    /// The same, before the receiver's person has answered.
    fn idle(seed: u64, took: Duration, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Self {
        let (scenario, bytes) = scenario(seed, took);
        let rig = Rig::placed(&scenario, direct_and(change), |world| {
            [1_u8, 2].map(|number| {
                let site = Site::private([192, 168, number, 0], HOME, [203, 0, 113, 100 + number]);
                let home = world.add_site(PUBLIC, site);
                vec![Attachment::new(home, [192, 168, number, 10].into())]
            })
        });
        Self::offered(rig, bytes, OUTSIDE)
    }

    fn offered(rig: Rig, bytes: u64, direct: [IpAddr; 2]) -> Self {
        let mut midway = Self { rig, bytes, direct };
        let receiver = midway.rig.receiver;
        let offered = midway.rig.world.run_until(60 * SECOND, |world| {
            world.said(receiver).any(|event| matches!(event, Event::Offer(_) | Event::StreamOffer))
        });
        assert!(offered, "{}", midway.history());
        midway
    }

    fn accept(&mut self) {
        self.rig.accept();
        self.pass(5 * SECOND);
        assert_eq!(self.ways(), [Some(PathKind::Direct); 2], "{}", self.history());
    }

    fn hosts(&self) -> [HostId; 2] {
        [self.rig.sender, self.rig.receiver]
    }

    /// Lets time pass, or less if both are done.
    fn pass(&mut self, time: Duration) {
        let hosts = self.hosts();
        self.rig.world.run_until(time, |world| hosts.iter().all(|&host| world.is_closed(host)));
    }

    fn cut(&mut self, from: IpAddr, to: IpAddr, cut: bool) {
        let before = self.rig.world.network.default_conditions();
        self.rig.world.network.set(from, to, Conditions { cut, ..before });
    }

    /// Nothing gets from one NAT to the other any more.
    fn cut_direct(&mut self) {
        let [sender, receiver] = self.direct;
        self.cut(sender, receiver, true);
        self.cut(receiver, sender, true);
    }

    /// The relay is gone for so long, and knows nothing when it is back.
    fn relay_restarts(&mut self, after: Duration) {
        self.rig.crash_relay();
        self.pass(after);
        self.rig.restart_relay();
    }

    /// Which way the bytes take by what both said last of it.
    fn ways(&self) -> [Option<PathKind>; 2] {
        self.hosts().map(|host| {
            self.rig.world.said(host).rev().find_map(|event| match event {
                Event::Path(path) => Some(path.kind),
                _ => None,
            })
        })
    }

    /// How often each looked for the other one with no link left.
    fn reconnects(&self) -> [usize; 2] {
        let is_one = |event: &&Event| matches!(event, Event::Reconnecting { .. });
        self.hosts().map(|host| self.rig.world.said(host).filter(is_one).count())
    }

    /// How much one side told, but of progress.
    fn told(&self, host: HostId) -> usize {
        self.rig.world.said(host).filter(|event| !matches!(event, Event::Progress(_))).count()
    }

    fn arrived(&self) -> u64 {
        let progress = self.rig.world.said(self.rig.receiver).rev().find_map(|event| match event {
            Event::Progress(progress) => Some(progress.bytes),
            _ => None,
        });
        progress.unwrap_or(0)
    }

    /// The direct path is cut: the bytes are back on the floor in no time, and nobody was told of a lost link.
    fn falls_back(&mut self) {
        assert!(self.arrived() < self.bytes * 9 / 10, "too late to matter");
        self.cut_direct();
        let (hosts, before) = (self.hosts(), self.hosts().map(|host| self.fallbacks(host)));
        let times = |world: &World, host| world.said(host).filter(|event| matches!(event, Event::FellBack(_))).count();
        let is_back = |world: &mut World| (0..2).all(|which| times(world, hosts[which]) > before[which]);
        assert!(self.rig.world.run_until(FALLBACK, is_back), "no way back: {}", self.history());
        assert!(self.ways().iter().all(|way| *way != Some(PathKind::Direct)), "{}", self.history());
        let had = self.arrived();
        self.pass(2 * SECOND);
        assert!(self.arrived() > had, "nothing comes: {}", self.history());
        assert_eq!(self.reconnects(), [0, 0], "{}", self.history());
    }

    fn fallbacks(&self, host: HostId) -> usize {
        self.rig.world.said(host).filter(|event| matches!(event, Event::FellBack(_))).count()
    }

    /// One of the two, in the state that `make` leads to, has just lost its last link and can reach the relay again. What it says
    /// of that does not arrive at the other one, which believes in its direct path for another second.
    fn one_lost_all(apart: usize, make: impl Fn() -> Self, heal: impl Fn(&mut Self)) -> Self {
        let cut = |midway: &mut Self| {
            assert_eq!(midway.reconnects(), [0, 0], "{}", midway.history());
            midway.cut(midway.direct[1 - apart], midway.direct[apart], true);
        };
        let noticed = |midway: &mut Self| {
            let host = midway.hosts()[apart];
            let noticed = |world: &mut World| world.said(host).any(|event| matches!(event, Event::Reconnecting { .. }));
            assert!(midway.rig.world.run_until(2 * SECOND, noticed), "{}", midway.history());
        };
        // When that will be: a world with the same seed is the same.
        let mut trial = make();
        cut(&mut trial);
        let start = trial.rig.world.now;
        noticed(&mut trial);
        let after = trial.rig.world.now - start;
        let mut midway = make();
        cut(&mut midway);
        midway.pass(after - SECOND / 1000);
        midway.cut(midway.direct[apart], midway.direct[1 - apart], true);
        heal(&mut midway);
        noticed(&mut midway);
        midway.pass(SECOND * 3 / 10);
        assert_eq!(midway.reconnects()[1 - apart], 0, "it noticed too early to be tried: {}", midway.history());
        midway
    }

    /// Soon they go on over the floor.
    fn converges(&mut self, within: Duration) {
        let before = self.hosts().map(|host| self.paths(host));
        let end = self.rig.world.now + within;
        while self.rig.world.now < end {
            self.pass(SECOND / 10);
            let now = self.hosts().map(|host| self.paths(host));
            if now[0] > before[0] && now[1] > before[1] {
                return;
            }
        }
        panic!("no link: {}", self.history());
    }

    fn paths(&self, host: HostId) -> usize {
        self.rig.world.said(host).filter(|event| matches!(event, Event::Path(_))).count()
    }

    /// The direct path is there again, and the bytes take it.
    fn goes_directly_again(&mut self) {
        let [sender, receiver] = self.direct;
        self.cut(sender, receiver, false);
        self.cut(receiver, sender, false);
        for _ in 0..60 {
            self.pass(SECOND);
            if self.ways() == [Some(PathKind::Direct); 2] {
                return;
            }
        }
        panic!("no direct path: {}", self.history());
    }

    /// All is there, byte for byte, and both are closed.
    fn ends_well(mut self) {
        self.pass(LIMIT);
        let hosts = self.hosts();
        assert!(hosts.iter().all(|&host| self.rig.world.is_closed(host)), "{}", self.history());
        assert!(self.rig.report().is_done(), "{}", self.history());
        self.rig.sink.check_whole();
    }

    /// All that both said but of progress.
    fn history(&self) -> String {
        let said = self.hosts().map(|host| {
            let events = self.rig.world.said(host).filter(|event| !matches!(event, Event::Progress(_)));
            events.map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n  ")
        });
        let [sender, receiver] = said;
        let at = self.rig.world.elapsed();
        format!("{} of {} at {at:?}\nsender:\n  {sender}\nreceiver:\n  {receiver}", self.arrived(), self.bytes)
    }
}

fn scenario(seed: u64, took: Duration) -> (Scenario, u64) {
    let network = Conditions { rate: 200_000, latency: Duration::from_millis(10), ..Conditions::default() };
    let bytes = 180_000 * took.as_secs();
    (Scenario { files: vec![bytes as usize], network, give_up_after: None, ..Scenario::plain(seed, 0) }, bytes)
}

fn direct_and(
    change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig),
) -> impl FnOnce(&mut SendConfig, &mut ReceiveConfig) {
    |send, receive| {
        for common in [&mut send.common, &mut receive.common] {
            common.direct = Some(DirectPath::new(identity()));
        }
        change(send, receive);
    }
}

/// How each leads to the relay.
const LEGS: [Allowed; 3] = [Allowed::Auto, Allowed::Only(Transport::Tls), Allowed::Only(Transport::WebSocket)];

fn over(seed: u64, took: Duration, legs: [Allowed; 2]) -> Midway {
    Midway::with(seed, took, |send, receive| (send.common.transport, receive.common.transport) = legs.into())
}

#[test]
fn a_floor_that_was_lost_is_found_again_and_takes_over() {
    for (seed, legs) in
        [[LEGS[0]; 2], [LEGS[1]; 2], [LEGS[2]; 2], [LEGS[0], LEGS[1]], [LEGS[1], LEGS[0]]].into_iter().enumerate()
    {
        let mut midway = over(seed as u64, 60 * SECOND, legs);
        midway.relay_restarts(SECOND);
        midway.pass(FOUND);
        midway.falls_back();
        midway.ends_well();
    }
}

/// However long the relay is away, whether its machine or only its process is gone.
#[test]
fn a_relay_that_comes_back_late_is_found() {
    for (seed, away, killed) in [(10, 30, true), (11, 90, false), (12, 600, false), (13, 600, true)] {
        let mut midway = Midway::idle(seed, 60 * SECOND, |_, _| {});
        midway.pass(5 * SECOND);
        if killed {
            midway.rig.world.kill(midway.rig.relay.expect("a relay"));
        } else {
            midway.rig.crash_relay();
        }
        midway.pass(away * SECOND);
        midway.rig.restart_relay();
        // The longest pause, the silence of a machine that is not there, the meeting.
        midway.pass(50 * SECOND);
        midway.accept();
        midway.falls_back();
        midway.ends_well();
    }
}

/// The floor that was found is one like the first: it may be lost and found again, and the bytes move between both paths.
#[test]
fn it_happens_again_and_again() {
    let mut midway = Midway::new(20, 200 * SECOND);
    for round in 0..3 {
        midway.relay_restarts(SECOND);
        midway.pass(8 * SECOND);
        // A floor that is found twice before it is needed.
        if round == 1 {
            midway.relay_restarts(SECOND);
            midway.pass(8 * SECOND);
        }
        midway.falls_back();
        midway.goes_directly_again();
        assert_eq!(midway.reconnects(), [0, 0], "{}", midway.history());
    }
    midway.ends_well();
}

/// Nobody is told of a search that leads to nothing, and the end of the transfer ends it.
#[test]
fn a_relay_that_never_comes_back_changes_nothing() {
    for (seed, interrupts) in [(30, false), (31, true)] {
        let mut midway = Midway::new(seed, 120 * SECOND);
        midway.rig.crash_relay();
        let before = midway.hosts().map(|host| midway.told(host));
        midway.pass(60 * SECOND);
        assert_eq!(midway.hosts().map(|host| midway.told(host)), before, "{}", midway.history());
        if interrupts {
            midway.rig.interrupt_sender();
            midway.pass(3 * SECOND);
            let hosts = midway.hosts();
            assert!(hosts.iter().all(|&host| midway.rig.world.is_closed(host)), "{}", midway.history());
        } else {
            midway.ends_well();
        }
    }
}

/// Relays that are gone for good are asked more and more seldom, however many there are.
#[test]
fn a_search_that_leads_to_nothing_costs_little() {
    let other = IpAddr::from([198, 51, 100, 9]);
    let mut midway = Midway::idle(32, 10 * SECOND, |send, receive| {
        for common in [&mut send.common, &mut receive.common] {
            let address = RelayAddress { host: other.to_string(), port: RELAY.port() };
            common.relays.push(RelayChoice::new(address));
        }
    });
    midway.pass(5 * SECOND);
    midway.rig.crash_relay();
    midway.pass(120 * SECOND);
    let asked = |midway: &Midway| {
        let packets = |host, to| midway.rig.world.sent_to(host, to).packets;
        midway.hosts().map(|host| packets(host, RELAY.ip()) + packets(host, other))
    };
    let before = asked(&midway);
    midway.pass(300 * SECOND);
    for (before, after) in before.into_iter().zip(asked(&midway)) {
        println!("{} packets", after - before);
        // Ten to twenty tries of each of the two, of some packets each.
        assert!(after - before < 500, "{} packets", after - before);
    }
    midway.accept();
    midway.ends_well();
}

/// The end comes while both wait in the reconnect room, are about to meet, or prove the new floor.
#[test]
fn a_transfer_that_ends_in_the_search_leaves_nothing_behind() {
    for (seed, after) in [0, 50, 300, 400, 500, 600, 700, 800, 1_000, 5_000].into_iter().enumerate() {
        for by_receiver in [false, true] {
            let mut midway = Midway::new(40 + seed as u64, 60 * SECOND);
            midway.rig.world.kill(midway.rig.relay.expect("a relay"));
            midway.pass(SECOND / 10);
            midway.rig.restart_relay();
            midway.pass(Duration::from_millis(after));
            let who = midway.hosts()[usize::from(by_receiver)];
            midway.rig.world.command(who, Command::Cancel);
            midway.pass(4 * SECOND);
            let hosts = midway.hosts();
            assert!(hosts.iter().all(|&host| midway.rig.world.is_closed(host)), "{}", midway.history());
        }
    }
}

/// One side has lost everything and knows it; the other one believes in its direct path for another second, and waits in the
/// reconnect room for a floor. Its session goes on all the same, without a failure.
#[test]
fn one_that_lost_all_meets_one_that_has_not_noticed() {
    for (seed, legs) in [LEGS[0], LEGS[1]].into_iter().enumerate() {
        for apart in [0, 1] {
            let mut midway = one_lost_all_at_the_relay(50 + seed as u64, apart, legs);
            midway.converges(3 * SECOND);
            assert_eq!(midway.reconnects()[1 - apart], 1, "{}", midway.history());
            midway.rig.accept();
            midway.ends_well();
        }
    }
}

/// Both look for a floor, but this one can't reach the relay, until it has lost all.
fn one_lost_all_at_the_relay(seed: u64, apart: usize, legs: Allowed) -> Midway {
    let leg = |midway: &mut Midway, cut| {
        midway.cut(OUTSIDE[apart], RELAY.ip(), cut);
        midway.cut(RELAY.ip(), OUTSIDE[apart], cut);
    };
    let make = || {
        let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
            (send.common.transport, receive.common.transport) = (legs, legs);
        };
        let mut midway = Midway::idle(seed, 10 * SECOND, change);
        midway.pass(5 * SECOND);
        leg(&mut midway, true);
        midway.relay_restarts(SECOND);
        midway.pass(FOUND);
        midway
    };
    Midway::one_lost_all(apart, make, |midway| leg(midway, false))
}

/// Bytes that may not go over a relay wait for another direct path on the floor that was found, and no link is looked for.
#[test]
fn data_that_may_not_go_over_a_relay_has_a_floor_to_wait_on() {
    let mut midway = Midway::with(60, 60 * SECOND, |send, _| {
        send.common.direct.as_mut().expect("it looks for one").only = true;
    });
    midway.relay_restarts(SECOND);
    midway.pass(FOUND);
    midway.cut_direct();
    midway.pass(5 * SECOND);
    for host in midway.hosts() {
        let waits = |event: &Event| matches!(event, Event::Waiting(WaitingFor::DirectPath));
        assert!(midway.rig.world.said(host).any(waits), "{}", midway.history());
    }
    midway.goes_directly_again();
    assert_eq!(midway.reconnects(), [0, 0], "{}", midway.history());
    midway.ends_well();
}

#[test]
fn a_stream_falls_back_to_the_floor_that_was_found() {
    let all = noise(4_000_000, 1);
    let pieces: Vec<Piece> =
        all.chunks(50_000).flat_map(|piece| [Piece::Bytes(piece.to_vec()), Piece::Silence]).collect();
    let source = Arc::new(MemoryStream::new(pieces));
    let mut midway = Midway::idle(61, SECOND, |send, _| send.source = Payload::Stream(source));
    let pipe = Arc::new(MemoryPipe::new());
    midway.rig.world.command(midway.rig.receiver, Command::AcceptStream(pipe.clone()));
    midway.pass(SECOND);
    midway.rig.world.kill(midway.rig.relay.expect("a relay"));
    midway.pass(SECOND / 2);
    midway.rig.restart_relay();
    midway.pass(8 * SECOND);
    assert_eq!(midway.ways(), [Some(PathKind::Direct); 2], "{}", midway.history());
    midway.cut_direct();
    midway.pass(5 * SECOND);
    assert!(pipe.bytes().len() < all.len(), "too late to matter");
    assert_eq!(midway.ways(), [Some(PathKind::Relay); 2], "{}", midway.history());
    assert_eq!(midway.reconnects(), [0, 0], "{}", midway.history());
    midway.pass(LIMIT);
    assert!(midway.rig.report().is_done(), "{}", midway.history());
    assert!(pipe.bytes() == all);
}

/// The sender's own address, where the relay inside it listens, and the receiver's.
const PUBLIC_OF: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1))];
/// Their addresses in a network that both are in.
const LAN_OF: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2))];

/// A receiver at the relay inside its sender, with a network of their own beside it, through which the bytes go.
fn inside(seed: u64, took: Duration) -> Midway {
    let (scenario, bytes) = scenario(seed, took);
    let scenario = Scenario { place: Place::Inside, ..scenario };
    let rig = Rig::placed(&scenario, direct_and(|_, _| {}), |world| {
        let lan = world.add_site(PUBLIC, Site::private([10, 0, 0, 0], HOME, [203, 0, 113, 77]));
        [0, 1].map(|which| vec![Attachment::new(PUBLIC, PUBLIC_OF[which]), Attachment::new(lan, LAN_OF[which])])
    });
    Midway::offered(rig, bytes, LAN_OF)
}

impl Midway {
    /// The way to the relay inside the sender, open or not.
    fn inner_leg(&mut self, cut: bool) {
        self.cut(PUBLIC_OF[0], PUBLIC_OF[1], cut);
        self.cut(PUBLIC_OF[1], PUBLIC_OF[0], cut);
    }

    /// Its floor is lost, and can't be found.
    fn loses_inner_floor(&mut self) {
        self.inner_leg(true);
        self.pass(20 * SECOND);
        assert_eq!(self.ways(), [Some(PathKind::Direct); 2], "{}", self.history());
    }
}

#[test]
fn the_relay_inside_a_sender_lets_its_receiver_in_for_another_floor() {
    for seed in 70..73 {
        let mut midway = inside(seed, 90 * SECOND);
        midway.accept();
        midway.loses_inner_floor();
        midway.inner_leg(false);
        midway.pass(40 * SECOND);
        midway.falls_back();
        midway.ends_well();
    }
}

/// As with a relay between them: a receiver that lost all comes to a sender that believes in its direct path, and the other way round.
#[test]
fn one_that_lost_all_meets_one_that_has_not_noticed_at_the_relay_inside() {
    for (seed, apart) in [(80, 1), (81, 1), (82, 0), (83, 0), (84, 0)] {
        let make = || {
            let mut midway = inside(seed, 10 * SECOND);
            midway.pass(5 * SECOND);
            midway.loses_inner_floor();
            midway
        };
        let mut midway = Midway::one_lost_all(apart, make, |midway| midway.inner_leg(false));
        // The receiver comes after a pause, unless it has lost all, too.
        midway.converges(5 * SECOND);
        midway.rig.accept();
        midway.ends_well();
    }
}

/// A relay can cut the floor and spoil every other one, with anything that it has seen before: the bytes go on directly, and nobody
/// hears of it.
#[test]
fn a_relay_that_spoils_the_new_floor_ends_nothing() {
    for kind in 0..4 {
        let cuts = Arc::new(AtomicBool::new(false));
        let tried = Arc::new(AtomicUsize::new(0));
        let (cut, count) = (cuts.clone(), tried.clone());
        let mut seen: BTreeMap<(Side, usize), Bytes> = BTreeMap::new();
        let tamper: Tamper = Box::new(move |passing: Passing, frame: &Bytes| {
            if passing.from < 2 {
                if passing.stream == 0 {
                    seen.insert((passing.side, passing.nth), frame.clone());
                }
                return if cut.load(Ordering::Relaxed) { Fate::Cut } else { Fate::Pass };
            }
            count.fetch_add(1, Ordering::Relaxed);
            let noise = || enclose(&noise(60, passing.nth as u64));
            match (kind, passing.side) {
                // The first frame of the first handshake, and what came after it.
                (0, Side::Sender) => Fate::Instead(seen.get(&(Side::Sender, 0)).cloned().into_iter().collect()),
                (1, Side::Sender) => Fate::Instead(seen.get(&(Side::Sender, 2)).cloned().into_iter().collect()),
                (2, _) => Fate::Instead(vec![noise()]),
                // The answer is late for ever.
                (3, Side::Receiver) => Fate::Instead(Vec::new()),
                _ => Fate::Pass,
            }
        });
        let (scenario, bytes) = scenario(90 + kind, 45 * SECOND);
        let scenario = Scenario { place: Place::Evil, ..scenario };
        let rig = Rig::with(&scenario, Policy::Proper, tamper, direct_and(|_, _| {}));
        let mut midway = Midway::offered(rig, bytes, PUBLIC_OF);
        midway.accept();
        let before = midway.hosts().map(|host| midway.told(host));
        cuts.store(true, Ordering::Relaxed);
        midway.pass(30 * SECOND);
        assert_eq!(midway.hosts().map(|host| midway.told(host)), before, "{kind}: {}", midway.history());
        assert!(tried.load(Ordering::Relaxed) > 0, "{kind}: nobody looked for a floor");
        midway.ends_well();
    }
}

/// The direct path dies while a new floor proves itself, and does not come to an end with it: it is not waited for for long.
#[test]
fn the_last_link_has_to_prove_itself_soon() {
    let (cuts, swallows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (cut, swallow) = (cuts.clone(), swallows.clone());
    let tamper: Tamper = Box::new(move |passing: Passing, _: &Bytes| match passing.from {
        0 | 1 if cut.load(Ordering::Relaxed) => Fate::Cut,
        0 | 1 => Fate::Pass,
        _ if passing.side == Side::Receiver && swallow.load(Ordering::Relaxed) => Fate::Instead(Vec::new()),
        _ => Fate::Pass,
    });
    let (scenario, bytes) = scenario(96, 30 * SECOND);
    let scenario = Scenario { place: Place::Evil, ..scenario };
    let rig = Rig::with(&scenario, Policy::Proper, tamper, direct_and(|_, _| {}));
    let mut midway = Midway::offered(rig, bytes, PUBLIC_OF);
    midway.accept();
    cuts.store(true, Ordering::Relaxed);
    midway.pass(7 * SECOND);
    midway.cut_direct();
    midway.pass(4 * SECOND);
    assert_eq!(midway.reconnects(), [1, 1], "{}", midway.history());
    swallows.store(false, Ordering::Relaxed);
    midway.ends_well();
}

/// A receiver that thinks that it has a link keeps one on which the sender asked for another handshake; its person gives up meanwhile.
#[test]
fn a_link_that_waits_goes_with_the_transfer() {
    let mut midway = one_lost_all_at_the_relay(95, 0, LEGS[0]);
    midway.rig.world.command(midway.rig.receiver, Command::Cancel);
    // Its handshake would be waited for for 15 s.
    let sender = midway.rig.sender;
    let waits = |event: &Event| matches!(event, Event::Waiting(WaitingFor::Peer));
    let noticed = midway.rig.world.run_until(3 * SECOND, |world| world.said(sender).any(waits));
    assert!(noticed, "{}", midway.history());
    midway.rig.interrupt_sender();
    midway.pass(3 * SECOND);
    let hosts = midway.hosts();
    assert!(hosts.iter().all(|&host| midway.rig.world.is_closed(host)), "{}", midway.history());
}
