#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use proptest::prelude::*;

use super::*;
use crate::wire::Versions;
use crate::wire::relay::Former;
use crate::wire::relay_auth::prove;

const OWNER: Owner = Owner([7; 16]);

fn observed() -> SocketAddr {
    "[2001:db8::1]:5000".parse().unwrap()
}

struct Client {
    now: Instant,
    greeting: Greeting,
}

impl Client {
    fn new(password: Option<&str>) -> Self {
        let now = Instant::now();
        let greeting = Greeting::new(now, observed(), password.map(Arc::from), &Seed::new([3; 32]));
        Self { now, greeting }
    }

    fn say(&mut self, message: &ClientMessage) -> Vec<Output> {
        self.greeting.handle_frame(&wire::encode(message));
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        let outputs: Vec<_> = std::iter::from_fn(|| self.greeting.poll_output()).collect();
        assert!(outputs.len() <= MAX_OUTPUTS);
        outputs
    }

    fn greet(&mut self) -> RelayMessage {
        let outputs = self.say(&ClientMessage::Hello(Hello::new(Features::default())));
        let [Output::Send(body)] = outputs.as_slice() else { panic!("{outputs:?}") };
        wire::decode(body).unwrap()
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.greeting.handle_timeout(self.now);
        self.outputs()
    }
}

const fn join() -> ClientMessage {
    ClientMessage::Join { room: RoomId([1; 32]), role: Role::Receiver, owner: OWNER, again: false }
}

fn refused(outputs: &[Output]) -> RefusalReason {
    let [.., Output::Send(body), Output::Close(Ending::Refused(reason))] = outputs else { panic!("{outputs:?}") };
    assert_eq!(wire::decode(body), Ok(RelayMessage::Refused { reason: *reason, retry_after: 0 }));
    *reason
}

#[test]
fn client_gets_its_address_and_may_send_requests() {
    let mut client = Client::new(None);
    let hello = Hello::new(Features::default());
    assert_eq!(client.greet(), RelayMessage::Hello { hello, observed: observed(), nonce: [0; 16] });
    assert_eq!(client.say(&ClientMessage::Ping), [Output::Request(Request::Ping)]);
    let request =
        Request::Join { room: RoomId([1; 32]), role: Role::Receiver, owner: OWNER, again: false, former: None };
    assert_eq!(client.say(&join()), [Output::Request(request)]);
    client.greeting.answered(client.now);
    let former = Former { room: RoomId([2; 32]), owner: Owner([5; 16]) };
    let (room, role) = (RoomId([1; 32]), Role::Receiver);
    let request = Request::Join { room, role, owner: OWNER, again: true, former: Some(former) };
    assert_eq!(
        client.say(&ClientMessage::Rejoin { room, role, owner: OWNER, former }),
        [Output::Request(request)],
        "a reconnect room always"
    );
    client.greeting.answered(client.now);
    let allocate = ClientMessage::Allocate { owner: OWNER };
    assert_eq!(client.say(&allocate), [Output::Request(Request::Allocate { owner: OWNER })]);
    client.greeting.seated();
    assert_eq!(client.say(&ClientMessage::Ping), [Output::Request(Request::Ping)]);
    assert_eq!(client.say(&ClientMessage::Leave), [Output::Request(Request::Leave)]);
    assert_eq!(client.say(&ClientMessage::Ping), [], "it left");
}

#[test]
fn a_password_must_be_proven_and_is_not_sent() {
    let mut client = Client::new(Some("tallow"));
    let RelayMessage::Hello { nonce, .. } = client.greet() else { panic!() };
    assert_ne!(nonce, [0; 16]);
    let mac = prove("tallow", &nonce);
    assert_eq!(client.say(&ClientMessage::Prove { mac }), []);
    assert_eq!(client.say(&join()).len(), 1);

    for wrong in [ClientMessage::Prove { mac: prove("Tallow", &nonce) }, ClientMessage::Prove { mac: [0; 32] }, join()]
    {
        let mut client = Client::new(Some("tallow"));
        client.greet();
        assert_eq!(refused(&client.say(&wrong)), RefusalReason::Password);
        assert_eq!(client.say(&ClientMessage::Prove { mac }), [], "a client may try once");
        assert_eq!(client.greeting.poll_timeout(), None);
    }
    let other = Greeting::new(client.now, observed(), Some("tallow".into()), &Seed::new([4; 32]));
    let State::Hello { nonce: other, .. } = other.state else { panic!() };
    assert_ne!(nonce, other);
}

