//! What honest clients observe: pairing, forwarding, leaving, expiry, shutdown. Hostile clients are in `evil_tests.rs`.

#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use super::super::limits::{Limits, Source};
use super::super::world::*;
use super::*;
use std::io;

use super::super::Transport;
use crate::code::Nameplate;
use crate::link::quic::{Closed, Stream};
use crate::net::{Bind, Listen};
use crate::wire::relay::{ClientMessage, RelayMessage, Role, RoomId};

pub(super) const KIB: usize = 1024;

pub(super) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The messages of the relay after its hello.
fn said(world: &World, client: usize) -> &[RelayMessage] {
    world.clients[client].heard.get(1..).unwrap_or_default()
}

const fn refused(reason: RefusalReason, retry_after: u32) -> RelayMessage {
    RelayMessage::Refused { reason, retry_after }
}

const NOBODY: RelayMessage = refused(RefusalReason::NobodyWaits, 5);

pub(super) fn closed_rooms(world: &World) -> Vec<(u64, RoomEnd)> {
    let closed = world.events.iter().filter_map(|event| match *event {
        Event::RoomClosed { bytes_forwarded, reason, .. } => Some((bytes_forwarded, reason)),
        _ => None,
    });
    closed.collect()
}

pub(super) fn got(world: &World, client: usize, stream: Stream) -> &[u8] {
    world.clients[client].got.get(&stream).map_or(&[], Vec::as_slice)
}

pub(super) fn wait_closed(world: &mut World, client: usize) -> Option<u32> {
    world.until("closed", |world| world.clients[client].closed.is_some());
    world.clients[client].close_code()
}

pub(super) fn is_empty(relay: &Relay) -> bool {
    let rooms = relay.registry.counts();
    relay.legs.is_empty() && relay.pairs.is_empty() && rooms.waiting == 0 && rooms.paired == 0
}

#[test]
fn two_clients_are_paired_and_exchange_bytes() {
    let mut world = World::new();
    let alice = world.ask(ClientMessage::Allocate { owner: ALICE });
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    let [RelayMessage::Allocated { nameplate }, RelayMessage::Waiting] = *said(&world, alice) else { panic!() };
    let RelayMessage::Hello { observed, .. } = world.clients[alice].heard[0] else { panic!() };
    assert_eq!(observed, world.clients[alice].addr);

    let room = Nameplate::from_number(nameplate).room_id();
    let bob = world.connect_as(Profile::peer(), SocketId(1));
    world.say(bob, &[hello(), join(room, Role::Receiver, BOB)]);
    world.until("paired", |world| world.clients[alice].streams.is_some() && world.clients[bob].streams.is_some());
    assert_eq!(world.clients[alice].streams, Some(16));
    assert_eq!(said(&world, bob), [RelayMessage::Paired { streams: 16 }]);

    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.send(bob, b, pattern(200, 2));
    world.until("both ways", |world| got(world, bob, b).len() == 100 && got(world, alice, a).len() == 200);
    assert_eq!(got(&world, bob, b), pattern(100, 1));
    assert_eq!(got(&world, alice, a), pattern(200, 2));

    world.close(bob, close::DONE);
    assert_eq!(wait_closed(&mut world, alice), Some(close::PEER_LEFT));
    let [
        Event::RoomCreated { room: one },
        Event::RoomPaired { room: two },
        Event::RoomClosed { room, bytes_forwarded, .. },
    ] = world.events[..]
    else {
        panic!("{:?}", world.events)
    };
    assert_eq!((one, two, bytes_forwarded), (two, room, 300));
    assert!(is_empty(&world.relay));
}

#[test]
fn bytes_after_join_request_reach_peer() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    world.send_raw(bob, pattern(3000, 1));
    world.until("it is there", |world| world.clients[alice].main.is_some_and(|a| got(world, alice, a).len() == 3000));
    assert_eq!(got(&world, alice, world.clients[alice].main()), pattern(3000, 1));
}

