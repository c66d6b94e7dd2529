//! A direct path that is replaced by a better one during a transfer, and messages before a user has agreed to a
//! direct path.

use std::net::IpAddr;
use std::time::Duration;

use tallow_proto::peer::{Command, DirectPath, Event, PathKind, PathTransport, ReceiveConfig, SendConfig};
use tallow_proto::seed::Seed;
use tallow_tests::sim::{
    Attachment, Behaviour, Chance, Conditions, Dependence, HostId, PUBLIC, RELAY, Rig, Scenario, Segment, Site, World,
    identity,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(600);
const HOME: Behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
const SYMMETRIC: Behaviour = Behaviour::nat(Dependence::AddressAndPort, Dependence::AddressAndPort);

fn at(segment: Segment, addr: [u8; 4]) -> Attachment {
    Attachment::new(segment, addr.into())
}

/// Both look for direct paths.
fn look_for(send: &mut SendConfig, receive: &mut ReceiveConfig) {
    let mut direct = DirectPath::new(identity());
    direct.map_ports = false;
    (send.common.direct, receive.common.direct) = (Some(direct.clone()), Some(direct));
}

fn pass(rig: &mut Rig, time: Duration) {
    let (sender, receiver) = (rig.sender, rig.receiver);
    rig.world.run_until(time, |world| world.is_closed(sender) && world.is_closed(receiver));
}

fn until(rig: &mut Rig, host: HostId, told: impl Fn(&Event) -> bool) {
    assert!(rig.world.run_until(LIMIT, |world| world.said(host).any(&told)), "{}", history(rig));
}

fn until_accepted(rig: &mut Rig) {
    let receiver = rig.receiver;
    until(rig, receiver, |event| matches!(event, Event::Offer(_)));
    rig.accept();
}

/// The paths that a peer reported, in order.
fn paths(rig: &Rig, host: HostId) -> Vec<(PathKind, PathTransport)> {
    let told = rig.world.said(host).filter_map(|event| match event {
        Event::Path(path) => Some((path.kind, path.transport)),
        _ => None,
    });
    told.collect()
}

/// All events of both sides except for progress.
fn history(rig: &Rig) -> String {
    let said = |host| {
        let events = rig.world.said(host).filter(|event| !matches!(event, Event::Progress(_)));
        events.map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n  ")
    };
    format!("{:?}\n  {}\n  {}", rig.world.elapsed(), said(rig.sender), said(rig.receiver))
}

fn until_done(rig: &mut Rig) {
    pass(rig, LIMIT);
    assert!(rig.report().is_done(), "{}", history(rig));
    rig.sink.check_whole();
    let fell_back = |event: &Event| matches!(event, Event::FellBack(_) | Event::Reconnecting { .. });
    for host in [rig.sender, rig.receiver] {
        assert!(!rig.world.said(host).any(fell_back), "{}", history(rig));
    }
}

/// Bytes that the relay sent.
fn relayed(rig: &Rig) -> u64 {
    rig.relay.map_or(0, |relay| rig.world.sent_in_all(relay).bytes)
}

const RELAYED: (PathKind, PathTransport) = (PathKind::Relay, PathTransport::Quic);
const QUIC: (PathKind, PathTransport) = (PathKind::Direct, PathTransport::Quic);
const TCP: (PathKind, PathTransport) = (PathKind::Direct, PathTransport::Tcp);

/// A cable between two peers that are connected through their NATs.
#[test]
fn new_shared_network_is_used_at_once() {
    for (seed, first) in [(1, 0), (2, 1), (3, 0), (4, 1), (6, 0), (8, 0)] {
        let network = Conditions { rate: 500_000, ..Conditions::default() };
        let scenario = Scenario { network, give_up_after: None, ..Scenario::plain(seed, 20_000_000) };
        let mut cable = None;
        let homes = |world: &mut World| {
            let homes = [1, 2].map(|number: u8| {
                world.add_site(PUBLIC, Site::private([192, 168, number, 0], HOME, [203, 0, 113, 100 + number]))
            });
            cable = Some((homes, world.add_site(PUBLIC, Site::private([10, 9, 0, 0], HOME, [203, 0, 113, 150]))));
            [vec![at(homes[0], [192, 168, 1, 10])], vec![at(homes[1], [192, 168, 2, 10])]]
        };
        let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
            look_for(send, receive);
            // Then nothing is under way most of the time.
            send.common.limit = (seed % 2 == 0).then(|| 300_000.try_into().expect("not 0"));
        };
        let mut rig = Rig::placed(&scenario, change, homes);
        let (homes, cable) = cable.expect("it was made");
        until_accepted(&mut rig);
        pass(&mut rig, 8 * SECOND);
        let hosts = [rig.sender, rig.receiver];
        assert_eq!(
            hosts.map(|host| paths(&rig, host)),
            [vec![RELAYED, QUIC], vec![RELAYED, QUIC]],
            "{}",
            history(&rig)
        );
        let before = relayed(&rig);
        // A last word on the old path may be there before the first one on the new.
        let far = Conditions { latency: Duration::from_millis(14), ..rig.world.network.default_conditions() };
        for (from, to) in [([10, 9, 0, 1], [10, 9, 0, 2]), ([10, 9, 0, 2], [10, 9, 0, 1])] {
            rig.world.network.set(IpAddr::from(from), IpAddr::from(to), if seed % 2 == 0 { far } else { network });
        }
        for which in [first, 1 - first] {
            let number = u8::try_from(which).unwrap() + 1;
            let own = [at(homes[which], [192, 168, number, 10]), at(cable, [10, 9, 0, number])];
            rig.world.relocate(hosts[which], own.to_vec());
            pass(&mut rig, if seed < 3 { Duration::ZERO } else { SECOND });
        }
        pass(&mut rig, 8 * SECOND);
        until_done(&mut rig);
        for host in hosts {
            let taken = paths(&rig, host);
            assert_eq!(taken[..3], [RELAYED, QUIC, TCP], "{}", history(&rig));
            // If TCP limits the transfer, QUIC is compared with it.
            assert_eq!(taken.last(), Some(&TCP), "{}", history(&rig));
        }
        assert!(relayed(&rig) - before < 100_000, "the relay sent {} bytes", relayed(&rig) - before);
    }
}