#[test]
fn unsupported_version_is_answered_with_own_versions() {
    let mut client = Client::new(None);
    let hello = Hello { versions: Versions { min: 7, max: 9 }, ..Hello::new(Features::default()) };
    assert_eq!(refused(&client.say(&ClientMessage::Hello(hello))), RefusalReason::UnsupportedVersion(SPOKEN));
}

#[test]
fn unexpected_or_malformed_message_ends_greeting() {
    let broken = |outputs: Vec<Output>, violation| {
        assert_eq!(outputs, [Output::Close(Ending::Violation(violation))]);
    };
    let mut client = Client::new(None);
    let hello = Hello { magic: *b"http", ..Hello::new(Features::default()) };
    broken(client.say(&ClientMessage::Hello(hello)), Violation::Malformed);
    assert_eq!(client.say(&join()), []);

    for first in [join(), ClientMessage::Ping, ClientMessage::Leave, ClientMessage::Prove { mac: [0; 32] }] {
        broken(Client::new(None).say(&first), Violation::UnexpectedMessage);
    }
    for second in [ClientMessage::Hello(Hello::new(Features::default())), ClientMessage::Prove { mac: [0; 32] }] {
        let mut client = Client::new(None);
        client.greet();
        broken(client.say(&second), Violation::UnexpectedMessage);
    }
    for settle in [false, true] {
        let mut client = Client::new(None);
        client.greet();
        client.say(&join());
        if settle {
            client.greeting.seated();
        }
        broken(client.say(&join()), Violation::UnexpectedMessage);
    }
}

#[test]
fn greeting_deadline_is_not_extended_by_messages() {
    let mut client = Client::new(None);
    assert_eq!(client.pass(Duration::from_secs(6)), []);
    client.greet();
    client.say(&ClientMessage::Ping);
    assert_eq!(client.pass(GREET_WITHIN - Duration::from_millis(6001)), []);
    assert_eq!(client.pass(Duration::from_millis(1)), [Output::Close(Ending::TooSlow)]);
    assert_eq!(client.pass(GREET_WITHIN), []);
    assert_eq!(client.say(&join()), []);
}

#[test]
fn answer_extends_deadline_and_seat_removes_it() {
    let mut client = Client::new(None);
    client.greet();
    client.pass(Duration::from_secs(9));
    client.say(&join());
    client.greeting.answered(client.now);
    assert_eq!(client.pass(Duration::from_secs(9)), []);
    client.say(&join());
    client.greeting.seated();
    assert_eq!(client.pass(Duration::from_secs(3600)), []);
    assert_eq!(client.greeting.poll_timeout(), None);
}

#[test]
fn pings_sent_during_pairing_do_not_reach_peer() {
    let ping = enclose(&wire::encode(&ClientMessage::Ping));
    assert_eq!(ping, enclose(PING));
    let h1 = enclose(&[9; 300]);
    for pings in 0..3 {
        let whole: Vec<u8> = ping.repeat(pings).into_iter().chain(h1.iter().copied()).collect();
        for piece in [1, 2, 3, 7, 1000] {
            let (mut crossing, mut got) = (Crossing::default(), Vec::new());
            for bytes in whole.chunks(piece) {
                got.extend(crossing.handle_bytes(Bytes::copy_from_slice(bytes)));
            }
            assert_eq!(got.concat(), h1);
            assert!(crossing.is_over());
        }
    }
    let mut crossing = Crossing::default();
    assert_eq!(crossing.handle_bytes(ping.slice(..3)), None);
    assert_eq!(crossing.into_rest(), ping.slice(..3));
}

proptest! {
    /// P02's class: the greeting answers any input without a panic, and answers nothing after a close.
    #[test]
    fn greeting_survives_any_frames(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
        greeted: bool,
    ) {
        let mut client = Client::new(None);
        if greeted {
            client.greet();
        }
        let mut closed = false;
        for body in bodies {
            client.greeting.handle_frame(&body);
            let outputs = client.outputs();
            prop_assert!(!closed || outputs.is_empty());
            closed |= outputs.iter().any(|output| matches!(output, Output::Close(_) | Output::Request(Request::Leave)));
        }
    }
}
