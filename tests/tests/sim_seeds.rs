//! Values that must not be predictable depend on the peer's seed only: probe tokens, the transaction ids of STUN, the
//! session ids of CPace. The same seed gives the same values, another seed gives others, and no value is repeated.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::code::Code;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::p2p::stun;
use tallow_proto::peer::{DirectPath, Peer, RelayAddress};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;
use tallow_proto::wire::peer::{Control, HandshakeMessage};
use tallow_proto::wire::relay::Role;
use tallow_proto::wire::{BoundedVec, decode};
use tallow_tests::sim::{
    CODE, Fate, Machine, MaliciousPeer, Network, Observed, Passing, Place, Policy, RELAY, Received, Relay, Scenario,
    Script, World, identity, receive_config, send_config,
};

const ROUNDS: u32 = 20;
const EAR: [u8; 4] = [198, 51, 100, 2];
const PORTS: [u16; 3] = [3478, 3479, 3480];

/// The values, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Drawn {
    tokens: Vec<Vec<u8>>,
    transactions: Vec<Vec<u8>>,
    sessions: Vec<Vec<u8>>,
}

type Shared = Arc<Mutex<Drawn>>;

/// Records STUN requests and does not answer.
struct StunRecorder(VecDeque<Action>, Shared);

impl Node for StunRecorder {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, _: Instant, _: Arrival, data: BytesMut) {
        let Ok(stun::Message::Request { id, .. }) = stun::decode(&data) else { return };
        let heard = &mut self.1.lock().unwrap().transactions;
        // A question is repeated as it was.
        if !heard.contains(&id.0.to_vec()) {
            heard.push(id.0.to_vec());
        }
    }

    fn handle_input(&mut self, _: Instant, _: Input) {}

    fn handle_command(&mut self, _: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn settle(&mut self, _: Instant) {}

    fn poll_action(&mut self) -> Option<Action> {
        self.0.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, _: SocketId, _: NonZeroUsize, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Observed> {
        None
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Begins one round after another, 10 s each, and keeps the tokens of the other side.
fn curious(drawn: Shared) -> Script {
    Box::new(move |heard, output| {
        let Received::Control(Control::CandidateOffer { round, token, .. }) = heard else { return };
        let tokens = &mut drawn.lock().unwrap().tokens;
        if tokens.len() >= round as usize {
            // A further offer in the same round.
            return assert_eq!(tokens.last().unwrap()[..], token, "round {round}");
        }
        tokens.push(token.to_vec());
        let mut offer = |round| {
            let (certificate, token) = ([7; 32], [8; 16]);
            let candidates = BoundedVec::default();
            output.say(Control::CandidateOffer { round, candidates, certificate, token, dependent: false });
            output.pause(Duration::from_secs(10));
            output.say(Control::DirectFailed { round });
        };
        if round == 1 {
            offer(1);
        }
        if round < ROUNDS {
            offer(round + 1);
        }
    })
}

fn drawn(role: Role, seed: u64) -> Drawn {
    let shared = Shared::default();
    let scenario = Scenario { place: Place::ScriptedRelay, ..Scenario::plain(1, 1000) };
    let of_world = Seed::new(scenario.seed);
    let mut world = World::new(Network::new(scenario.network, &of_world), &of_world);
    let seen = shared.clone();
    let tamper = Box::new(move |passing: Passing, frame: &bytes::Bytes| {
        if passing.role == role
            && let Ok(HandshakeMessage::H1 { sid, .. }) = decode(&frame[4..])
        {
            seen.lock().unwrap().sessions.push(sid.to_vec());
        }
        Fate::Pass
    });
    let relay = Relay::new(RELAY.port(), Policy::Proper, tamper, of_world.derive("relay"));
    world.add(RELAY.ip(), Machine::Other(relay));
    let bind = |(socket, port)| {
        Action::Bind(
            SocketId(socket),
            Bind { addr: ([0, 0, 0, 0], port).into(), dual_stack: true, share_port: false, group: None, slot: None },
        )
    };
    let ear = StunRecorder((0..).zip(PORTS).map(bind).collect(), shared.clone());
    world.add(EAR.into(), Machine::Other(Box::new(ear)));
    let stun = PORTS.map(|port| RelayAddress { host: std::net::IpAddr::from(EAR).to_string(), port }).to_vec();
    let mut direct = DirectPath::new(identity());
    (direct.map_ports, direct.stun) = (false, stun);
    let direct = Some(direct);
    let other = if role == Role::Sender { Role::Receiver } else { Role::Sender };
    let script = curious(shared.clone());
    let malicious = MaliciousPeer::new(other, Code::parse(CODE).unwrap(), RELAY, script, of_world.derive("hostile"));
    let (now, seed) = (world.now, Seed::new(of_world.derive(&format!("peer {seed}")).bytes().to_owned()));
    let peer = match role {
        Role::Sender => {
            let mut config = send_config(&scenario);
            config.common.direct = direct;
            Peer::sender(config, now, seed)
        }
        Role::Receiver => {
            let mut config = receive_config(&scenario);
            config.common.direct = direct;
            Peer::receiver(config, now, seed)
        }
    };
    world.add([192, 0, 2, 66].into(), Machine::Other(malicious));
    world.add([203, 0, 113, 9].into(), Machine::Peer(Box::new(peer)));
    world.run_until(Duration::from_secs(280), |_| false);
    Arc::try_unwrap(shared).map_or_else(|shared| shared.lock().unwrap().clone(), |drawn| drawn.into_inner().unwrap())
}

#[test]
fn tokens_transactions_and_sessions_derive_from_seed() {
    for role in [Role::Sender, Role::Receiver] {
        let runs = [1, 1, 2, 3].map(|seed| drawn(role, seed));
        assert_eq!(runs[0], runs[1], "{role:?}: the same seed");
        let of = |kind: fn(&Drawn) -> &Vec<Vec<u8>>, each: usize| {
            let mut all: Vec<_> = runs[1..].iter().flat_map(kind).collect();
            let count = all.len();
            assert!(runs[1..].iter().all(|run| kind(run).len() >= each), "{role:?}: {count} are few");
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count, "{role:?}: one came twice");
        };
        of(|drawn| &drawn.tokens, ROUNDS as usize);
        of(|drawn| &drawn.transactions, PORTS.len());
        of(|drawn| &drawn.sessions, usize::from(role == Role::Sender));
    }
}
