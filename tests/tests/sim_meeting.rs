//! How two peers are connected, or why they are not: other clients on the network, malicious relays, impossible
//! configurations.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tallow_proto::code::Code;
use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::peer::{
    CodeChoice, Embedded, Event, Failure, Lost, Peer, ReceiveConfig, RelayAddress, RelayChoice, SendConfig, WaitingFor,
};
use tallow_proto::room;
use tallow_proto::seed::Seed;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{
    Act, Conditions, Fate, HostId, Machine, NameService, Passing, Place, Policy, RELAY, Rig, Scenario, Tamper, World,
    honest, identity, send_config,
};

const SECOND: Duration = Duration::from_secs(1);
const SENDER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const RECEIVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fn end(rig: &Rig, host: HostId) -> Option<Failure> {
    match rig.world.end(host) {
        Some(Event::Failed(failure)) => Some(failure.clone()),
        _ => None,
    }
}

/// A receiver that tries these places first, and the honest sender's too; at each of the others there is a sender
/// with another code of the same number.
fn among_liars(liars: u8) -> Rig {
    let scenario = Scenario { place: Place::Inside, ..Scenario::plain(1, 10_000) };
    let at = |number: u8| IpAddr::from([198, 51, 100, 70 + number]);
    let mut rig = Rig::with(&scenario, Policy::Proper, honest(), |_, receive| {
        let honest = receive.local.clone();
        receive.local = (0..liars).map(|number| SocketAddr::new(at(number), 4433)).chain(honest).collect();
    });
    let usual = rig.world.network.default_conditions();
    for number in 0..liars {
        let (ip, mut send) = (at(number), send_config(&scenario));
        send.code = CodeChoice::Custom(Code::parse("7-wrong-words-here").unwrap());
        let listen = vec![SocketAddr::new(ip, 4433)];
        send.embedded = Some(Embedded::new(identity()).listening_at(listen));
        let liar = Peer::sender(send, rig.world.now, Seed::new([number + 40; 32]));
        rig.world.add(ip, Machine::Peer(Box::new(liar)));
        for (a, b) in [(ip, RECEIVER), (RECEIVER, ip)] {
            rig.world.network.set(a, b, Conditions { latency: Duration::from_micros(100), ..usual });
        }
    }
    rig
}

#[test]
fn false_lan_senders_do_not_hide_real_sender() {
    for liars in 1..=2 {
        let mut rig = among_liars(liars);
        rig.play(Act::None);
        assert!(rig.report().is_done(), "{liars}: {}", rig.told());
    }
}

#[test]
fn third_false_lan_sender_ends_search() {
    let mut rig = among_liars(3);
    let (sender, receiver) = (rig.sender, rig.receiver);
    rig.world.kill(sender);
    // Sooner than the look for others would end.
    assert!(rig.world.run_until(3 * SECOND, |world| world.end(receiver).is_some()), "{}", rig.told());
    let guesses = (1..=3)
        .map(|liar| HostId(receiver.0 + liar))
        .filter(|&liar| rig.world.said(liar).any(|event| matches!(event, Event::WrongGuess { .. })));
    assert_eq!(guesses.count(), 3);
    assert_eq!(end(&rig, receiver), Some(Failure::WrongCode));
}

#[test]
fn a_wrong_code_is_reported_after_other_senders_are_tried() {
    let mut rig = among_liars(1);
    let (sender, receiver) = (rig.sender, rig.receiver);
    rig.world.kill(sender);
    assert!(rig.world.run_until(5 * SECOND, |world| world.end(receiver).is_some()), "{}", rig.told());
    assert_eq!(end(&rig, receiver), Some(Failure::WrongCode));
}

/// The sender's proof is lost, so the receiver can't know where the sender waits; in one of the two rooms a relay
/// answers with invalid messages.
#[test]
fn junk_in_reconnect_room_does_not_end_first_rendezvous() {
    for junk in [enclose(&[3]), enclose(&[200, 0, 0]), Bytes::from_static(&[0xff; 4])] {
        let tamper: Tamper =
            Box::new(move |passing: Passing, _: &Bytes| match (passing.from, passing.role, passing.nth) {
                (0 | 1, Role::Sender, 1) => Fate::Cut,
                (2 | 3, Role::Sender, 0) => Fate::Instead(vec![junk.clone()]),
                _ => Fate::Pass,
            });
        let scenario = Scenario { place: Place::ScriptedRelay, give_up_after: None, ..Scenario::plain(2, 10_000) };
        let mut rig = Rig::new(&scenario, Policy::Proper, tamper);
        rig.play(Act::None);
        assert!(rig.report().is_done(), "{}", rig.told());
    }
}

