//! Prints the traces of many simulated runs, so that two builds can be compared: a pure refactoring changes no line.
//!
//! ```sh
//! cargo run --release -p tallow-tests --bin traces -- 1000 > before.txt
//! cargo run --release -p tallow-tests --bin traces -- 1000 > after.txt
//! diff before.txt after.txt
//! ```
//! Seed `n` runs scenario `n % 4`: a transfer over any network, a session that has to reconnect, a session with a
//! direct path, a malicious peer or relay. The last column shows how both ended, or that the run panicked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tallow_proto::code::Code;
use tallow_proto::peer::{Command, DirectPath, Event, Failure, Peer, ReceiveConfig, SendConfig};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::memory::MemorySink;
use tallow_proto::wire::BoundedVec;
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{
    Act, Attachment, Behaviour, CODE, Chance, CheckedSink, Conditions, Dependence, Fate, HostId, Machine,
    MaliciousPeer, Network, PUBLIC, Passing, Place, Policy, RELAY, Received, Relay, Report, Rig, Scenario, Segment,
    Site, Tamper, World, copied_end, honest, identity, offering, raw, receive_config, send_config,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(900);
const HOME: Behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
const OUTSIDE: [[u8; 4]; 2] = [[203, 0, 113, 101], [203, 0, 113, 102]];
const CABLED: [[u8; 4]; 2] = [[10, 9, 0, 1], [10, 9, 0, 2]];

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1000);
    let first: u64 = std::env::args().nth(2).and_then(|first| first.parse().ok()).unwrap_or(0);
    let next = AtomicU64::new(0);
    let lines = Mutex::new(vec![String::new(); usize::try_from(count).unwrap_or(0)]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = (index < count).then(|| first + index) else { return };
                    let line = line(seed);
                    lines.lock().unwrap()[usize::try_from(index).unwrap()] = line;
                }
            });
        }
    });
    for line in lines.into_inner().unwrap() {
        println!("{line}");
    }
}

fn line(seed: u64) -> String {
    let (kind, run): (_, fn(u64) -> Report) = match seed % 4 {
        0 => ("transfer", transfer),
        1 => ("reconnect", reconnect),
        2 => ("direct", direct),
        _ => ("hostile", hostile),
    };
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(report) => {
            let ends = [&report.sent, &report.received].map(|end| shown(end.as_ref()));
            format!("{seed} {kind} {:016x} {:?} {} {}", report.trace, report.took, ends[0], ends[1])
        }
        Err(_) => format!("{seed} {kind} panicked"),
    }
}

/// The duration of a transfer is in the trace already.
fn shown(end: Option<&Event>) -> String {
    match end {
        None => "none".to_owned(),
        Some(Event::Done(_)) => "done".to_owned(),
        Some(Event::Failed(failure)) => format!("{:?}", Failure::class(failure)),
        Some(_) => "?".to_owned(),
    }
}

fn chance(seed: u64) -> Chance {
    let mut own = [0; 32];
    own[..8].copy_from_slice(&seed.to_le_bytes());
    Chance::new(&Seed::new(own).derive("faults"))
}

fn transfer(seed: u64) -> Report {
    let scenario = Scenario::from_number(seed);
    let mut rig = Rig::new(&scenario, Policy::Proper, honest());
    rig.play(scenario.act);
    rig.report()
}

/// The receiver accepts the offer; returns false if a side has ended before.
fn accept(rig: &mut Rig) -> bool {
    let (sender, receiver) = (rig.sender, rig.receiver);
    rig.world.run_until(LIMIT, |world| {
        world.end(receiver).is_some()
            || world.end(sender).is_some()
            || world.said(receiver).any(|event| matches!(event, Event::Offer(_)))
    });
    let offered = rig.world.end(receiver).is_none() && rig.world.end(sender).is_none();
    if offered {
        rig.accept();
    }
    offered
}

/// Lets time pass, or less if both are done.
fn pass(rig: &mut Rig, time: Duration) {
    let hosts = [rig.sender, rig.receiver];
    rig.world.run_until(time, |world| hosts.iter().all(|&host| world.is_closed(host)));
}

/// Runs to the end; a side that still waits then is interrupted.
fn finish(mut rig: Rig) -> Report {
    pass(&mut rig, LIMIT);
    rig.interrupt_sender();
    pass(&mut rig, LIMIT);
    rig.sink.check();
    rig.report()
}