#[test]
fn ping_sent_during_pairing_does_not_reach_peer() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    let bob = world.connect();
    world.say(bob, &[hello()]);
    world.until("ready", |world| {
        world.clients[alice].heard.contains(&RelayMessage::Waiting) && !world.clients[bob].heard.is_empty()
    });
    world.say(bob, &[join(ROOM, Role::Receiver, BOB)]);
    world.pass(millis(1));
    world.say(alice, &[ClientMessage::Ping, ClientMessage::Ping]);
    world.until("paired", |world| world.clients[alice].streams.is_some());
    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.pass(millis(100));
    world.send(alice, a, pattern(500, 1));
    world.until("delivered", |world| got(world, bob, b).len() >= 500);
    assert_eq!(got(&world, bob, b), pattern(500, 1));
    assert!(!world.clients[alice].heard.contains(&RelayMessage::Pong));
}

/// R05: the relay detects a lost peer within 60 s, and its room becomes free.
#[test]
fn r05_lost_peer_is_detected_and_frees_room() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let waits = world.ask(join(RoomId([8; 32]), Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[waits].heard.contains(&RelayMessage::Waiting));
    for client in [alice, waits] {
        world.clients[client].cut = true;
    }
    let cut = world.now;
    assert_eq!(wait_closed(&mut world, bob), Some(close::PEER_LOST));
    world.until("the room is free", |world| is_empty(&world.relay));
    assert!(world.now - cut <= secs(60), "{:?}", world.now - cut);
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Lost), (0, RoomEnd::Lost)]);

    let (alice, bob) = world.pair(RoomId([9; 32]));
    world.close(alice, close::ENDED);
    let left = world.now;
    wait_closed(&mut world, bob);
    assert!(world.now - left < secs(1));
}

#[test]
fn silent_pair_is_closed_and_active_pair_is_kept() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let a = world.clients[alice].main();
    for _ in 0..10 {
        world.pass(secs(50));
        world.send(alice, a, pattern(1, 1));
    }
    world.pass(millis(100));
    let last = world.now;
    assert_eq!(wait_closed(&mut world, bob), Some(close::IDLE));
    assert!(world.now - last > secs(59) && world.now - last < secs(61), "{:?}", world.now - last);
    assert_eq!(wait_closed(&mut world, alice), Some(close::IDLE));
    assert_eq!(closed_rooms(&world), [(10, RoomEnd::Idle)]);
}

#[test]
fn client_that_leaves_frees_its_room() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
    world.say(alice, &[ClientMessage::Leave]);
    assert_eq!(wait_closed(&mut world, alice), Some(close::DONE));
    assert!(is_empty(&world.relay));
    let eve = world.ask(join(ROOM, Role::Sender, EVE));
    world.until("hers", |world| world.clients[eve].heard.contains(&RelayMessage::Waiting));
    // The end of the stream has the same effect.
    let main = world.clients[eve].main();
    world.finish(eve, main);
    assert_eq!(wait_closed(&mut world, eve), Some(close::DONE));
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Left), (0, RoomEnd::Left)]);
}

#[test]
fn only_sender_that_is_done_frees_its_name() {
    for (code, free) in [(close::DONE, true), (close::ENDED, false)] {
        let mut world = World::new();
        let (alice, bob) = world.pair(ROOM);
        world.close(alice, code);
        wait_closed(&mut world, bob);
        let eve = world.ask(join(ROOM, Role::Sender, EVE));
        world.until("an answer", |world| !said(world, eve).is_empty());
        let expected = if free { RelayMessage::Waiting } else { refused(RefusalReason::NameTaken, 0) };
        assert_eq!(said(&world, eve), [expected]);
    }
}

#[test]
fn unpaired_room_expires_unless_client_renews_it() {
    let mut world = World::of(Config { room_ttl: secs(100), ..config(generous()) });
    let (alice, bob) =
        (world.ask(join(ROOM, Role::Sender, ALICE)), world.ask(join(RoomId([8; 32]), Role::Sender, BOB)));
    world.pass(secs(60));
    world.say(bob, &[ClientMessage::Ping]);
    assert_eq!(wait_closed(&mut world, alice), Some(close::REFUSED));
    assert!(world.now - world.start < secs(102));
    assert_eq!(said(&world, alice), [RelayMessage::Waiting, refused(RefusalReason::Idle, 0)]);
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Idle)]);
    assert_eq!(said(&world, bob), [RelayMessage::Waiting, RelayMessage::Pong]);
    wait_closed(&mut world, bob);
    assert!(world.now - world.start > secs(159));
}