fn with(give_up_after: Option<Duration>, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Rig {
    let scenario = Scenario { give_up_after, ..Scenario::plain(3, 10_000) };
    Rig::with(&scenario, Policy::Proper, honest(), change)
}

/// Both sides end within that time, for this reason.
fn both_end(mut rig: Rig, within: Duration, why: &Failure) {
    let hosts = [rig.sender, rig.receiver];
    let over = |world: &mut World| hosts.iter().all(|&host| world.end(host).is_some());
    assert!(rig.world.run_until(within, over), "{}", rig.told());
    assert_eq!(hosts.map(|host| end(&rig, host)), [Some(why.clone()), Some(why.clone())]);
}

#[test]
fn a_relay_without_an_address_is_reported_at_once() {
    let rig = with(None, |send, receive| {
        for common in [&mut send.common, &mut receive.common] {
            common.relays = vec![RelayChoice::new(RelayAddress { host: "no.such.invalid".into(), port: 4433 })];
        }
    });
    both_end(rig, SECOND, &Failure::Lost(Lost::NoAddress));
}

#[test]
fn first_relay_that_is_dead_delays_sender_by_less_than_a_second() {
    for dead in 1..=2_u8 {
        let mut rig = with(None, |send, receive| {
            for common in [&mut send.common, &mut receive.common] {
                let other = |number: u8| RelayAddress { host: format!("198.51.100.{}", 200 + number), port: 4433 };
                let others = (0..dead).map(|number| RelayChoice::new(other(number)));
                common.relays = others.chain(std::mem::take(&mut common.relays)).collect();
            }
        });
        let sender = rig.sender;
        let waits =
            |world: &mut World| world.said(sender).any(|event| matches!(event, Event::Waiting(WaitingFor::Receiver)));
        assert!(rig.world.run_until(SECOND, waits), "{dead} dead: {}", rig.told());
        rig.play(Act::None);
        assert!(rig.report().is_done(), "{dead} dead: {}", rig.told());
    }
}

#[test]
fn sender_uses_only_the_relay_that_answers_first() {
    // The first relay answers after the second was begun, and before the second answers: the second one is left.
    let mut rig = with(None, |send, _| {
        let second = RelayAddress { host: "198.51.100.250".into(), port: 4433 };
        send.common.relays.push(RelayChoice::new(second));
    });
    let second = rig.add_relay("198.51.100.250".parse().unwrap());
    let usual = rig.world.network.default_conditions();
    for (a, b, latency) in [(SENDER, RELAY.ip(), 300), ("198.51.100.250".parse().unwrap(), SENDER, 900)] {
        let latency = Duration::from_millis(latency);
        rig.world.network.set(a, b, Conditions { latency, ..usual });
        rig.world.network.set(b, a, Conditions { latency, ..usual });
    }
    rig.play(Act::None);
    assert!(rig.report().is_done(), "{}", rig.told());
    let rooms: Vec<_> = rig.world.relay_events(second).collect();
    let created = rooms.iter().filter(|event| matches!(event, room::Event::RoomCreated { .. })).count();
    let closed = rooms.iter().filter(|event| matches!(event, room::Event::RoomClosed { .. })).count();
    assert_eq!(created, closed, "no room stays behind: {rooms:?}");
}

#[test]
fn silent_name_service_is_reported_and_asked_again() {
    let named = |give_up: u64| {
        with(Some(Duration::from_secs(give_up)), |send, receive| {
            for common in [&mut send.common, &mut receive.common] {
                common.relays = vec![RelayChoice::new(RelayAddress { host: "relay.example".into(), port: 4433 })];
            }
        })
    };
    // Silent to the end: the limit is kept, and the cause is named.
    let mut rig = named(15);
    rig.world.name_service = NameService::Silent;
    let hosts = [rig.sender, rig.receiver];
    let waits = |world: &mut World, host| {
        world.said(host).any(|event| matches!(event, Event::Waiting(WaitingFor::NameService(_))))
    };
    assert!(rig.world.run_until(3 * SECOND, |world| hosts.iter().all(|&host| waits(world, host))), "{}", rig.told());
    both_end(rig, 13 * SECOND, &Failure::Lost(Lost::NoNameService));
    // It answers later.
    let mut rig = named(60);
    rig.world.name_service = NameService::Silent;
    rig.world.run_until(5 * SECOND, |_| false);
    rig.world.name_service = NameService::Answers;
    rig.world.name("relay.example", vec![RELAY]);
    rig.play(Act::None);
    assert!(rig.report().is_done(), "{}", rig.told());
}

#[test]
fn config_without_relay_is_reported_at_once() {
    let rig = with(None, |send, receive| {
        (send.embedded, send.common.relays) = (None, Vec::new());
        (receive.local, receive.common.relays) = (Vec::new(), Vec::new());
    });
    both_end(rig, SECOND, &Failure::Lost(Lost::NoMeetingPlace));
}

#[test]
fn silent_relay_is_given_up_after_timeout() {
    let mut rig = with(Some(5 * SECOND), |_, _| {});
    rig.world.crash(rig.relay.expect("a relay"));
    both_end(rig, 6 * SECOND, &Failure::Lost(Lost::NoRelay));
}

#[test]
fn missing_sender_is_reported_after_timeout() {
    let mut rig = with(Some(5 * SECOND), |_, _| {});
    rig.world.kill(rig.sender);
    let receiver = rig.receiver;
    assert!(rig.world.run_until(6 * SECOND, |world| world.end(receiver).is_some()), "{}", rig.told());
    assert_eq!(end(&rig, receiver), Some(Failure::Lost(Lost::NobodyWaits)));
}

#[test]
fn dead_sender_is_reported_as_not_responding() {
    // Over TLS on TCP the relay can't ask whether the sender is still there, so it pairs the two.
    let mut rig = with(None, |send, receive| {
        let tls = Allowed::Only(Transport::Tls);
        (send.common.transport, receive.common.transport) = (tls, tls);
    });
    let (sender, receiver) = (rig.sender, rig.receiver);
    // When the receiver's first packet arrives at the relay, the sender already waits there.
    let waits =
        |world: &mut World| world.said(sender).any(|event| matches!(event, Event::Waiting(WaitingFor::Receiver)));
    let usual = rig.world.network.default_conditions();
    let leg = |rig: &mut Rig, peer, cut| {
        for (a, b) in [(RELAY.ip(), peer), (peer, RELAY.ip())] {
            rig.world.network.set(a, b, Conditions { cut, ..usual });
        }
    };
    leg(&mut rig, RECEIVER, true);
    assert!(rig.world.run_until(5 * SECOND, waits), "{}", rig.told());
    leg(&mut rig, SENDER, true);
    leg(&mut rig, RECEIVER, false);
    let paired = |world: &mut World| world.said(receiver).any(|event| matches!(event, Event::Paired));
    assert!(rig.world.run_until(10 * SECOND, paired), "{}", rig.told());
    let silent =
        |world: &mut World| world.said(receiver).any(|event| matches!(event, Event::Waiting(WaitingFor::Response)));
    assert!(rig.world.run_until(SECOND * 5 / 2, silent), "{}", rig.told());
}

/// At the relay inside the sender, and at one of its own, which can't notify the sender.
#[test]
fn second_receiver_gets_code_taken() {
    for place in [Place::Inside, Place::Relay] {
        let scenario = Scenario { place, give_up_after: None, ..Scenario::plain(4, 10_000) };
        let mut rig = Rig::new(&scenario, Policy::Proper, honest());
        let (sender, first) = (rig.sender, rig.receiver);
        let offered = |world: &mut World| world.said(first).any(|event| matches!(event, Event::Offer(_)));
        assert!(rig.world.run_until(10 * SECOND, offered));
        let second = rig.another_receiver(1);
        let told =
            |world: &mut World| world.said(second).any(|event| matches!(event, Event::Waiting(WaitingFor::Turn)));
        assert!(rig.world.run_until(5 * SECOND, told), "{}", rig.told());
        let is_notified = rig.world.said(sender).any(|event| matches!(event, Event::SecondReceiver));
        assert_eq!(is_notified, place == Place::Inside);
        assert!(rig.world.run_until(35 * SECOND, |world| world.end(second).is_some()), "{}", rig.told());
        assert_eq!(end(&rig, second), Some(Failure::Lost(Lost::Taken)));
        assert!(rig.world.end(first).is_none(), "the first one is not disturbed");
    }
}

/// The first receiver had the number and not the words: the second one, which asked meanwhile, is served.
#[test]
fn second_receiver_is_served_after_wrong_code() {
    let scenario = Scenario { give_up_after: None, ..Scenario::plain(5, 10_000) };
    let wrong = |_: &mut SendConfig, receive: &mut ReceiveConfig| {
        receive.code = Code::parse("7-zebra-zebra-zebra").unwrap();
    };
    let mut rig = Rig::with(&scenario, Policy::Proper, honest(), wrong);
    let first = rig.receiver;
    let paired = |world: &mut World| world.said(first).any(|event| matches!(event, Event::Paired));
    assert!(rig.world.run_until(10 * SECOND, paired));
    let second = rig.another_receiver(1);
    let told = |world: &mut World| world.said(second).any(|event| matches!(event, Event::Waiting(WaitingFor::Turn)));
    let offered = |world: &mut World| world.said(second).any(|event| matches!(event, Event::Offer(_)));
    assert!(rig.world.run_until(10 * SECOND, told), "{}", rig.told());
    assert!(rig.world.run_until(10 * SECOND, offered), "{}", rig.told());
    assert_eq!(end(&rig, first), Some(Failure::WrongCode));
}
