//! The link that a session falls back to is lost while its bytes go directly, and found again.

mod meeting;
mod midway;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use midway::{FOUND, LEGS, LIMIT, Midway, OUTSIDE, SECOND, over};
use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::peer::{Command, Event, PathKind, Payload, RelayAddress, RelayChoice, WaitingFor};
use tallow_proto::transfer::stream::memory::{MemoryPipe, MemoryStream, Piece};
use tallow_tests::sim::{RELAY, noise};

#[test]
fn lost_relay_path_is_restored_and_takes_over() {
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

/// However long the relay is unreachable, whether its machine or only its process has ended.
#[test]
fn late_restarted_relay_is_found() {
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

/// A restored relay path works like the first one: it may be lost and restored again, and the bytes move between both
/// paths.
#[test]
fn relay_path_can_be_lost_and_restored_repeatedly() {
    let mut midway = Midway::new(20, 200 * SECOND);
    for round in 0..3 {
        midway.relay_restarts(SECOND);
        midway.pass(8 * SECOND);
        // In this round the relay path is restored twice before it is needed.
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

/// A search without a result causes no event, and the end of the transfer ends it.
#[test]
fn relay_that_never_returns_causes_no_event() {
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

/// Relays that never return are asked more and more rarely, however many there are.
#[test]
fn failed_relay_search_sends_few_packets() {
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
        assert!(after - before < 800, "{} packets", after - before);
    }
    midway.accept();
    midway.ends_well();
}

/// The end comes while both wait in the reconnect room, are being paired, or authenticate the new relay path.
#[test]
fn transfer_that_ends_during_relay_search_closes_both() {
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

/// Data that may not use a relay waits for another direct path on the replaced relay path, and no link is searched
/// for.
#[test]
fn p2p_only_transfer_waits_on_restored_relay_path() {
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
fn stream_falls_back_to_restored_relay_path() {
    let all = noise(4_000_000, 1);
    let pieces: Vec<Piece> =
        all.chunks(50_000).flat_map(|piece| [Piece::Bytes(piece.to_vec()), Piece::Silence]).collect();
    let source = Arc::new(MemoryStream::new(pieces));
    let mut midway = Midway::idle(61, SECOND, |send, _| send.source = Payload::Stream(source));
    let tcp = Arc::new(MemoryPipe::new());
    midway.rig.world.command(midway.rig.receiver, Command::AcceptStream(tcp.clone()));
    midway.pass(SECOND);
    midway.rig.world.kill(midway.rig.relay.expect("a relay"));
    midway.pass(SECOND / 2);
    midway.rig.restart_relay();
    midway.pass(8 * SECOND);
    assert_eq!(midway.ways(), [Some(PathKind::Direct); 2], "{}", midway.history());
    midway.cut_direct();
    midway.pass(5 * SECOND);
    assert!(tcp.bytes().len() < all.len(), "too late to matter");
    assert_eq!(midway.ways(), [Some(PathKind::Relay); 2], "{}", midway.history());
    assert_eq!(midway.reconnects(), [0, 0], "{}", midway.history());
    midway.pass(LIMIT);
    assert!(midway.rig.report().is_done(), "{}", midway.history());
    assert!(tcp.bytes() == all);
}

/// Relay links and paths are lost and replaced in any order, while both, one or no side searches for a relay path:
/// the bytes arrive.
#[test]
fn bytes_arrive_for_any_order_of_path_changes() {
    for seed in 0..6 {
        // If the relay of a TLS link ends without notice, keep-alive probes of the system detect it, which are not
        // simulated.
        let leg = |is_tcp| Allowed::Only(if is_tcp { Transport::WebSocket } else { Transport::Quic });
        let mut midway = over(100 + seed, 60 * SECOND, [leg(seed % 2 > 0), leg(seed / 2 % 2 > 0)]);
        for step in noise(40, seed).chunks(2) {
            let ways = [
                (OUTSIDE[0], OUTSIDE[1]),
                (OUTSIDE[1], OUTSIDE[0]),
                (OUTSIDE[0], RELAY.ip()),
                (RELAY.ip(), OUTSIDE[0]),
                (OUTSIDE[1], RELAY.ip()),
                (RELAY.ip(), OUTSIDE[1]),
            ];
            match (step[0] % 16, ways.get(usize::from(step[0] % 16 / 2))) {
                (what, Some(&(from, to))) => midway.cut(from, to, what % 2 == 0),
                (12, None) => {
                    midway.rig.world.kill(midway.rig.relay.expect("a relay"));
                    midway.rig.restart_relay();
                }
                (13, None) => midway.relay_restarts(SECOND),
                (_, None) => ways.iter().for_each(|&(from, to)| midway.cut(from, to, false)),
            }
            midway.pass(Duration::from_millis(u64::from(step[1]) * 20));
        }
        for host in [OUTSIDE[0], OUTSIDE[1]] {
            midway.cut(host, RELAY.ip(), false);
            midway.cut(RELAY.ip(), host, false);
        }
        midway.ends_well();
    }
}