#[test]
fn owner_takes_its_seat_from_dead_link() {
    let mut world = World::new();
    let old = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| world.clients[old].heard.contains(&RelayMessage::Waiting));
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    assert_eq!(wait_closed(&mut world, old), Some(close::REPLACED));
    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    world.until("paired", |world| world.clients[bob].streams.is_some() && world.clients[alice].streams.is_some());
    let created = world.events.iter().filter(|event| matches!(event, Event::RoomCreated { .. })).count();
    assert_eq!(created, 1, "it is one room");

    let again = world.ask(join(ROOM, Role::Sender, ALICE));
    assert_eq!(wait_closed(&mut world, bob), Some(close::REPLACED));
    assert_eq!(wait_closed(&mut world, alice), Some(close::REPLACED));
    assert_eq!(said(&world, again), [RelayMessage::Waiting]);
    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    world.until("paired again", |world| world.clients[bob].streams.is_some() && world.clients[again].streams.is_some());
    world.close(bob, close::DONE);
    world.until("over", |world| is_empty(&world.relay));
    assert!(world.relay.guard.may_open_room(Source::of(world.clients[again].addr)));
}

#[test]
fn in_a_reconnect_room_the_receiver_may_wait() {
    let mut world = World::new();
    let request = |role, owner| ClientMessage::Join { room: ROOM, role, owner, again: true };
    let bob = world.ask(request(Role::Receiver, BOB));
    world.until("waiting", |world| said(world, bob) == [RelayMessage::Waiting]);
    let alice = world.ask(request(Role::Sender, ALICE));
    world.until("paired", |world| world.clients[bob].streams.is_some() && world.clients[alice].streams.is_some());
}

#[test]
fn refused_receiver_retries_on_same_link() {
    let mut world = World::new();
    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    for round in 1..=5 {
        world.until("an answer", |world| said(world, bob).len() == round);
        world.pass(secs(5));
        if round == 5 {
            let alice = world.ask(join(ROOM, Role::Sender, ALICE));
            world.until("waiting", |world| world.clients[alice].heard.contains(&RelayMessage::Waiting));
        }
        world.say(bob, &[join(ROOM, Role::Receiver, BOB)]);
    }
    world.until("paired", |world| world.clients[bob].streams.is_some());
    assert!(said(&world, bob)[..5].iter().all(|message| *message == NOBODY));
}

#[test]
fn relay_requires_password() {
    let mut world = World::of(Config { password: Some("open sesame".into()), ..config(generous()) });
    let alice = world.connect();
    world.say(alice, &[hello()]);
    world.until("hello", |world| !world.clients[alice].heard.is_empty());
    let RelayMessage::Hello { nonce, .. } = world.clients[alice].heard[0] else { panic!() };
    let mac = crate::wire::relay_auth::prove("open sesame", &nonce);
    world.say(alice, &[ClientMessage::Prove { mac }, join(ROOM, Role::Sender, ALICE)]);
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);

    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    assert_eq!(wait_closed(&mut world, bob), Some(close::REFUSED));
    assert_eq!(said(&world, bob), [refused(RefusalReason::Password, 0)]);
    let eve = world.connect();
    world.say(eve, &[hello(), ClientMessage::Prove { mac }]);
    assert_eq!(wait_closed(&mut world, eve), Some(close::REFUSED), "a proof is for one nonce");
}

#[test]
fn password_guesses_of_a_source_are_limited_and_summed_up() {
    let limits = Limits { joins_per_minute: 20, connections_per_source: 10_000, ..Limits::default() };
    let mut world = World::of(Config { password: Some("open sesame".into()), ..config(limits) });
    let ip = std::net::IpAddr::from([192, 0, 2, 99]);
    let prove = |world: &mut World, ip, password: &str| {
        let client = world.connect_from(Profile::peer(), SocketId(0), ip);
        world.say(client, &[hello()]);
        world.until("hello", |world| !world.clients[client].heard.is_empty());
        let RelayMessage::Hello { nonce, .. } = world.clients[client].heard[0] else { panic!() };
        let mac = crate::wire::relay_auth::prove(password, &nonce);
        world.say(client, &[ClientMessage::Prove { mac }, join(ROOM, Role::Sender, ALICE)]);
        world.until("an answer", |world| world.clients[client].heard.len() > 1);
        said(world, client)[0].clone()
    };
    let start = world.now;
    for _ in 0..5 {
        assert_eq!(prove(&mut world, ip, "guess"), refused(RefusalReason::Password, 0));
    }
    for password in ["guess", "open sesame"] {
        let RelayMessage::Refused { reason, retry_after } = prove(&mut world, ip, password) else { panic!() };
        assert_eq!(reason, RefusalReason::RateLimited, "correct and wrong proofs get the same answer");
        assert!((1..=7).contains(&retry_after), "{retry_after}");
    }
    assert_eq!(prove(&mut world, std::net::IpAddr::from([192, 0, 2, 98]), "open sesame"), RelayMessage::Waiting);
    let sums = |world: &World| -> Vec<String> {
        let sums = world.events.iter().filter_map(|event| match event {
            Event::Refusals(refusals) => Some(refusals.to_string()),
            _ => None,
        });
        sums.collect()
    };
    assert!(sums(&world).is_empty());
    world.pass(secs(61).saturating_sub(world.now - start));
    assert_eq!(sums(&world), ["rate_limited=2 password=5"]);
    world.pass(secs(300));
    assert_eq!(sums(&world).len(), 1, "no news, no line");
    assert_eq!(prove(&mut world, ip, "open sesame"), RelayMessage::Waiting);
}

