//! Two whose bytes go directly, in mid-transfer, and what may happen to them.

use std::net::IpAddr;
use std::time::Duration;

use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::peer::{DirectPath, Event, PathKind, ReceiveConfig, SendConfig};
use tallow_tests::sim::{
    Attachment, Behaviour, Conditions, Dependence, HostId, PUBLIC, Rig, Scenario, Site, World, identity,
};

pub const SECOND: Duration = Duration::from_secs(1);
pub const LIMIT: Duration = Duration::from_secs(1200);
/// A home's NAT, as most are.
pub const HOME: Behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
/// The public addresses of the sender's and the receiver's.
pub const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 101)), IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 102))];
/// The time to fall back from a lost direct path to the relay path.
pub const FALLBACK: Duration = Duration::from_secs(2);
/// The time until a new relay path exists after the relay restarted: the silence of the old link if it is not reset,
/// a pause, the pairing.
pub const FOUND: Duration = Duration::from_secs(20);

/// Two whose bytes go directly, in mid-transfer.
pub struct Midway {
    pub rig: Rig,
    pub bytes: u64,
    /// Between these two nothing may get through any more; the sender's, the receiver's.
    pub direct: [IpAddr; 2],
}

impl Midway {
    pub fn new(seed: u64, took: Duration) -> Self {
        Self::with(seed, took, |_, _| {})
    }

    /// The payload takes this long to send.
    pub fn with(seed: u64, took: Duration, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Self {
        let mut midway = Self::idle(seed, took, change);
        midway.accept();
        midway
    }

    /// The same as [`Self::with`], but before the receiver's user has answered.
    pub fn idle(seed: u64, took: Duration, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Self {
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

    pub fn offered(rig: Rig, bytes: u64, direct: [IpAddr; 2]) -> Self {
        let mut midway = Self { rig, bytes, direct };
        let receiver = midway.rig.receiver;
        let offered = midway.rig.world.run_until(60 * SECOND, |world| {
            world.said(receiver).any(|event| matches!(event, Event::Offer(_) | Event::StreamOffer(_)))
        });
        assert!(offered, "{}", midway.history());
        midway
    }

    pub fn accept(&mut self) {
        self.rig.accept();
        self.pass(5 * SECOND);
        assert_eq!(self.ways(), [Some(PathKind::Direct); 2], "{}", self.history());
    }

    pub fn hosts(&self) -> [HostId; 2] {
        [self.rig.sender, self.rig.receiver]
    }

    /// Lets time pass, or less if both are done.
    pub fn pass(&mut self, time: Duration) {
        let hosts = self.hosts();
        self.rig.world.run_until(time, |world| hosts.iter().all(|&host| world.is_closed(host)));
    }

    pub fn cut(&mut self, from: IpAddr, to: IpAddr, cut: bool) {
        let before = self.rig.world.network.default_conditions();
        self.rig.world.network.set(from, to, Conditions { cut, ..before });
    }

    /// Nothing gets from one NAT to the other any more.
    pub fn cut_direct(&mut self) {
        let [sender, receiver] = self.direct;
        self.cut(sender, receiver, true);
        self.cut(receiver, sender, true);
    }

    /// The relay is down for this time, and has no state when it is back.
    pub fn relay_restarts(&mut self, after: Duration) {
        self.rig.crash_relay();
        self.pass(after);
        self.rig.restart_relay();
    }

    /// The path of the bytes by the last path events of both peers.
    pub fn ways(&self) -> [Option<PathKind>; 2] {
        self.hosts().map(|host| {
            self.rig.world.said(host).rev().find_map(|event| match event {
                Event::Path(path) => Some(path.kind),
                _ => None,
            })
        })
    }

    /// How often each side searched for the other one without a link.
    pub fn reconnects(&self) -> [usize; 2] {
        let is_one = |event: &&Event| matches!(event, Event::Reconnecting { .. });
        self.hosts().map(|host| self.rig.world.said(host).filter(is_one).count())
    }

    /// The number of events of one side except for progress.
    pub fn told(&self, host: HostId) -> usize {
        self.rig.world.said(host).filter(|event| !matches!(event, Event::Progress(_))).count()
    }

    pub fn arrived(&self) -> u64 {
        let progress = self.rig.world.said(self.rig.receiver).rev().find_map(|event| match event {
            Event::Progress(progress) => Some(progress.bytes),
            _ => None,
        });
        progress.unwrap_or(0)
    }

    /// The direct path is cut: the bytes use the relay path at once, and no lost link is reported.
    pub fn falls_back(&mut self) {
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

    pub fn fallbacks(&self, host: HostId) -> usize {
        self.rig.world.said(host).filter(|event| matches!(event, Event::FellBack(_))).count()
    }

    /// One of the two peers, in the state that `make` creates, has just lost its last link and can reach the relay
    /// again. Its messages about this do not arrive at the other one, which believes for another second that its
    /// direct path works.
    pub fn one_lost_all(apart: usize, make: impl Fn() -> Self, heal: impl Fn(&mut Self)) -> Self {
        let cut = |midway: &mut Self| {
            assert_eq!(midway.reconnects(), [0, 0], "{}", midway.history());
            midway.cut(midway.direct[1 - apart], midway.direct[apart], true);
        };
        let noticed = |midway: &mut Self| {
            let host = midway.hosts()[apart];
            let noticed = |world: &mut World| world.said(host).any(|event| matches!(event, Event::Reconnecting { .. }));
            assert!(midway.rig.world.run_until(2 * SECOND, noticed), "{}", midway.history());
        };
        // When that will be: a world with the same seed behaves the same.
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

    /// Soon they continue over the relay path.
    pub fn converges(&mut self, within: Duration) {
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

    pub fn paths(&self, host: HostId) -> usize {
        self.rig.world.said(host).filter(|event| matches!(event, Event::Path(_))).count()
    }

    /// The direct path is there again, and the bytes take it.
    pub fn goes_directly_again(&mut self) {
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
    pub fn ends_well(mut self) {
        self.pass(LIMIT);
        let hosts = self.hosts();
        assert!(hosts.iter().all(|&host| self.rig.world.is_closed(host)), "{}", self.history());
        assert!(self.rig.report().is_done(), "{}", self.history());
        self.rig.sink.check_whole();
    }

    /// All events of both sides except for progress.
    pub fn history(&self) -> String {
        let said = self.hosts().map(|host| {
            let events = self.rig.world.said(host).filter(|event| !matches!(event, Event::Progress(_)));
            events.map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n  ")
        });
        let [sender, receiver] = said;
        let at = self.rig.world.elapsed();
        format!("{} of {} at {at:?}\nsender:\n  {sender}\nreceiver:\n  {receiver}", self.arrived(), self.bytes)
    }
}

pub fn scenario(seed: u64, took: Duration) -> (Scenario, u64) {
    let network = Conditions { rate: 200_000, latency: Duration::from_millis(10), ..Conditions::default() };
    let bytes = 180_000 * took.as_secs();
    (Scenario { files: vec![bytes as usize], network, give_up_after: None, ..Scenario::plain(seed, 0) }, bytes)
}

pub fn direct_and(
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
pub const LEGS: [Allowed; 3] = [Allowed::Auto, Allowed::Only(Transport::Tls), Allowed::Only(Transport::WebSocket)];

pub fn over(seed: u64, took: Duration, legs: [Allowed; 2]) -> Midway {
    Midway::with(seed, took, |send, receive| (send.common.transport, receive.common.transport) = legs.into())
}