/// Over a relay only, with cuts, restarts, other addresses, sleep and firewalls.
fn reconnect(seed: u64) -> Report {
    let mut chance = chance(seed);
    let network = Conditions { rate: 150_000, latency: Duration::from_millis(10), ..Conditions::default() };
    let place = [Place::Relay, Place::Relay, Place::Inside][usize::try_from(chance.draw() % 3).unwrap()];
    let give_up_after = chance.hits(300_000).then_some(20 * SECOND);
    let scenario = Scenario { network, place, give_up_after, ..Scenario::plain(seed, 700_000) };
    let mut rig = Rig::new(&scenario, Policy::Proper, honest());
    if chance.hits(500_000) {
        pass(&mut rig, chance.up_to(SECOND));
    } else {
        accept(&mut rig);
    }
    for _ in 0..chance.draw() % 5 {
        pass(&mut rig, chance.up_to(2 * SECOND));
        let which = usize::from(chance.hits(500_000));
        let host = [rig.sender, rig.receiver][which];
        let time = chance.up_to(12 * SECOND);
        match chance.draw() % 6 {
            0 => cut_for(&mut rig, time),
            1 if place == Place::Relay => {
                rig.crash_relay();
                pass(&mut rig, time);
                rig.restart_relay();
            }
            2 if place == Place::Relay || host == rig.receiver => {
                rig.world.readdress(host, [203, 0, 113, 50 + u8::try_from(chance.draw() % 100).unwrap()].into());
            }
            3 => sleep(&mut rig, host, time, chance.hits(500_000)),
            4 => rig.world.network.block_udp([[192, 0, 2, 1], [203, 0, 113, 1]][which].into(), chance.hits(700_000)),
            _ => {}
        }
    }
    accept(&mut rig);
    finish(rig)
}

fn cut_for(rig: &mut Rig, time: Duration) {
    let before = rig.world.network.default_conditions();
    rig.world.network.set_default(Conditions { cut: true, ..before });
    pass(rig, time);
    rig.world.network.set_default(before);
}

fn sleep(rig: &mut Rig, host: HostId, time: Duration, stops: bool) {
    if stops {
        rig.world.stop(host, time);
    } else {
        rig.world.sleep(host, time);
    }
    rig.world.run_until(time + SECOND, |_| false);
}

/// Two homes that both search for a direct path, with interfaces that appear and disappear, cuts, NATs that lose
/// their mappings, and relays that restart.
fn direct(seed: u64) -> Report {
    let mut chance = chance(seed);
    let network = Conditions { rate: 300_000, ..Conditions::default() };
    let (place, only, verify) = (Place::Relay, chance.hits(150_000), chance.hits(150_000));
    let bytes = 300_000 + usize::try_from(chance.draw() % 2_000_000).unwrap();
    let give_up_after = chance.hits(200_000).then_some(20 * SECOND);
    let scenario = Scenario { network, place, give_up_after, ..Scenario::plain(seed, bytes) };
    let look_for = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
        let mut direct = DirectPath::new(identity());
        direct.only = only;
        (send.common.direct, receive.common.direct) = (Some(direct.clone()), Some(direct));
        send.common.verify = verify;
    };
    let behaviours = [HOME, Behaviour::nat(Dependence::AddressAndPort, Dependence::AddressAndPort), HOME];
    let behaviour = behaviours[usize::try_from(chance.draw() % 3).unwrap()];
    let mut made = None;
    let mut rig = Rig::placed(&scenario, look_for, |world| {
        let homes = [1, 2].map(|number: u8| {
            world.add_site(PUBLIC, Site::private([192, 168, number, 0], behaviour, OUTSIDE[usize::from(number) - 1]))
        });
        made = Some((homes, world.add_site(PUBLIC, Site::private([10, 9, 0, 0], HOME, [203, 0, 113, 150]))));
        [at(homes[0], [192, 168, 1, 10]), at(homes[1], [192, 168, 2, 10])].map(|home| vec![home])
    });
    let (homes, cable) = made.expect("it was made");
    if verify {
        let (sender, is_verifier) = (rig.sender, |event: &Event| matches!(event, Event::Verifier { .. }));
        rig.world.run_until(LIMIT, |world| world.end(sender).is_some() || world.said(sender).any(is_verifier));
        if rig.world.end(sender).is_none() {
            rig.world.command(sender, Command::Agree(true));
        }
    }
    accept(&mut rig);
    for _ in 0..chance.draw() % 9 {
        pass(&mut rig, chance.up_to(3 * SECOND));
        disturb(&mut rig, &mut chance, homes, cable);
    }
    finish(rig)
}

fn at(segment: Segment, addr: [u8; 4]) -> Attachment {
    Attachment::new(segment, addr.into())
}

fn disturb(rig: &mut Rig, chance: &mut Chance, homes: [Segment; 2], cable: Segment) {
    let which = usize::from(chance.hits(500_000));
    let host = [rig.sender, rig.receiver][which];
    let home = at(homes[which], [192, 168, u8::try_from(which).unwrap() + 1, 10]);
    let between = |rig: &mut Rig, ends: [[u8; 4]; 2], cut| {
        let conditions = Conditions { cut, ..rig.world.network.default_conditions() };
        rig.world.network.set(ends[which].into(), ends[1 - which].into(), conditions);
    };
    match chance.draw() % 9 {
        0 | 1 => rig.world.relocate(host, vec![home, at(cable, CABLED[which])]),
        2 => rig.world.relocate(host, vec![home]),
        3 => between(rig, OUTSIDE, true),
        4 => between(rig, CABLED, true),
        5 => {
            between(rig, OUTSIDE, false);
            between(rig, CABLED, false);
        }
        6 => {
            rig.crash_relay();
            let time = chance.up_to(5 * SECOND);
            pass(rig, time);
            rig.restart_relay();
        }
        7 => {
            let (time, stops) = (chance.up_to(5 * SECOND), chance.hits(500_000));
            sleep(rig, host, time, stops);
        }
        _ => rig.world.topology.nat_mut(homes[which], OUTSIDE[which].into()).expect("a NAT").flush(),
    }
}

