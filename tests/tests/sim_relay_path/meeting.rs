//! Which sides meet for a new relay path: one without any link, one that has not noticed the loss, and a malicious
//! relay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tallow_proto::link::race::Allowed;
use tallow_proto::peer::{Command, Event, PathKind, ReceiveConfig, SendConfig, WaitingFor};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{
    Attachment, Conditions, Fate, PUBLIC, Passing, Place, Policy, RELAY, Rig, Scenario, Site, Tamper, noise,
};

use super::midway::{FOUND, HOME, LEGS, Midway, OUTSIDE, SECOND, direct_and, scenario};

/// One side has lost all links and knows it; the other one believes for another second that its direct path works,
/// and waits in the reconnect room for a relay path. The session continues without a failure.
#[test]
fn peer_without_links_reconnects_to_unaware_peer() {
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

/// Both look for a relay path, but this one can't reach the relay, until it has lost all.
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

/// The sender's own address, where the relay inside it listens, and the receiver's.
const PUBLIC_OF: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1))];
/// Their addresses in a network that both are in.
const LAN_OF: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2))];

/// A receiver at the relay inside its sender, with a separate network for the direct path.
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

    /// Its relay path is lost, and can't be found.
    fn loses_inner_floor(&mut self) {
        self.inner_leg(true);
        self.pass(20 * SECOND);
        assert_eq!(self.ways(), [Some(PathKind::Direct); 2], "{}", self.history());
    }
}

#[test]
fn embedded_relay_accepts_its_receiver_again() {
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

/// As with a relay between them: a receiver without links connects to a sender that believes that its direct path
/// works, and the other way round.
#[test]
fn a_peer_without_links_reaches_one_with_a_dead_link() {
    for (seed, apart) in [(80, 1), (81, 1), (82, 0), (83, 0), (84, 0)] {
        let make = || {
            let mut midway = inside(seed, 10 * SECOND);
            midway.pass(5 * SECOND);
            midway.loses_inner_floor();
            midway
        };
        let mut midway = Midway::one_lost_all(apart, make, |midway| midway.inner_leg(false));
        // The receiver connects after a pause, unless it has lost all links, too.
        midway.converges(5 * SECOND);
        midway.rig.accept();
        midway.ends_well();
    }
}

/// A relay can cut the relay path and tamper with every new one, with any data that it has seen: the bytes continue
/// on the direct path, without events.
#[test]
fn tampered_new_relay_path_ends_nothing() {
    for kind in 0..4 {
        let cuts = Arc::new(AtomicBool::new(false));
        let tried = Arc::new(AtomicUsize::new(0));
        let (cut, count) = (cuts.clone(), tried.clone());
        let mut seen: BTreeMap<(Role, usize), Bytes> = BTreeMap::new();
        let tamper: Tamper = Box::new(move |passing: Passing, frame: &Bytes| {
            if passing.from < 2 {
                if passing.stream == 0 {
                    seen.insert((passing.role, passing.nth), frame.clone());
                }
                return if cut.load(Ordering::Relaxed) { Fate::Cut } else { Fate::Pass };
            }
            count.fetch_add(1, Ordering::Relaxed);
            let noise = || enclose(&noise(60, passing.nth as u64));
            match (kind, passing.role) {
                // The first frame of the first handshake, and the frames after it.
                (0, Role::Sender) => Fate::Instead(seen.get(&(Role::Sender, 0)).cloned().into_iter().collect()),
                (1, Role::Sender) => Fate::Instead(seen.get(&(Role::Sender, 2)).cloned().into_iter().collect()),
                (2, _) => Fate::Instead(vec![noise()]),
                // The answer never arrives.
                (3, Role::Receiver) => Fate::Instead(Vec::new()),
                _ => Fate::Pass,
            }
        });
        let (scenario, bytes) = scenario(90 + kind, 45 * SECOND);
        let scenario = Scenario { place: Place::ScriptedRelay, ..scenario };
        let rig = Rig::with(&scenario, Policy::Proper, tamper, direct_and(|_, _| {}));
        let mut midway = Midway::offered(rig, bytes, PUBLIC_OF);
        midway.accept();
        let before = midway.hosts().map(|host| midway.told(host));
        cuts.store(true, Ordering::Relaxed);
        midway.pass(30 * SECOND);
        assert_eq!(midway.hosts().map(|host| midway.told(host)), before, "{kind}: {}", midway.history());
        assert!(tried.load(Ordering::Relaxed) > 0, "{kind}: no side searched for a relay path");
        midway.ends_well();
    }
}

/// A relay sends a handshake message on the new relay path, which is kept for later, and then as much as it can: the
/// data is not read, so the relay is blocked.
#[test]
fn flood_on_waiting_link_is_not_read() {
    let (cuts, floods) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (cut, count) = (cuts.clone(), floods.clone());
    let junk = Bytes::from(vec![0x55_u8; 16 << 20]);
    let tamper: Tamper = Box::new(move |passing: Passing, _: &Bytes| match (passing.from, passing.role) {
        (0 | 1, _) if cut.load(Ordering::Relaxed) => Fate::Cut,
        (0 | 1, _) => Fate::Pass,
        (_, Role::Sender) if passing.nth == 0 => {
            count.fetch_add(1, Ordering::Relaxed);
            // "The confirmation was not right", which needs no key.
            Fate::Instead(vec![enclose(&[3]), junk.clone()])
        }
        _ => Fate::Instead(Vec::new()),
    });
    let (scenario, bytes) = scenario(97, 45 * SECOND);
    let scenario = Scenario { place: Place::ScriptedRelay, ..scenario };
    let rig = Rig::with(&scenario, Policy::Proper, tamper, direct_and(|_, _| {}));
    let mut midway = Midway::offered(rig, bytes, PUBLIC_OF);
    midway.accept();
    let usual = midway.rig.world.network.default_conditions();
    for (a, b) in [(RELAY.ip(), PUBLIC_OF[1]), (PUBLIC_OF[1], RELAY.ip())] {
        midway.rig.world.network.set(a, b, Conditions { rate: 2_000_000, ..usual });
    }
    let relay = midway.rig.relay.expect("a relay");
    let before = midway.rig.world.sent_to(relay, PUBLIC_OF[1]).bytes;
    cuts.store(true, Ordering::Relaxed);
    midway.pass(20 * SECOND);
    let sent = midway.rig.world.sent_to(relay, PUBLIC_OF[1]).bytes - before;
    assert!(floods.load(Ordering::Relaxed) > 0, "no side searched for a relay path");
    assert!(sent < 2 << 20, "{sent} bytes of a flood were taken");
    midway.ends_well();
}

/// The direct path is lost while a new relay path is being authenticated, and the authentication does not finish: its
/// deadline becomes short.
/// long.
#[test]
fn last_link_must_be_proven_soon() {
    let (cuts, swallows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (cut, swallow) = (cuts.clone(), swallows.clone());
    let tamper: Tamper = Box::new(move |passing: Passing, _: &Bytes| match passing.from {
        0 | 1 if cut.load(Ordering::Relaxed) => Fate::Cut,
        0 | 1 => Fate::Pass,
        _ if passing.role == Role::Receiver && swallow.load(Ordering::Relaxed) => Fate::Instead(Vec::new()),
        _ => Fate::Pass,
    });
    let (scenario, bytes) = scenario(96, 30 * SECOND);
    let scenario = Scenario { place: Place::ScriptedRelay, ..scenario };
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

/// A receiver that believes that it has a link keeps a pending one on which the sender started a handshake; its user
/// cancels meanwhile.
#[test]
fn waiting_link_is_closed_with_the_transfer() {
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
