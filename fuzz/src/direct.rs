//! A negotiation of a direct path with a peer that sends anything, on either side.
//!
//! Oracles: no panic; the number of actions in a round is bounded; nothing happens if p2p is off; the next deadline
//! is always in the future; the end of a round is reported once and settled once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tallow_proto::net::Interface;
use tallow_proto::p2p::candidate::{self, Candidate, CandidateTransport, Candidates, Kind};
use tallow_proto::p2p::negotiate::{Config, Negotiation, Output};
use tallow_proto::p2p::race::{MAX_LEARNED, PROBE, PROBES_AT};
use tallow_proto::seed::Seed;
use tallow_proto::wire;
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::Role;

use crate::steps::{step, steps};

/// A control message of the other side.
pub const CONTROL: u8 = 0;
/// Time passes: the first byte is the number of tenths of a second.
pub const TIME: u8 = 1;
/// A datagram from the address in the first six bytes; if the rest is empty, it contains this side's token.
pub const PROBED: u8 = 2;
/// The interface's address changes.
pub const MOVE: u8 = 3;
/// Candidates of this side, encoded as in a record.
pub const OWN: u8 = 4;
/// 0: the session has no link; 1: it has one again; 2: a link was selected; 3: the last one of a round is lost; 4:
/// gathering has finished; 5: a round has drained. The second byte is the round, or that of the path.
pub const LINK: u8 = 5;

/// Runs the steps on one side; returns how many rounds it began or joined.
///
/// # Panics
/// An oracle fails.
pub fn run(data: &[u8]) -> usize {
    let (&first, data) = data.split_first().unwrap_or((&0, &[]));
    let role = if first & 1 == 0 { Role::Sender } else { Role::Receiver };
    let config = Config { role, allowed: first & 2 == 0, certificate: [1; 32], seed: Seed::new([2; 32]), slot: None };
    let mut machine = Negotiation::new(config);
    let mut now = Instant::now();
    machine.handle_interfaces(now, &[interface(Ipv4Addr::new(192, 168, 1, 2))]);
    machine.start(now, true);
    let (mut rounds, mut dials, mut probes, mut token) = (0, 0, 0, [0; 16]);
    let (mut failed, mut over, mut settled) = (Vec::new(), Vec::new(), Vec::new());
    for (tag, body) in [(u8::MAX, &[][..])].into_iter().chain(steps(data)) {
        match tag {
            CONTROL => {
                if let Ok(message) = wire::decode::<Control>(body)
                    && machine.handle_control(now, &message).is_err()
                {
                    // The session has ended.
                    return rounds;
                }
            }
            TIME => {
                now += Duration::from_millis(u64::from(body.first().copied().unwrap_or(0)) * 100);
                machine.handle_timeout(now);
            }
            PROBED => {
                if let Some((&[a, b, c, d, high, low], rest)) = body.split_first_chunk::<6>() {
                    let from = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
                    let own = [&[12, b't', b'l', b'w'][..], &token].concat();
                    machine.handle_probe(now, from, if rest.is_empty() { &own } else { rest });
                }
            }
            MOVE => {
                if let Some(&ip) = body.first_chunk::<4>() {
                    machine.handle_interfaces(now, &[interface(ip.into())]);
                }
            }
            OWN => {
                if let Ok(own) = wire::decode::<Candidates>(body) {
                    machine.set_candidates(own.as_slice().to_vec());
                }
            }
            LINK => match body.first() {
                Some(0) => machine.stop(),
                Some(1) => machine.start(now, true),
                Some(2) => machine.choose(now),
                Some(3) => machine.handle_lost(now, of(body).or(machine.path()).unwrap_or(0)),
                Some(4) => machine.set_gathered(true, body.len() > 1),
                Some(5) => {
                    let drained = of(body).or(machine.draining().next());
                    machine.retire(now, drained.unwrap_or(0));
                }
                _ => {}
            },
            _ => {}
        }
        while let Some(output) = machine.poll_output() {
            assert!(!machine.is_off(), "p2p is off, and it wants {output:?}");
            match output {
                Output::Send(Control::CandidateOffer { token: said, .. }) => {
                    if said != token {
                        (rounds, dials, probes, token) = (rounds + 1, 0, 0, said);
                    }
                }
                Output::Send(Control::DirectFailed { round }) => {
                    assert!(!failed.contains(&round), "the end of round {round} is said again");
                    failed.push(round);
                }
                Output::Send(Control::CandidatesDone { .. } | Control::DirectConnected { .. }) => {}
                Output::Send(other) => panic!("it says {other:?}"),
                Output::Dial { transport, to, .. } => {
                    dials += 1;
                    assert!(
                        to.port() >= candidate::MIN_PORT
                            && (transport == CandidateTransport::Tcp || role == Role::Sender)
                    );
                }
                Output::Probe { datagram, .. } => {
                    probes += 1;
                    assert!(role == Role::Receiver && datagram.len() == PROBE);
                }
                Output::Over { round } => {
                    assert!(!over.contains(&round), "round {round} ends again");
                    over.push(round);
                }
                Output::Settled { round } => {
                    assert!(
                        over.contains(&round) && !settled.contains(&round),
                        "round {round} is settled too early, or again"
                    );
                    settled.push(round);
                }
                Output::Chosen { round } => assert_eq!(machine.path(), Some(round)),
                Output::NoPath => {}
            }
        }
        assert!(machine.draining().count() <= 8, "too many rounds that nobody ends");
        assert!(dials <= candidate::MAX + MAX_LEARNED && probes <= candidate::MAX * PROBES_AT.len());
        machine.handle_timeout(now);
        while machine.poll_output().is_some() {}
        assert!(machine.poll_timeout().is_none_or(|due| due > now));
    }
    rounds
}

