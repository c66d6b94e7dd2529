//! Transfers between real peers over networks that misbehave, on virtual time.

use std::time::Duration;

use tallow_proto::peer;
use tallow_tests::sim::{Act, Conditions, Place, Policy, Rig, Scenario, World, honest};

/// How many seeds: a few, or with `TALLOW_LONG=1` many.
fn seeds(quick: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("TALLOW_LONG").is_some() { quick * 10 } else { quick }
}

#[test]
fn file_arrives_over_good_network() {
    for place in [Place::Inside, Place::Relay, Place::ScriptedRelay] {
        let scenario = Scenario { place, ..Scenario::plain(1, 300_000) };
        let report = scenario.run();
        assert!(report.took < Duration::from_secs(5), "{:?}", report.took);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for number in seeds(3) {
        let network =
            Conditions { loss: 20_000, jitter: Duration::from_millis(8), duplicate: 10_000, ..Conditions::default() };
        let place = if number % 2 == 0 { Place::Inside } else { Place::Relay };
        let scenario = Scenario { network, place, ..Scenario::plain(number, 150_000) };
        let (first, second) = (scenario.run(), scenario.run());
        assert_eq!((first.trace, first.took), (second.trace, second.took), "seed {number}");
        let other = Scenario { network, place, ..Scenario::plain(number + 1000, 150_000) };
        assert_ne!(first.trace, other.run().trace, "the seed decides");
    }
}

fn over(name: &str, network: Conditions, bytes: usize) {
    for number in seeds(2) {
        for place in [Place::Inside, Place::Relay] {
            let scenario = Scenario { network, place, ..Scenario::plain(number, bytes) };
            let report = scenario.run();
            assert!(report.took < Duration::from_secs(120), "{name}: {:?}", report.took);
        }
    }
}

#[test]
fn file_arrives_over_lossy_networks() {
    for loss in [10_000, 50_000] {
        over("loss", Conditions { loss, ..Conditions::default() }, 200_000);
    }
}

#[test]
fn file_arrives_despite_reordering_and_duplicates() {
    let jitter = Duration::from_millis(30);
    over("reorder", Conditions { jitter, duplicate: 100_000, ..Conditions::default() }, 200_000);
}

#[test]
fn file_arrives_over_slow_network() {
    over("slow", Conditions { rate: 60_000, latency: Duration::from_millis(150), ..Conditions::default() }, 200_000);
}

#[test]
fn file_arrives_with_smallest_packets() {
    over("mtu", Conditions { mtu: 1200, ..Conditions::default() }, 200_000);
}

#[test]
fn short_partition_is_survived() {
    for number in seeds(3) {
        let network = Conditions { rate: 200_000, ..Conditions::default() };
        let act = Act::Partition(Duration::from_millis(300 * (number % 4)), Duration::from_secs(4));
        let scenario = Scenario { network, act, ..Scenario::plain(number, 300_000) };
        assert!(scenario.run().took > Duration::from_secs(4));
    }
}

/// Files vanish while they are sent, and links break: the others arrive, and both sides name the same.
#[test]
fn f03_files_that_fail_cost_themselves_on_a_bad_network() {
    for number in seeds(6) {
        let act = Act::Partition(Duration::from_millis(200 * (number % 4)), Duration::from_secs(3));
        let network = Conditions { rate: 200_000, loss: 10_000, ..Conditions::default() };
        let place = if number % 2 == 0 { Place::Inside } else { Place::Relay };
        let files = vec![150_000, 3_000, 300_000, 10, 70_000];
        let failing = vec![(0, number as u32 % 4), (3, 0), (4, 1)];
        let scenario = Scenario { files, failing, network, place, act, ..Scenario::plain(number, 0) };
        let report = scenario.run();
        let Some(peer::Event::Done(summary)) = &report.received else { panic!("{number}: {:?}", report.received) };
        assert!(summary.differences.failed.count >= 2, "{number}: {summary:?}");
    }
}

#[test]
fn what_the_receiver_skips_is_not_sent_on_a_bad_network() {
    for number in seeds(4) {
        let network = Conditions { rate: 200_000, loss: 10_000, ..Conditions::default() };
        let place = if number % 2 == 0 { Place::Inside } else { Place::Relay };
        let (files, skipped) = (vec![3_000_000, 3_000, 100_000, 10], vec![0, 3]);
        let scenario = Scenario { files, skipped, network, place, ..Scenario::plain(number, 0) };
        let report = scenario.run();
        let (Some(peer::Event::Done(sent)), Some(peer::Event::Done(received))) = (&report.sent, &report.received)
        else {
            panic!("{number}: {report:?}")
        };
        for skipped in [&sent.differences.skipped, &received.differences.skipped] {
            assert_eq!((skipped.count, skipped.files, skipped.bytes), (2, 2, 3_000_010));
        }
        assert!(report.took < Duration::from_secs(5), "three megabytes take 15 s: {:?}", report.took);
    }
}

#[test]
fn every_numbered_scenario_ends_as_expected() {
    for number in seeds(60) {
        let scenario = Scenario::from_number(number);
        let report = std::panic::catch_unwind(|| scenario.run());
        let report = report.unwrap_or_else(|_| panic!("scenario {number}: {scenario:?}"));
        assert!(report.took < Duration::from_secs(200), "scenario {number} took {:?}", report.took);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: seeds(12).end as u32, failure_persistence: None, max_shrink_iters: 60, ..Default::default()
    })]
    #[test]
    fn any_scenario_ends_as_expected(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
        let report = Scenario::from_bytes(&bytes).run();
        proptest::prop_assert!(report.took < Duration::from_secs(200));
    }
}

#[test]
fn empty_scenario_bytes_give_simplest_scenario() {
    let scenario = Scenario::from_bytes(&[]);
    assert_eq!((scenario.act, scenario.place, scenario.files.len()), (Act::None, Place::Relay, 1));
    let _ = scenario.run();
}

/// An entry has its final name already when the other side, the relay or the user ends the transfer: the disk decides
/// the outcome.
#[test]
fn started_finalization_is_not_interrupted() {
    for seed in seeds(2) {
        for act in 0..4 {
            let place = if act == 3 { Place::Relay } else { Place::Inside };
            let scenario = Scenario { files: vec![10; 700], place, ..Scenario::plain(seed, 0) };
            let mut rig = Rig::new(&scenario, Policy::Proper, honest());
            let (sender, receiver) = (rig.sender, rig.receiver);
            let limit = Duration::from_secs(60);
            let offered = |world: &mut World| world.said(receiver).any(|event| matches!(event, peer::Event::Offer(_)));
            assert!(rig.world.run_until(limit, offered));
            rig.accept();
            let sink = rig.sink.clone();
            assert!(rig.world.run_until(limit, |_| sink.has_final_names()));
            assert!(!sink.is_complete());
            match act {
                0 => rig.world.crash(sender),
                1 => rig.world.command(receiver, peer::Command::Cancel),
                2 => rig.world.command(sender, peer::Command::Cancel),
                _ => rig.world.crash(rig.relay.unwrap()),
            }
            assert!(rig.world.run_until(limit, |world| world.is_closed(receiver) && world.is_closed(sender)));
            sink.check_whole();
            let told = rig.world.end(receiver);
            assert!(matches!(told, Some(peer::Event::Done(_))), "{act}: {told:?}");
            // A receiver that cancels here still sends the confirmation.
            assert_eq!(matches!(rig.world.end(sender), Some(peer::Event::Done(_))), act == 1, "{}", rig.told());
        }
    }
}