/// A relay that tampers, or a peer that has the code and violates the protocol.
fn hostile(seed: u64) -> Report {
    let mut chance = chance(seed);
    if chance.hits(400_000) {
        let place = Place::ScriptedRelay;
        let scenario = Scenario { place, act: Act::None, ..Scenario::plain(seed, 200_000) };
        let mut rig = Rig::new(&scenario, Policy::Proper, tamper(chance));
        accept(&mut rig);
        return finish(rig);
    }
    let role = if chance.hits(500_000) { Role::Sender } else { Role::Receiver };
    let scenario = Scenario { place: Place::ScriptedRelay, ..Scenario::plain(seed, 100_000) };
    let of_world = Seed::new(scenario.seed);
    let mut world = World::new(Network::new(scenario.network, &of_world), &of_world);
    world.add(RELAY.ip(), Machine::Other(Relay::new(RELAY.port(), Policy::Proper, honest(), of_world.derive("relay"))));
    let mut direct = DirectPath::new(identity());
    direct.map_ports = false;
    let direct = Some(direct);
    let (now, of_peer) = (world.now, of_world.derive("peer"));
    let peer = match role {
        Role::Sender => {
            let mut config = receive_config(&scenario);
            config.common.direct = direct;
            Peer::receiver(config, now, of_peer)
        }
        Role::Receiver => {
            let mut config = send_config(&scenario);
            config.common.direct = direct;
            Peer::sender(config, now, of_peer)
        }
    };
    let code = Code::parse(CODE).expect("a good code");
    let liar = MaliciousPeer::new(role, code, RELAY, script(role, chance), of_world.derive("hostile"));
    world.add([192, 0, 2, 66].into(), Machine::Other(liar));
    let peer = world.add([203, 0, 113, 9].into(), Machine::Peer(Box::new(peer)));
    let sink = CheckedSink::new(MemorySink::new(), None);
    world.run_until(60 * SECOND, |world| {
        world.end(peer).is_some() || world.said(peer).any(|event| matches!(event, Event::Offer(_)))
    });
    if world.end(peer).is_none() && world.said(peer).any(|event| matches!(event, Event::Offer(_))) {
        world.command(peer, Command::Accept(sink.clone()));
    }
    if !world.run_until(60 * SECOND, |world| world.is_closed(peer)) {
        world.command(peer, Command::Cancel);
    }
    assert!(world.run_until(60 * SECOND, |world| world.is_closed(peer)), "no end");
    Report { sent: world.end(peer).map(copied_end), received: None, took: world.elapsed(), trace: world.trace() }
}

/// One frame in many is dropped, changed, doubled, or the last.
fn tamper(mut chance: Chance) -> Tamper {
    Box::new(move |_: Passing, frame: &Bytes| {
        if !chance.hits(20_000) {
            return Fate::Pass;
        }
        match chance.draw() % 6 {
            0 => Fate::Instead(Vec::new()),
            1 => {
                let mut changed = BytesMut::from(&frame[..]);
                let at = 4 + usize::try_from(chance.draw()).unwrap_or(0) % (frame.len() - 4).max(1);
                if let Some(byte) = changed.get_mut(at) {
                    *byte ^= 1;
                }
                Fate::Instead(vec![changed.freeze()])
            }
            2 => Fate::Instead(vec![frame.clone(), frame.clone()]),
            3 => Fate::PassAndClose,
            4 => Fate::Close,
            _ => Fate::Cut,
        }
    })
}

/// Begins as it should, and answers each message with some of what concerns the direct path, in any order.
fn script(role: Role, mut chance: Chance) -> tallow_tests::sim::Script {
    let mut offers = offering(vec![raw(0, b"a", 100_000)], 100_000);
    Box::new(move |heard, mouth| {
        let is_keyed = matches!(heard, Received::Keyed);
        if role == Role::Sender {
            offers(heard, mouth);
        }
        if !is_keyed && !chance.hits(300_000) {
            return;
        }
        for _ in 0..chance.draw() % 4 {
            let round = u32::try_from(chance.draw() % 4).unwrap();
            match chance.draw() % 6 {
                0 | 1 => mouth.say(Control::CandidateOffer {
                    round,
                    candidates: BoundedVec::default(),
                    certificate: [7; 32],
                    token: [8; 16],
                    dependent: false,
                }),
                2 => mouth.say(Control::CandidatesDone { round }),
                3 => mouth.say(Control::DirectFailed { round }),
                4 => mouth.say(Control::DirectConnected { round }),
                _ => mouth.pause(chance.up_to(3 * SECOND)),
            }
        }
    })
}
