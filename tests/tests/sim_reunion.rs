//! Links die, the session lives: cuts, a relay that comes back, at every phase of a transfer, on virtual time.

use std::time::Duration;

use tallow_proto::peer::{Event, WaitingFor};
use tallow_tests::sim::{Conditions, Place, Policy, Rig, Scenario, honest};

/// When the fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The sender has its code; the receiver has only just started.
    Pairing,
    /// The two were paired; so long after.
    Handshake(Duration),
    /// The receiver's person reads the offer.
    Offer,
    /// Bytes move.
    Data,
    /// All bytes are there, and the receiver has just said so or is about to.
    End,
}

/// What happens to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing gets through for so long.
    Cut(Duration),
    /// The relay is gone for so long, and knows nothing when it is back.
    Relay(Duration),
}

const BYTES: usize = 400_000;

fn phases() -> Vec<Phase> {
    let ms = Duration::from_millis;
    let handshake = [0, 15, 30, 45].map(|at| Phase::Handshake(ms(at)));
    [Phase::Pairing, Phase::Offer, Phase::Data, Phase::End].into_iter().chain(handshake).collect()
}

/// Runs a transfer with a fault and returns how often a side looked for the other one again.
fn survive(place: Place, phase: Phase, fault: Fault, seed: u64) -> usize {
    let network = Conditions { rate: 100_000, latency: Duration::from_millis(10), ..Conditions::default() };
    let scenario = Scenario { network, place, give_up_after: None, ..Scenario::plain(seed, BYTES) };
    let mut rig = Rig::new(&scenario, Policy::Proper, honest());
    let (sender, receiver) = (rig.sender, rig.receiver);
    let told = |rig: &Rig| format!("{place:?} {phase:?} {fault:?}: {}", rig.told());
    let limit = Duration::from_secs(120);
    let begun = rig.world.run_until(limit, |world| match phase {
        Phase::Pairing => world.said(sender).any(|event| matches!(event, Event::Code { .. })),
        Phase::Handshake(_) => world.said(sender).any(|event| matches!(event, Event::Paired)),
        Phase::Offer | Phase::Data | Phase::End => world.said(receiver).any(|event| matches!(event, Event::Offer(_))),
    });
    assert!(begun, "{}", told(&rig));
    if let Phase::Handshake(after) = phase {
        rig.world.run_until(after, |_| false);
    }
    if matches!(phase, Phase::Data | Phase::End) {
        rig.accept();
        let wanted = if phase == Phase::Data { 1 } else { BYTES as u64 };
        let moved = rig.world.run_until(limit, |world| {
            world.said(receiver).any(|event| matches!(event, Event::Progress(progress) if progress.bytes >= wanted))
        });
        assert!(moved, "{}", told(&rig));
    }
    match fault {
        Fault::Cut(time) => {
            let before = rig.world.network.default_conditions();
            rig.world.network.set_default(Conditions { cut: true, ..before });
            rig.world.run_until(time, |_| false);
            rig.world.network.set_default(before);
        }
        Fault::Relay(time) => {
            rig.crash_relay();
            rig.world.run_until(time, |_| false);
            rig.restart_relay();
        }
    }
    if !matches!(phase, Phase::Data | Phase::End) {
        let offered = rig.world.run_until(limit, |world| {
            world.end(receiver).is_some() || world.said(receiver).any(|event| matches!(event, Event::Offer(_)))
        });
        assert!(offered, "{}", told(&rig));
        rig.accept();
    }
    let ended = rig.world.run_until(limit, |world| world.is_closed(sender) && world.is_closed(receiver));
    assert!(ended, "{}", told(&rig));
    assert!(rig.report().is_done(), "{}", told(&rig));
    rig.sink.check_whole();
    let again = |host| rig.world.said(host).filter(|event| matches!(event, Event::Reconnecting { .. })).count();
    again(sender) + again(receiver)
}

#[test]
fn f07_a_short_cut_is_not_even_noticed() {
    for place in [Place::Inside, Place::Relay] {
        for (seed, phase) in phases().into_iter().enumerate() {
            survive(place, phase, Fault::Cut(Duration::from_secs(5)), seed as u64);
        }
        assert_eq!(survive(place, Phase::Data, Fault::Cut(Duration::from_secs(5)), 100), 0);
    }
}

#[test]
fn f07_a_long_cut_pauses_the_transfer_at_every_phase() {
    for place in [Place::Inside, Place::Relay] {
        for (seed, phase) in phases().into_iter().enumerate() {
            // Before anybody accepted, patience ends after ten minutes.
            let time = if matches!(phase, Phase::Data | Phase::End) { 600 } else { 300 };
            let again = survive(place, phase, Fault::Cut(Duration::from_secs(time)), seed as u64);
            assert!(
                again > 0 || !matches!(phase, Phase::Offer | Phase::Data),
                "{phase:?}: a link outlived its network"
            );
        }
    }
}

#[test]
fn a_relay_that_forgot_everything_changes_nothing() {
    for (seed, phase) in phases().into_iter().enumerate() {
        for time in [0, 3, 100] {
            survive(Place::Relay, phase, Fault::Relay(Duration::from_secs(time)), seed as u64);
        }
    }
}

#[test]
fn what_a_side_waits_for_is_said() {
    let network = Conditions { rate: 100_000, ..Conditions::default() };
    let scenario = Scenario { network, give_up_after: None, ..Scenario::plain(7, BYTES) };
    let mut rig = Rig::new(&scenario, Policy::Proper, honest());
    let (sender, receiver) = (rig.sender, rig.receiver);
    let limit = Duration::from_secs(60);
    assert!(rig.world.run_until(limit, |world| world.said(receiver).any(|event| matches!(event, Event::Offer(_)))));
    assert!(rig.world.said(sender).any(|event| matches!(event, Event::Waiting(WaitingFor::Answer))));
    rig.accept();
    rig.world.run_until(Duration::from_secs(1), |_| false);
    rig.world.crash(receiver);
    rig.world.run_until(limit, |_| false);
    assert!(rig.world.said(sender).any(|event| matches!(event, Event::Waiting(WaitingFor::Peer))), "{}", rig.told());
    assert!(rig.world.end(sender).is_none(), "an accepted transfer waits for its person: {}", rig.told());
    rig.interrupt_sender();
    assert!(rig.world.run_until(limit, |world| world.is_closed(sender)));
}

#[test]
fn a_relay_that_restarts_resets_what_it_does_not_know() {
    let network = Conditions { rate: 100_000, latency: Duration::from_millis(10), ..Conditions::default() };
    let scenario = Scenario { network, give_up_after: None, ..Scenario::plain(8, BYTES) };
    let mut rig = Rig::new(&scenario, Policy::Proper, honest());
    let (sender, receiver) = (rig.sender, rig.receiver);
    let limit = Duration::from_secs(60);
    assert!(rig.world.run_until(limit, |world| world.said(receiver).any(|event| matches!(event, Event::Offer(_)))));
    rig.accept();
    rig.world.run_until(Duration::from_secs(1), |_| false);
    rig.crash_relay();
    rig.restart_relay();
    let noticed = rig.world.run_until(Duration::from_secs(3), |world| {
        world.said(sender).any(|event| matches!(event, Event::Reconnecting { .. }))
    });
    assert!(noticed, "the old connection was waited for: {}", rig.told());
    assert!(rig.world.run_until(limit, |world| world.is_closed(sender) && world.is_closed(receiver)));
    assert!(rig.report().is_done(), "{}", rig.told());
}