/// Two peers in one network with these conditions, until everything has arrived; returns the paths and the duration.
fn in_one_network(seed: u64, bytes: usize, between: Conditions) -> (Rig, Vec<(PathKind, PathTransport)>) {
    let scenario = Scenario { give_up_after: None, ..Scenario::plain(seed, bytes) };
    let own: [[u8; 4]; 2] = [[192, 168, 1, 10], [192, 168, 1, 11]];
    let mut rig = Rig::placed(&scenario, look_for, |world| {
        let home = world.add_site(PUBLIC, Site::private([192, 168, 1, 0], HOME, [203, 0, 113, 101]));
        for (from, to) in [(own[0], own[1]), (own[1], own[0])] {
            world.network.set(from.into(), to.into(), between);
        }
        own.map(|addr| vec![at(home, addr)])
    });
    until_accepted(&mut rig);
    until_done(&mut rig);
    let taken = paths(&rig, rig.sender);
    assert_eq!(taken, paths(&rig, rig.receiver), "{}", history(&rig));
    (rig, taken)
}

/// A lost packet of plain TCP delays all packets after it.
#[test]
fn lossy_network_switches_from_tcp_to_quic() {
    for seed in 0..3 {
        let lossy =
            Conditions { rate: 5_000_000, latency: Duration::from_millis(5), loss: 30_000, ..Conditions::default() };
        let (rig, taken) = in_one_network(seed, 60_000_000, lossy);
        assert_eq!(taken, [RELAYED, TCP, QUIC], "{}", history(&rig));
        println!("{}", history(&rig));
    }
}

