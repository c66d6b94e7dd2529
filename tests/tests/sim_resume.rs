//! Peers that crash, on virtual time: the next ones resume from what the first ones stored, whenever they crashed and
//! whatever the disk lost.

use std::sync::Arc;
use std::time::Duration;

use tallow_proto::peer::{Class, Event};
use tallow_proto::transfer::memory::{MemorySink, Partial};
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{Act, Chance, CheckedSink, Fate, Place, Policy, Rig, Scenario, Tamper, honest};

/// How many seeds: a few, or with `TALLOW_LONG=1` many.
fn seeds(quick: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("TALLOW_LONG").is_some() { quick * 20 } else { quick }
}

/// Two peers with a disk that was left so.
fn rig(scenario: &Scenario, left: Partial) -> Rig {
    let mut rig = Rig::new(scenario, Policy::Proper, honest());
    rig.sink = CheckedSink::new(MemorySink::new().with_partial(left), Some(scenario.source()));
    rig.world.watch(Arc::clone(&rig.sink));
    rig
}

fn said(rig: &Rig) -> (Vec<u64>, bool) {
    let resumed = rig.world.said(rig.receiver).filter_map(|event| match event {
        Event::Resumed { bytes } => Some(*bytes),
        _ => None,
    });
    (resumed.collect(), rig.world.said(rig.receiver).any(|event| matches!(event, Event::Resuming)))
}

/// Crashes after these times of the transfer, at either end; then completes.
fn dies(scenario: &Scenario, times: &[(Duration, bool)], chance: &mut Chance) -> (u64, u64) {
    let mut left = Partial::default();
    for (number, (at, sender)) in times.iter().enumerate() {
        let act = if *sender { Act::CrashSender(*at) } else { Act::CrashReceiver(*at) };
        let mut rig = rig(&Scenario { seed: [number as u8 + 1; 32], ..scenario.clone() }, left.clone());
        rig.play(act);
        if rig.sink.has_final_names() {
            return (0, 0);
        }
        left = rig.sink.partial();
        // A crash can truncate the journal or a file.
        let cut = |bytes: &mut Vec<u8>, most: u64, chance: &mut Chance| {
            let lost = (chance.draw() % most) as usize;
            bytes.truncate(bytes.len().saturating_sub(lost));
        };
        match chance.draw() % 4 {
            0 => cut(&mut left.journal, 200, chance),
            1 => {
                if let Some(file) = left.files.values_mut().next() {
                    cut(file, 100_000, chance);
                }
            }
            _ => {}
        }
    }
    let found = left.files.values().map(|file| file.len() as u64).sum();
    let mut last = rig(scenario, left);
    last.play(Act::None);
    assert!(last.report().is_done(), "{scenario:?} {}", last.told());
    last.sink.check_whole();
    let (resumed, resuming) = said(&last);
    assert_eq!(resumed.len(), usize::from(resuming), "told once, if anything was there");
    (found, resumed.first().copied().unwrap_or_default())
}

#[test]
fn f04_f05_transfer_completes_after_process_deaths() {
    let (mut resumed, mut tried) = (0, 0);
    for seed in seeds(4) {
        for place in [Place::Inside, Place::Relay] {
            let scenario = Scenario { files: vec![700_000, 90, 0, 400_000], place, ..Scenario::plain(seed, 0) };
            let mut chance = Chance::new(&tallow_proto::seed::Seed::new([seed as u8 + 7; 32]));
            for first in [0, 20, 60, 120] {
                let mut time = || (Duration::from_millis(first + chance.draw() % 40), chance.draw().is_multiple_of(2));
                let times = [time(), time(), time()];
                let (_, bytes) = dies(&scenario, &times, &mut chance);
                tried += times.len();
                resumed += usize::from(bytes > 0);
            }
        }
    }
    println!("died {tried} times; {resumed} of the last tries went on from something");
    assert!(resumed > 4, "{resumed}");
}

/// A relay changes a record: none of it is stored, everything before it is kept, and the next attempt resumes from
/// there.
#[test]
fn x06_x07_chunks_before_forged_record_are_kept() {
    let scenario = Scenario { place: Place::ScriptedRelay, ..Scenario::plain(3, 3_000_000) };
    let mut chunks = 0;
    let tamper: Tamper = Box::new(move |passing, frame| {
        let is_chunk = passing.role == Role::Sender && frame.len() > 60_000;
        chunks += usize::from(is_chunk);
        if !is_chunk || chunks != 30 {
            return Fate::Pass;
        }
        let mut forged = frame.to_vec();
        let middle = forged.len() / 2;
        forged[middle] ^= 1;
        Fate::Instead(vec![forged.into()])
    });
    let mut first = Rig::new(&scenario, Policy::Proper, tamper);
    first.play(Act::None);
    let report = first.report();
    assert_eq!(
        (report.received_class(), first.sink.has_final_names()),
        (Some(Class::Proto), false),
        "{}",
        first.told()
    );
    let mut second = rig(&scenario, first.sink.partial());
    second.play(Act::None);
    assert!(second.report().is_done(), "{}", second.told());
    second.sink.check_whole();
    let (resumed, _) = said(&second);
    assert!(resumed[0] >= 20 * 65_536 && resumed[0] < 3_000_000, "{resumed:?}");
}