/// A killed sender sends nothing on QUIC.
#[test]
fn receiver_is_not_paired_with_dead_sender() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    world.clients[alice].cut = true;
    world.pass(secs(1));
    let (asked, bob) = (world.now, world.ask(join(ROOM, Role::Receiver, BOB)));
    let eve = world.ask(join(ROOM, Role::Receiver, EVE));
    world.until("answers", |world| !said(world, bob).is_empty() && !said(world, eve).is_empty());
    assert_eq!((said(&world, bob), said(&world, eve)), ([NOBODY].as_slice(), [NOBODY].as_slice()));
    assert!(world.now - asked < millis(2200), "{:?}", world.now - asked);
    assert!(!world.events.iter().any(|event| matches!(event, Event::RoomPaired { .. })));
    assert_eq!(closed_rooms(&world), [(0, RoomEnd::Lost)]);
    assert!(world.relay.checks.is_empty() && world.relay.joins.is_empty());
    // The room can be claimed again, and the same receivers join again.
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    world.pass(secs(1));
    world.say(bob, &[join(ROOM, Role::Receiver, BOB)]);
    world.until("paired", |world| world.clients[alice].streams.is_some() && world.clients[bob].streams.is_some());
}

#[test]
fn long_waiting_sender_is_probed_before_pairing() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    world.pass(secs(10));
    let bob = world.connect();
    world.say(bob, &[hello()]);
    world.until("hello", |world| !world.clients[bob].heard.is_empty());
    let asked = world.now;
    world.say(bob, &[join(ROOM, Role::Receiver, BOB)]);
    world.until("paired", |world| world.clients[alice].streams.is_some() && world.clients[bob].streams.is_some());
    // One round trip for the receiver that joins, and one for the sender that waits.
    assert!(world.now - asked <= LATENCY * 4 + millis(30), "{:?}", world.now - asked);
    assert!(world.relay.checks.is_empty());
}

#[test]
fn receiver_that_leaves_during_probe_is_not_paired() {
    let mut world = World::new();
    let alice = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("waiting", |world| said(world, alice) == [RelayMessage::Waiting]);
    world.pass(secs(1));
    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    world.until("asked", |world| !world.relay.checks.is_empty());
    world.close(bob, close::DONE);
    world.pass(secs(5));
    assert!(world.relay.checks.is_empty() && world.clients[alice].streams.is_none());
    let bob = world.ask(join(ROOM, Role::Receiver, BOB));
    world.until("paired", |world| world.clients[bob].streams.is_some());
}