#[test]
fn lossless_network_returns_from_quic_to_tcp() {
    for seed in 0..3 {
        // Datagrams have to wait behind TCP's packets in the queue.
        let slow = Conditions {
            rate: 1_000_000,
            latency: Duration::from_millis(1),
            queue: SECOND / 2,
            ..Conditions::default()
        };
        let (rig, taken) = in_one_network(seed, 60_000_000, slow);
        assert_eq!(taken, [RELAYED, TCP, QUIC, TCP], "{}", history(&rig));
        // The comparison cost little.
        assert!(rig.world.elapsed() < 70 * SECOND, "{}", history(&rig));
    }
}

#[test]
fn fast_network_is_not_compared() {
    let fast = Conditions { rate: 100_000_000, latency: Duration::from_millis(1), ..Conditions::default() };
    let (rig, taken) = in_one_network(1, 60_000_000, fast);
    assert_eq!(taken, [RELAYED, TCP], "{}", history(&rig));
}

/// A side with `--verify` reveals no address before the words were compared; its peer may.
#[test]
fn verify_reveals_no_address_before_confirmation() {
    for who in [0, 1] {
        let scenario = Scenario { give_up_after: None, ..Scenario::plain(9, 5_000_000) };
        let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
            look_for(send, receive);
            (send.common.verify, receive.common.verify) = (who == 0, who == 1);
        };
        let mut rig = Rig::placed(&scenario, change, |world| {
            let home = world.add_site(PUBLIC, Site::private([192, 168, 1, 0], HOME, [203, 0, 113, 101]));
            [vec![at(home, [192, 168, 1, 10])], vec![at(home, [192, 168, 1, 11])]]
        });
        let hosts = [rig.sender, rig.receiver];
        until(&mut rig, hosts[who], |event| matches!(event, Event::Verifier { .. }));
        pass(&mut rig, 60 * SECOND);
        let relay = RELAY.ip();
        let elsewhere = |rig: &Rig| -> Vec<IpAddr> {
            let sent = hosts.into_iter().flat_map(|host| rig.world.sent(host));
            sent.map(|(_, _, to, _)| to.ip()).filter(|&to| to != relay).collect()
        };
        assert_eq!(elsewhere(&rig), Vec::<IpAddr>::new(), "{}", history(&rig));
        rig.world.command(hosts[who], Command::Agree(true));
        until_accepted(&mut rig);
        until_done(&mut rig);
        assert_eq!(paths(&rig, hosts[0]), [RELAYED, TCP], "{}", history(&rig));
        assert!(!elsewhere(&rig).is_empty());
    }
}

/// Keep-alives wait behind a megabyte of chunks, which show as well that the side is alive.
#[test]
fn slow_network_is_not_treated_as_silent() {
    let slow = Conditions { rate: 150_000, latency: Duration::from_millis(1), ..Conditions::default() };
    let (rig, taken) = in_one_network(1, 6_000_000, slow);
    assert_eq!(taken, [RELAYED, TCP], "{}", history(&rig));
}

