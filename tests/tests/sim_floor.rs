//! The link that a session falls back to is lost while its bytes go directly, and found again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::peer::{Command, DirectPath, Event, PathKind, Payload, ReceiveConfig, SendConfig, WaitingFor};
use tallow_proto::transfer::stream::memory::{MemoryPipe, MemoryStream, Piece};
use tallow_tests::sim::{
    Attachment, Behaviour, Conditions, Dependence, HostId, PUBLIC, RELAY, Rig, Scenario, Site, identity, noise,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(1200);
/// A home's NAT, as most are.
const HOME: Behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
/// The public addresses of the sender's and the receiver's.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 101)), IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 102))];
/// When a path that is gone is left for the relay, plus what a progress event may be late.
const FALLBACK: Duration = Duration::from_millis(2_500);
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

    /// The longest time in which nothing arrives, looked for from now on for so long.
    fn stall(&mut self, within: Duration) -> Duration {
        assert!(self.arrived() < self.bytes * 9 / 10, "too late to matter");
        let (start, mut longest) = (self.rig.world.now, Duration::ZERO);
        let (mut had, mut since) = (self.arrived(), start);
        while self.rig.world.now - start < within && had < self.bytes {
            self.pass(SECOND / 50);
            let has = self.arrived();
            if has > had {
                (had, since) = (has, self.rig.world.now);
            }
            longest = longest.max(self.rig.world.now - since);
        }
        longest
    }

    /// The direct path is cut: the bytes are back on the relay in no time, and nobody was told of a lost link.
    fn falls_back(&mut self) {
        self.cut_direct();
        let stall = self.stall(6 * SECOND);
        assert!(stall <= FALLBACK, "nothing came for {stall:?}: {}", self.history());
        assert_eq!(self.ways(), [Some(PathKind::Relay); 2], "{}", self.history());
        assert_eq!(self.reconnects(), [0, 0], "{}", self.history());
    }

    /// One of the two hears nothing from now on, and what it says of that will not arrive.
    fn one_hears_nothing(&mut self, which: usize, others: IpAddr, own: IpAddr) {
        assert_eq!(self.reconnects(), [0, 0], "{}", self.history());
        self.cut(others, own, true);
        self.pass(SECOND * 11 / 10);
        assert_eq!(self.reconnects()[which], 0, "it noticed too early to be tried");
        self.cut(own, others, true);
    }

    /// It has lost its last link, and meets the other one, which has not. Soon they go on over the relay.
    fn meets_too_early(&mut self, apart: usize) {
        let (lives, host) = (1 - apart, self.hosts()[apart]);
        let noticed = self
            .rig
            .world
            .run_until(SECOND, |world| world.said(host).any(|event| matches!(event, Event::Reconnecting { .. })));
        assert!(noticed, "{}", self.history());
        self.pass(SECOND * 3 / 10);
        assert_eq!(self.reconnects()[lives], 0, "it noticed too early to be tried: {}", self.history());
        let before = self.hosts().map(|host| self.paths(host));
        for _ in 0..50 {
            self.pass(SECOND / 10);
            let now = self.hosts().map(|host| self.paths(host));
            if now[0] > before[0] && now[1] > before[1] {
                assert_eq!(self.reconnects()[lives], 1, "{}", self.history());
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
    let mut midway = Midway::new(20, 400 * SECOND);
    for round in 0..3 {
        midway.relay_restarts(SECOND);
        midway.pass(FOUND);
        // A floor that is found twice before it is needed.
        if round == 1 {
            midway.relay_restarts(SECOND);
            midway.pass(FOUND);
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
            let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
                (send.common.transport, receive.common.transport) = (legs, legs);
            };
            let mut midway = Midway::idle(50 + seed as u64, 60 * SECOND, change);
            midway.pass(5 * SECOND);
            let (own, others) = (OUTSIDE[apart], OUTSIDE[1 - apart]);
            let leg = |midway: &mut Midway, cut| {
                midway.cut(own, RELAY.ip(), cut);
                midway.cut(RELAY.ip(), own, cut);
            };
            leg(&mut midway, true);
            midway.relay_restarts(SECOND);
            midway.pass(FOUND);
            midway.one_hears_nothing(apart, others, own);
            leg(&mut midway, false);
            midway.meets_too_early(apart);
            midway.rig.accept();
            midway.ends_well();
        }
    }
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
