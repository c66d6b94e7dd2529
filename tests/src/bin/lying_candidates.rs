//! A peer that has the code and sends false addresses, over real sockets: the network laboratory counts the packets
//! that it makes the real program send (rows K).
//!
//! ```sh
//! lying_candidates send|receive CODE RELAY FILE MILLISECONDS [early|first]
//! ```
//! Each line of FILE is a candidate, such as `host udp 127.0.0.1:5000`; an empty line ends a round. A round takes
//! MILLISECONDS, then the peer gives it up and begins the next one. `early`: the messages of the first round are sent
//! before the handshake, unsealed. `first`: the peer does not wait until the other side begins. The events are
//! written to standard output.

use std::net::SocketAddr;
use std::time::Duration;

use tallow_proto::code::Code;
use tallow_proto::p2p::candidate::{Candidate, CandidateTransport, Kind, MAX};
use tallow_proto::wire::BoundedVec;
use tallow_proto::wire::encode;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{MaliciousPeer, Observed, Received, Script, ScriptOutput};

fn candidate(line: &str) -> Candidate {
    let [kind, transport, addr] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("no candidate: {line}") };
    let kind = match kind {
        "host" => Kind::Host,
        "reflexive" => Kind::Reflexive,
        "mapped" => Kind::Mapped,
        _ => panic!("no kind: {kind}"),
    };
    let transport = match transport {
        "udp" => CandidateTransport::Udp,
        "tcp" => CandidateTransport::Tcp,
        _ => panic!("no transport: {transport}"),
    };
    Candidate { kind, transport, addr: addr.parse().expect("an address") }
}

/// The offers of a round; at most [`MAX`] candidates are in one.
fn offers(round: u32, candidates: &[Candidate]) -> impl Iterator<Item = Control> {
    candidates.chunks(MAX).map(move |some| Control::CandidateOffer {
        round,
        candidates: BoundedVec::truncated(some.to_vec()),
        certificate: [7; 32],
        token: [8; 16],
        dependent: false,
    })
}

fn say(output: &mut ScriptOutput, rounds: &[Vec<Candidate>], time: Duration) {
    for (round, candidates) in (1..).zip(rounds) {
        offers(round, candidates).for_each(|offer| output.say(offer));
        output.say(Control::CandidatesDone { round });
        output.pause(time);
        output.say(Control::DirectFailed { round });
    }
}

fn lying(rounds: Vec<Vec<Candidate>>, time: Duration, manner: &str) -> Script {
    let (early, first) = (manner == "early", manner == "first");
    let mut said = false;
    Box::new(move |heard, output| match heard {
        Received::Paired if early => {
            for offer in offers(1, &rounds[0]) {
                output.raw(enclose(&encode(&offer)));
            }
        }
        Received::Control(Control::CandidateOffer { .. }) if !said => {
            said = true;
            say(output, &rounds, time);
        }
        Received::Control(Control::DirectFailed { round }) if usize::try_from(round) == Ok(rounds.len()) => {
            println!(r#"{{"event":"over"}}"#);
        }
        Received::Keyed => {
            println!(r#"{{"event":"keyed"}}"#);
            if first {
                said = true;
                say(output, &rounds, time);
            }
        }
        Received::Paired | Received::Control(_) | Received::Chunk(_) => {}
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (role, code, relay, file, time, manner) = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [role, code, relay, file, time] => (*role, *code, *relay, *file, *time, ""),
        [role, code, relay, file, time, manner] => (*role, *code, *relay, *file, *time, *manner),
        _ => panic!("lying_candidates send|receive CODE RELAY FILE MILLISECONDS [early|first]"),
    };
    let role = match role {
        "send" => Role::Sender,
        "receive" => Role::Receiver,
        _ => panic!("send or receive"),
    };
    let relay: SocketAddr = relay.parse().expect("an address");
    let time = Duration::from_millis(time.parse().expect("milliseconds"));
    let lines = std::fs::read_to_string(file).expect("a file of candidates");
    let rounds = lines.split("\n\n").map(|round| round.lines().map(candidate).collect()).collect();
    let code = Code::parse(code).expect("a code");
    let liar = *MaliciousPeer::new(role, code, relay, lying(rounds, time, manner), tallow_runtime::seed());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut liar = tallow_tokio::spawn(liar);
        while let Some(event) = liar.next_event().await {
            if let Observed::Text(text) = event {
                println!(r#"{{"event":"failed","message":"{text}"}}"#);
            }
        }
    });
}