/// A candidate arrives when this side has everything: no new connection is made, and none stays open.
#[test]
fn late_candidate_does_not_delay_the_end() {
    for seed in 0..20 {
        let scenario = Scenario { give_up_after: None, ..Scenario::plain(seed, 1_000_000) };
        let mut made = None;
        let mut rig = Rig::placed(&scenario, look_for, |world| {
            let homes = [1, 2].map(|number: u8| {
                world.add_site(PUBLIC, Site::private([192, 168, number, 0], SYMMETRIC, [203, 0, 113, 100 + number]))
            });
            let cable = world.add_site(PUBLIC, Site::private([10, 9, 0, 0], HOME, [203, 0, 113, 150]));
            made = Some((homes, cable));
            [vec![at(homes[0], [192, 168, 1, 10])], vec![at(homes[1], [192, 168, 2, 10]), at(cable, [10, 9, 0, 2])]]
        });
        let (homes, cable) = made.expect("it was made");
        until_accepted(&mut rig);
        let (sender, receiver) = (rig.sender, rig.receiver);
        until(&mut rig, receiver, |event| matches!(event, Event::Done(_)));
        // The sender does not receive this yet, and gets another address meanwhile.
        let before = rig.world.network.default_conditions();
        rig.world.network.set_default(Conditions { cut: true, ..before });
        rig.world.relocate(sender, vec![at(homes[0], [192, 168, 1, 10]), at(cable, [10, 9, 0, 1])]);
        pass(&mut rig, 5 * SECOND);
        rig.world.network.set_default(before);
        pass(&mut rig, LIMIT);
        assert!(rig.report().is_done(), "{}", history(&rig));
    }
}

/// Cables that are connected and removed, paths that are cut and repaired, lost packets: everything arrives, whatever
/// the order.
#[test]
fn bytes_arrive_for_any_path_changes() {
    let seeds = if std::env::var_os("TALLOW_LONG").is_some() { 0..2000 } else { 0..60 };
    let outside: [[u8; 4]; 2] = [[203, 0, 113, 101], [203, 0, 113, 102]];
    let cabled: [[u8; 4]; 2] = [[10, 9, 0, 1], [10, 9, 0, 2]];
    for seed in seeds {
        println!("seed {seed}");
        let network = Conditions { rate: 300_000, ..Conditions::default() };
        let scenario = Scenario { network, give_up_after: None, ..Scenario::plain(seed, 5_000_000) };
        let mut made = None;
        let mut rig = Rig::placed(&scenario, look_for, |world| {
            let homes = [1, 2].map(|number: u8| {
                world.add_site(PUBLIC, Site::private([192, 168, number, 0], HOME, outside[usize::from(number) - 1]))
            });
            made = Some((homes, world.add_site(PUBLIC, Site::private([10, 9, 0, 0], HOME, [203, 0, 113, 150]))));
            [vec![at(homes[0], [192, 168, 1, 10])], vec![at(homes[1], [192, 168, 2, 10])]]
        });
        let (homes, cable) = made.expect("it was made");
        let hosts = [rig.sender, rig.receiver];
        until_accepted(&mut rig);
        let mut chance = Chance::new(&Seed::new([u8::try_from(seed % 251).unwrap(); 32]).derive(&seed.to_string()));
        let mut done = Vec::new();
        for _ in 0..12 {
            pass(&mut rig, chance.up_to(3 * SECOND));
            let which = usize::from(chance.hits(500_000));
            let what = chance.draw() % 7;
            done.push((rig.world.elapsed(), what, which));
            let number = u8::try_from(which).unwrap() + 1;
            let home = at(homes[which], [192, 168, number, 10]);
            let between = |rig: &mut Rig, ends: [[u8; 4]; 2], cut| {
                let conditions = Conditions { cut, ..rig.world.network.default_conditions() };
                rig.world.network.set(ends[which].into(), ends[1 - which].into(), conditions);
            };
            match what {
                0 | 1 => rig.world.relocate(hosts[which], vec![home, at(cable, cabled[which])]),
                2 => rig.world.relocate(hosts[which], vec![home]),
                3 => between(&mut rig, outside, true),
                4 => between(&mut rig, cabled, true),
                5 => {
                    between(&mut rig, outside, false);
                    between(&mut rig, cabled, false);
                }
                _ => {
                    let nat = rig.world.topology.nat_mut(homes[which], outside[which].into());
                    nat.expect("a NAT").flush();
                }
            }
        }
        pass(&mut rig, LIMIT);
        assert!(rig.report().is_done(), "seed {seed}: {done:?}\n{}", history(&rig));
        rig.sink.check_whole();
    }
}