#[test]
fn draining_relay_refuses_waiting_and_keeps_pairs_until_end() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let waits = world.ask(join(RoomId([8; 32]), Role::Sender, EVE));
    let silent = world.connect();
    world.say(silent, &[hello()]);
    world.until("waiting", |world| {
        world.clients[waits].heard.contains(&RelayMessage::Waiting) && !world.clients[silent].heard.is_empty()
    });
    world.command(Command::Drain { within: secs(20) });
    let start = world.now;
    assert_eq!(wait_closed(&mut world, waits), Some(close::SHUTTING_DOWN));
    assert_eq!(said(&world, waits), [RelayMessage::Waiting, refused(RefusalReason::ShuttingDown, 0)]);
    wait_closed(&mut world, silent);
    let late = world.ask(join(ROOM, Role::Sender, ALICE));
    world.until("refused", |world| world.clients[late].closed.is_some());
    assert_eq!(world.clients[late].closed, Some(Closed::Refused));

    let (a, b) = (world.clients[alice].main(), world.clients[bob].main());
    world.send(alice, a, pattern(100, 1));
    world.until("it goes on", |world| got(world, bob, b).len() == 100);
    assert!(!world.relay.is_closed());
    assert_eq!(wait_closed(&mut world, bob), Some(close::SHUTTING_DOWN));
    assert!(world.now - start >= secs(20) && world.now - start < secs(21));
    world.until("closed", |world| world.relay.is_closed());
    let [.., (100, RoomEnd::ShuttingDown)] = closed_rooms(&world)[..] else { panic!("{:?}", world.events) };
}

#[test]
fn relay_without_pairs_drains_at_once_and_stop_ends_all() {
    let mut world = World::new();
    world.command(Command::Drain { within: secs(20) });
    world.flush();
    assert!(world.relay.is_closed());

    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    world.relay.handle_input(world.now, Input::HandleDropped);
    world.flush();
    assert!(world.relay.is_closed());
    assert_eq!(wait_closed(&mut world, alice), Some(close::SHUTTING_DOWN));
    assert_eq!(wait_closed(&mut world, bob), Some(close::SHUTTING_DOWN));
}

fn listeners(listen: &[&str]) -> Relay {
    let listen = listen.iter().map(|addr| addr.parse().unwrap()).collect();
    Relay::new(Config { listen, ..config(Limits::default()) }).unwrap()
}

fn bind(id: u8, addr: &str) -> Option<Action> {
    Some(Action::Bind(
        SocketId(id),
        Bind { addr: addr.parse().unwrap(), dual_stack: true, share_port: false, group: None, slot: None },
    ))
}

fn listen(id: u8, addr: &str) -> Option<Action> {
    Some(Action::Listen(ListenerId(id), Listen::from(addr.parse::<SocketAddr>().unwrap())))
}

const IN_USE: io::ErrorKind = io::ErrorKind::AddrInUse;

#[test]
fn relay_falls_back_to_ipv4_and_ends_without_address() {
    let now = Instant::now();
    let mut relay = listeners(&["[::]:4433", "192.0.2.2:4434"]);
    assert_eq!(relay.poll_action(), bind(0, "[::]:4433"));
    assert_eq!(relay.poll_action(), bind(1, "192.0.2.2:4434"));
    assert!(!relay.is_closed());
    relay.handle_input(now, Input::Bound(SocketId(0), Err(io::ErrorKind::Unsupported)));
    assert_eq!(relay.poll_action(), bind(0, "0.0.0.0:4433"));
    relay.handle_input(now, Input::Bound(SocketId(1), Err(IN_USE)));
    let failed = |relay: &mut Relay, addr: &str| {
        let addr = addr.parse().unwrap();
        assert_eq!(relay.poll_event(), Some(Event::CannotListen { addr, transport: Transport::Udp, kind: IN_USE }));
    };
    failed(&mut relay, "192.0.2.2:4434");
    assert!(!relay.is_closed());
    relay.handle_input(now, Input::Bound(SocketId(0), Err(IN_USE)));
    failed(&mut relay, "0.0.0.0:4433");
    assert!(relay.is_closed() && relay.poll_action().is_none());
}