/// The round of a step.
fn of(body: &[u8]) -> Option<u32> {
    body.get(1).map(|&round| round.into())
}

fn interface(ip: Ipv4Addr) -> Interface {
    Interface { name: "eth0".into(), addr: ip.into(), prefix: 24 }
}

/// Rounds that succeed, and rounds that fail.
#[must_use]
pub fn honest() -> Vec<(&'static str, Vec<u8>)> {
    let candidates = |addrs: &[&str]| {
        let candidate = |addr: &&str| Candidate {
            kind: Kind::Host,
            transport: if addr.starts_with("192.168") { CandidateTransport::Tcp } else { CandidateTransport::Udp },
            addr: addr.parse().expect("an address"),
        };
        Candidates::truncated(addrs.iter().map(candidate).collect())
    };
    let say = |message: &Control| step(CONTROL, &wire::encode(message));
    let offer = |round| {
        say(&Control::CandidateOffer {
            round,
            candidates: candidates(&["198.51.100.7:4000", "192.168.1.9:5000", "[2001:db8::1]:4000"]),
            certificate: [3; 32],
            token: [4; 16],
            dependent: false,
        })
    };
    let own = step(OWN, &wire::encode(&candidates(&["198.51.100.8:4000", "192.168.1.2:5000"])));
    let lost = [step(LINK, &[3]), say(&Control::DirectFailed { round: 1 }), step(TIME, &[30])].concat();
    let probed = step(PROBED, &[198, 51, 100, 9, 16, 0]);
    let gathered = step(LINK, &[4]);
    vec![
        ("sender", [&[0][..], &own, &gathered, &offer(1), &probed, &step(LINK, &[2]), &lost, &offer(2)].concat()),
        ("receiver", {
            let connected = say(&Control::DirectConnected { round: 1 });
            [&[1][..], &own, &offer(1), &step(TIME, &[20]), &connected, &lost, &offer(2)].concat()
        }),
        ("nothing", [&[0][..], &offer(1), &step(TIME, &[101]), &say(&Control::DirectFailed { round: 1 })].concat()),
        (
            "moves",
            [&[1][..], &step(TIME, &[101]), &step(MOVE, &[10, 0, 0, 2]), &step(LINK, &[0]), &step(LINK, &[1])].concat(),
        ),
        ("better", {
            let choose = step(LINK, &[2]);
            [
                &[0][..],
                &own,
                &offer(1),
                &choose,
                &step(MOVE, &[10, 0, 0, 2]),
                &offer(2),
                &choose,
                &step(LINK, &[5, 1]),
                &say(&Control::DirectFailed { round: 1 }),
            ]
            .concat()
        }),
        ("off", [&[2][..], &own, &gathered, &step(MOVE, &[10, 0, 0, 2]), &offer(1)].concat()),
    ]
}