#[test]
fn address_is_open_once_udp_and_tcp_share_a_port() {
    let now = Instant::now();
    let mut relay = listeners(&["[::1]:0", "192.0.2.2:4434"]);
    assert_eq!((relay.poll_action(), relay.poll_action()), (bind(0, "[::1]:0"), bind(1, "192.0.2.2:4434")));
    let [chosen, other]: [SocketAddr; 2] = ["[::1]:5555", "[::1]:6666"].map(|addr| addr.parse().unwrap());
    relay.handle_input(now, Input::Bound(SocketId(0), Ok(chosen)));
    assert_eq!((relay.poll_action(), relay.poll_event()), (listen(0, "[::1]:5555"), None));
    // Another program has that TCP port, so the relay requests another one.
    relay.handle_input(now, Input::Listening(ListenerId(0), Err(IN_USE)));
    assert_eq!(relay.poll_action(), Some(Action::Release(SocketId(0))));
    assert_eq!((relay.poll_action(), relay.poll_event()), (bind(0, "[::1]:0"), None));
    relay.handle_input(now, Input::Bound(SocketId(0), Ok(other)));
    assert_eq!(relay.poll_action(), listen(0, "[::1]:6666"));
    relay.handle_input(now, Input::Listening(ListenerId(0), Ok(other)));
    assert_eq!(relay.poll_event(), Some(Event::Listening { addr: other }));

    // A port that the user configured is not replaced, and the UDP socket alone is not kept.
    let fixed = "192.0.2.2:4434".parse().unwrap();
    relay.handle_input(now, Input::Bound(SocketId(1), Ok(fixed)));
    assert_eq!(relay.poll_action(), listen(1, "192.0.2.2:4434"));
    relay.handle_input(now, Input::Listening(ListenerId(1), Err(IN_USE)));
    assert_eq!((relay.poll_action(), relay.poll_action()), (Some(Action::Release(SocketId(1))), None));
    let failed = Event::CannotListen { addr: fixed, transport: Transport::Tcp, kind: IN_USE };
    assert_eq!(relay.poll_event(), Some(failed));
    assert!(!relay.is_closed());
}

#[test]
fn automatic_port_choice_is_tried_eight_times() {
    let now = Instant::now();
    let mut relay = listeners(&["192.0.2.2:0"]);
    let mut tries = 0;
    while let Some(action) = relay.poll_action() {
        match action {
            Action::Bind(id, _) => {
                tries += 1;
                relay.handle_input(now, Input::Bound(id, Ok("192.0.2.2:5555".parse().unwrap())));
            }
            Action::Listen(id, _) => relay.handle_input(now, Input::Listening(id, Err(IN_USE))),
            action => assert_eq!(action, Action::Release(SocketId(0))),
        }
    }
    assert_eq!(tries, 8);
    assert!(matches!(relay.poll_event(), Some(Event::CannotListen { transport: Transport::Tcp, .. })));
    assert!(relay.is_closed());
}

#[test]
fn relay_status_is_reported_on_request() {
    let mut world = World::new();
    let (alice, bob) = world.pair(ROOM);
    let a = world.clients[alice].main();
    world.send(alice, a, pattern(1000, 1));
    world.pass(secs(1));
    let lonely = world.ask(join(ROOM, Role::Receiver, EVE));
    world.until("refused", |world| !said(world, lonely).is_empty());
    world.command(Command::Status);
    world.flush();
    let expected = Status { connections: 3, paired: 1, refused: 1, ..Status::default() };
    assert_eq!(world.events.last(), Some(&Event::Status(expected)));
    world.close(alice, close::DONE);
    wait_closed(&mut world, bob);
    world.command(Command::Status);
    world.flush();
    let Some(Event::Status(status)) = world.events.last() else { panic!() };
    assert_eq!((status.paired, status.bytes_forwarded), (0, 1000));
}

/// The work of one wake-up does not depend on the number of idle connections.
fn work_among(idle: usize) -> u64 {
    let mut world = World::new();
    for index in 0..idle {
        let mut room = [0; 32];
        room[..8].copy_from_slice(&index.to_be_bytes());
        // The timeout is so long that the connection stays idle.
        let quiet = Profile { keep_alive: None, idle_timeout: secs(100_000), ..Profile::peer() };
        let client = world.connect_as(quiet, SocketId(0));
        world.say(client, &[hello(), join(RoomId(room), Role::Sender, ALICE)]);
        if index % 50 == 0 {
            world.pass(millis(100));
        }
    }
    let (alice, bob) = world.pair(RoomId([200; 32]));
    world.pass(secs(40));
    assert_eq!(world.relay.guard.connections(), idle + 2);
    let before = world.relay.visits();
    let stream = world.open(alice);
    world.send(alice, stream, pattern(64 * KIB, 1));
    world.until("there", |world| world.clients[bob].got.values().map(Vec::len).sum::<usize>() == 64 * KIB);
    world.relay.visits() - before
}

#[test]
fn wake_up_work_is_constant_in_connections() {
    assert_eq!(work_among(10), work_among(1000));
}

#[test]
#[ignore = "10,000 handshakes take a minute"]
fn wake_up_work_is_equal_for_10_and_10_000_connections() {
    assert_eq!(work_among(10), work_among(10_000));
}
