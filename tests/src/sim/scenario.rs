//! The scenario of a run: the files, the peers, the network, and the faults with their times.
//!
//! A [`Scenario`] is read from bytes, any bytes: proptest makes and shrinks them (zeros are the simplest scenario),
//! libFuzzer makes them, and a seed is 32 of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tallow_proto::code::Code;
use tallow_proto::link::trust::Identity;
use tallow_proto::peer::{
    self, Class, Command, Common, Embedded, Event, Failure, Peer, ReceiveConfig, RelayAddress, RelayChoice, SendConfig,
    Summary,
};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::Compression;
use tallow_proto::transfer::memory::{MemorySink, MemorySource};
use tallow_proto::transfer::path::RelPath;
use tallow_proto::transfer::storage::FaultKind;
use tallow_proto::wire::peer::DeclineReason;

use tallow_proto::room;

use super::disk::CheckedSink;
use super::host::{HostId, Machine};
use super::malicious_relay::{Policy, Relay, Tamper, honest};
use super::network::{Chance, Conditions, Network};
use super::topology::{Attachment, PUBLIC};
use super::world::World;

/// The relay at which the two peers connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the relay inside the sender.
    Inside,
    /// At a relay that runs a script, which may be malicious.
    ScriptedRelay,
    /// At the real relay.
    Relay,
}

/// A fault, at a time after the receiver accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    None,
    /// The user of the sender interrupts.
    CancelSender(Duration),
    /// The user of the receiver interrupts.
    CancelReceiver(Duration),
    /// The offer is declined.
    Decline,
    /// The sender's machine crashes.
    CrashSender(Duration),
    /// The receiver's machine crashes.
    CrashReceiver(Duration),
    /// The relay crashes, if there is one.
    CrashRelay(Duration),
    /// Nothing gets through for a while: from when, and for how long.
    Partition(Duration, Duration),
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed of the world and of the nodes.
    pub seed: [u8; 32],
    /// Sizes of the files.
    pub files: Vec<usize>,
    /// Files that can't be read any more once they were read so often: their numbers, and how often.
    pub failing: Vec<(u32, u32)>,
    /// Entries that the receiver does not want.
    pub skipped: Vec<u32>,
    /// The network, the same everywhere.
    pub network: Conditions,
    /// Jobs take up to this long.
    pub job_time: Duration,
    /// The relay of the peers.
    pub place: Place,
    /// The fault.
    pub act: Act,
    /// Whether chunks are compressed.
    pub compress: bool,
    /// Whether either side lacks AES.
    pub aes: bool,
    /// How long both keep trying while the peer or the network is unreachable.
    pub give_up_after: Option<Duration>,
}

/// The limit of the scenarios: long enough for every temporary fault.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

impl Scenario {
    /// A good network, one file, no faults.
    #[must_use]
    pub fn plain(seed: u64, bytes: usize) -> Self {
        let mut own = [0; 32];
        own[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            seed: own,
            files: vec![bytes],
            failing: Vec::new(),
            skipped: Vec::new(),
            network: Conditions::default(),
            job_time: Duration::from_millis(5),
            place: Place::Relay,
            act: Act::None,
            compress: false,
            aes: true,
            give_up_after: Some(GIVE_UP_AFTER),
        }
    }

    /// Decodes a scenario; missing bytes are 0.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut rest = bytes.iter().copied();
        let mut byte = || rest.next().unwrap_or(0);
        let at = Duration::from_millis(u64::from(byte()) * 8);
        let act = match byte() % 16 {
            0..=7 => Act::None,
            8 => Act::CancelSender(at),
            9 => Act::CancelReceiver(at),
            10 => Act::Decline,
            11 => Act::CrashSender(at),
            12 => Act::CrashReceiver(at),
            13 => Act::CrashRelay(at),
            _ => Act::Partition(at, Duration::from_millis(u64::from(byte()) * 16)),
        };
        let network = Conditions {
            latency: Duration::from_millis(1 + u64::from(byte()) / 2),
            jitter: Duration::from_micros(u64::from(byte()) * 200),
            loss: if byte() % 2 == 1 { u32::from(byte()) * 200 } else { 0 },
            duplicate: if byte() % 2 == 1 { u32::from(byte()) * 400 } else { 0 },
            rate: if byte() % 4 == 1 { 50_000 + u64::from(byte()) * 4_000 } else { 0 },
            queue: Duration::from_millis(200),
            // QUIC needs 1,200 bytes (RFC 9000, section 14).
            mtu: 1452 - usize::from(byte().min(252)),
            cut: false,
        };
        let files: Vec<usize> = (0..=byte() % 4).map(|_| usize::from(byte()) * usize::from(byte()) * 4).collect();
        let job_time = Duration::from_micros(100 + u64::from(byte()) * 200);
        let place = match byte() % 3 {
            0 => Place::Relay,
            1 => Place::Inside,
            _ => Place::ScriptedRelay,
        };
        let (compress, aes) = (byte() % 2 == 1, byte() % 2 == 0);
        let mut seed = [0; 32];
        seed.fill_with(&mut byte);
        let failing = if byte() % 4 == 1 { vec![(u32::from(byte() % 4), u32::from(byte() % 8))] } else { Vec::new() };
        let skipped = if byte() % 4 == 1 { vec![u32::from(byte()) % files.len() as u32] } else { Vec::new() };
        let give_up_after = Some(GIVE_UP_AFTER);
        Self { seed, files, failing, skipped, network, job_time, place, act, compress, aes, give_up_after }
    }

    /// Any scenario, by number.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let mut bytes = [0; 72];
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        let mut chance = Chance::new(&Seed::new(seed).derive("scenario"));
        bytes.fill_with(|| (chance.draw() >> 32) as u8);
        Self::from_bytes(&bytes)
    }

    /// The files.
    #[must_use]
    pub fn source(&self) -> Arc<MemorySource> {
        let source = self.files.iter().enumerate().fold(MemorySource::new(), |source, (index, &bytes)| {
            let path = RelPath::parse(&format!("files/{index}.bin")).expect("a good name");
            source.with_file(path, noise(bytes, index as u64 + 1))
        });
        let fail = |source: MemorySource, &(index, reads): &(u32, u32)| {
            source.with_fault_after(reads, index, FaultKind::Vanished)
        };
        Arc::new(self.failing.iter().fold(source, fail))
    }

    /// Runs it to its end and checks everything that must hold.
    ///
    /// # Panics
    /// A check failed.
    #[must_use]
    pub fn run(&self) -> Report {
        let mut rig = Rig::new(self, Policy::Proper, honest());
        rig.play(self.act);
        let report = rig.report();
        report.judge(self, &rig);
        report
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The sender's terminal event; `None`: it crashed.
    pub sent: Option<Event>,
    /// The terminal event of the receiver.
    pub received: Option<Event>,
    /// Virtual time.
    pub took: Duration,
    /// See [`World::trace`].
    pub trace: u64,
}

impl Report {
    /// The class of the sender's failure.
    #[must_use]
    pub fn sent_class(&self) -> Option<Class> {
        class(self.sent.as_ref())
    }

    /// The class of the receiver's failure.
    #[must_use]
    pub fn received_class(&self) -> Option<Class> {
        class(self.received.as_ref())
    }

    /// Whether both sides report success.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!((&self.sent, &self.received), (Some(Event::Done(_)), Some(Event::Done(_))))
    }

    fn judge(&self, scenario: &Scenario, rig: &Rig) {
        let is_done = |end: &Option<Event>| matches!(end, Some(Event::Done(_)));
        let both = (is_done(&self.sent), is_done(&self.received));
        if both.0 || both.1 {
            rig.sink.check_whole();
        }
        if let (Some(Event::Done(sent)), Some(Event::Done(received))) = (&self.sent, &self.received) {
            let named = |summary: &Summary| {
                let mut files: Vec<u32> = summary.differences.failed.entries.iter().map(|entry| entry.index).collect();
                files.sort_unstable();
                files
            };
            assert_eq!(named(sent), named(received), "{scenario:#?}");
            assert_eq!(named(received), rig.sink.left_out(), "{scenario:#?}");
        }
        let classes = (self.sent_class(), self.received_class());
        // A file alone, or one that fails once the end was said, is the whole transfer.
        if !scenario.failing.is_empty() && classes.0 == Some(Class::Io) {
            assert!(
                matches!(classes.1, Some(Class::Peer | Class::Interrupted | Class::Net)) || self.received.is_none()
            );
            return;
        }
        let right = match scenario.act {
            Act::None => both == (true, true),
            Act::Decline => classes == (Some(Class::Refused), Some(Class::Refused)),
            Act::CancelSender(_) => {
                both == (true, true) || classes == (Some(Class::Interrupted), Some(Class::Peer)) || {
                    // It finished while the interruption was on its way, or the last word was lost on a bad line.
                    classes.0 == Some(Class::Interrupted) && (both.1 || classes.1 == Some(Class::Net))
                }
            }
            Act::CancelReceiver(_) => {
                both == (true, true) || classes == (Some(Class::Peer), Some(Class::Interrupted)) || {
                    classes.1 == Some(Class::Interrupted) && matches!(classes.0, Some(Class::Net))
                }
            }
            Act::CrashSender(_) => {
                self.sent.is_none() && (both.1 || classes.1 == Some(Class::Net)) || both == (true, true)
            }
            Act::CrashReceiver(_) => {
                self.received.is_none() && (both.0 || classes.0 == Some(Class::Net)) || both == (true, true)
            }
            Act::CrashRelay(_) if scenario.place == Place::Inside => both == (true, true),
            Act::CrashRelay(_) => {
                let net = |done: bool, class: Option<Class>| done || class == Some(Class::Net);
                net(both.0, classes.0) && net(both.1, classes.1)
            }
            Act::Partition(..) => both == (true, true),
        };
        assert!(right, "{:#?} of {scenario:#?}", (&self.sent, &self.received));
    }
}

fn class(end: Option<&Event>) -> Option<Class> {
    match end {
        Some(Event::Failed(failure)) => Some(Failure::class(failure)),
        _ => None,
    }
}

/// A sender and a receiver in a world, with a relay of theirs unless the sender has one inside.
pub struct Rig {
    /// The world.
    pub world: World,
    /// The peers.
    pub sender: HostId,
    /// The peers.
    pub receiver: HostId,
    /// The relay.
    pub relay: Option<HostId>,
    /// The sink of the receiver.
    pub sink: Arc<CheckedSink>,
    scenario: Scenario,
}

/// The address at which the relay listens.
pub const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)), 4433);
const SENDER: [u8; 4] = [192, 0, 2, 1];
const RECEIVER: [u8; 4] = [203, 0, 113, 1];
/// The code of all scenarios.
pub const CODE: &str = "7-acorn-bicycle-canal";
const WORDS: &str = "acorn-bicycle-canal";

impl Rig {
    /// Starts all hosts.
    #[must_use]
    pub fn new(scenario: &Scenario, policy: Policy, tamper: Tamper) -> Self {
        Self::with(scenario, policy, tamper, |_, _| {})
    }

    /// Starts all hosts with other configurations.
    #[must_use]
    pub fn with(
        scenario: &Scenario,
        policy: Policy,
        tamper: Tamper,
        change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig),
    ) -> Self {
        let public = |_: &mut World| [SENDER, RECEIVER].map(|ip| vec![Attachment::new(PUBLIC, ip.into())]);
        Self::build(scenario, (policy, tamper), change, public)
    }

    /// Starts all hosts with an honest relay; `place` puts the peers into the network, the sender first.
    #[must_use]
    pub fn placed(
        scenario: &Scenario,
        change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig),
        place: impl FnOnce(&mut World) -> [Vec<Attachment>; 2],
    ) -> Self {
        Self::build(scenario, (Policy::Proper, honest()), change, place)
    }

    fn build(
        scenario: &Scenario,
        (policy, tamper): (Policy, Tamper),
        change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig),
        place: impl FnOnce(&mut World) -> [Vec<Attachment>; 2],
    ) -> Self {
        let seed = Seed::new(scenario.seed);
        let mut world = World::new(Network::new(scenario.network, &seed), &seed);
        world.job_time = scenario.job_time;
        world.keep_secret(WORDS);
        let relay = match scenario.place {
            Place::Inside => None,
            Place::ScriptedRelay => {
                Some(Machine::Other(Relay::new(RELAY.port(), policy, tamper, seed.derive("relay"))))
            }
            Place::Relay => Some(Machine::Relay(Box::new(real_relay(RELAY.port(), seed.derive("relay"))))),
        };
        let relay = relay.map(|relay| world.add(RELAY.ip(), relay));
        let (mut send, mut receive) = (send_config(scenario), receive_config(scenario));
        change(&mut send, &mut receive);
        let now = world.now;
        let [sends, receives] = place(&mut world);
        let sender = world.add_at(sends, Machine::Peer(Box::new(Peer::sender(send, now, seed.derive("sender")))));
        let receiver = Peer::receiver(receive, now, seed.derive("receiver"));
        let receiver = world.add_at(receives, Machine::Peer(Box::new(receiver)));
        let sink =
            CheckedSink::new(MemorySink::new().with_skipped(scenario.skipped.iter().copied()), Some(scenario.source()));
        world.watch(sink.clone());
        Self { world, sender, receiver, relay, sink, scenario: scenario.clone() }
    }

    /// Runs until both peers are closed: answers the offer and injects the fault.
    ///
    /// # Panics
    /// The run does not end within an hour of virtual time.
    pub fn play(&mut self, act: Act) {
        let limit = Duration::from_secs(3600);
        let (sender, receiver) = (self.sender, self.receiver);
        let offered = |world: &mut World| {
            world.end(receiver).is_some()
                || world.end(sender).is_some()
                || world.said(receiver).any(|event| matches!(event, Event::Offer(_)))
        };
        assert!(self.world.run_until(limit, offered), "no offer: {}", self.told());
        if self.world.end(receiver).is_none() && self.world.end(sender).is_none() {
            let answer = match act {
                Act::Decline => Command::Decline(DeclineReason::Person, "no".to_owned()),
                _ => Command::Accept(self.sink.clone()),
            };
            self.world.command(receiver, answer);
        }
        let wait = |rig: &mut Self, time| {
            rig.world.run_until(time, |world| world.is_closed(sender) && world.is_closed(receiver));
        };
        match act {
            Act::None | Act::Decline => {}
            Act::CancelSender(at) => {
                wait(self, at);
                self.world.command(sender, Command::Cancel);
            }
            Act::CancelReceiver(at) => {
                wait(self, at);
                self.world.command(receiver, Command::Cancel);
            }
            Act::CrashSender(at) => {
                wait(self, at);
                self.world.crash(sender);
            }
            Act::CrashReceiver(at) => {
                wait(self, at);
                self.world.crash(receiver);
            }
            Act::CrashRelay(at) => {
                wait(self, at);
                if let Some(relay) = self.relay {
                    self.world.crash(relay);
                }
            }
            Act::Partition(at, time) => {
                wait(self, at);
                let before = self.world.network.default_conditions();
                self.world.network.set_default(Conditions { cut: true, ..before });
                wait(self, time);
                self.world.network.set_default(before);
            }
        }
        let ended = self.world.run_until(limit, |world| world.is_closed(sender) && world.is_closed(receiver));
        assert!(ended, "no end: {}", self.told());
        self.sink.check();
    }

    /// Crashes the relay.
    pub fn crash_relay(&mut self) {
        if let Some(relay) = self.relay {
            self.world.crash(relay);
        }
    }

    /// Starts a new relay at the same address, without any state.
    pub fn restart_relay(&mut self) {
        let relay = real_relay(RELAY.port(), Seed::new(self.scenario.seed).derive("relay, started again"));
        self.relay = Some(self.world.add(RELAY.ip(), Machine::Relay(Box::new(relay))));
    }

    /// Another relay.
    pub fn add_relay(&mut self, ip: IpAddr) -> HostId {
        let relay = real_relay(RELAY.port(), Seed::new(self.scenario.seed).derive("another relay"));
        self.world.add(ip, Machine::Relay(Box::new(relay)))
    }

    /// Accepts the offer, if there is one to answer.
    pub fn accept(&mut self) {
        if self.world.end(self.receiver).is_none() {
            self.world.command(self.receiver, Command::Accept(self.sink.clone()));
        }
    }

    /// Interrupts the sender if it is still waiting.
    pub fn interrupt_sender(&mut self) {
        if self.world.end(self.sender).is_none() {
            self.world.command(self.sender, Command::Cancel);
        }
    }

    /// Another receiver with the same code replaces the first one.
    pub fn another_receiver(&mut self, number: u8) -> HostId {
        let seed = Seed::new(self.scenario.seed).derive(&format!("receiver {number}"));
        let peer = Peer::receiver(receive_config(&self.scenario), self.world.now, seed);
        let ip = IpAddr::from([203, 0, 113, number + 2]);
        self.receiver = self.world.add(ip, Machine::Peer(Box::new(peer)));
        self.receiver
    }

    /// Another sender with the same code and files, in addition to the first one.
    pub fn another_sender(&mut self) -> HostId {
        let seed = Seed::new(self.scenario.seed).derive("sender 2");
        let peer = Peer::sender(send_config(&self.scenario), self.world.now, seed);
        self.world.add([192, 0, 2, 2].into(), Machine::Peer(Box::new(peer)))
    }

    /// The outcome.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            sent: self.world.end(self.sender).map(copied_end),
            received: self.world.end(self.receiver).map(copied_end),
            took: self.world.elapsed(),
            trace: self.world.trace(),
        }
    }

    /// The events of both peers, for a failed assertion.
    #[must_use]
    pub fn told(&self) -> String {
        let last = |host| self.world.said(host).rev().take(4).collect::<Vec<_>>();
        let (sent, received) = (last(self.sender), last(self.receiver));
        format!("{:?}: {sent:?} {received:?}", self.world.elapsed())
    }
}

/// An end that outlives its world.
///
/// # Panics
/// The event is not terminal.
#[must_use]
pub fn copied_end(end: &Event) -> Event {
    match end {
        Event::Done(summary) => Event::Done(summary.clone()),
        Event::Failed(failure) => Event::Failed(failure.clone()),
        other => unreachable!("{other:?} is no end"),
    }
}

/// The configuration of the sender.
#[must_use]
pub fn send_config(scenario: &Scenario) -> SendConfig {
    let inside = scenario.place == Place::Inside;
    let listen = vec![SocketAddr::new(SENDER.into(), 4433)];
    let compression = if scenario.compress { Compression::Level(1) } else { Compression::Off };
    let mut config = SendConfig::new(common(scenario, scenario.aes), scenario.source())
        .with_code(Code::parse(CODE).expect("a good code"))
        .with_compression(compression);
    config.embedded = inside.then(|| Embedded::new(identity()).listening_at(listen));
    config
}

/// The configuration of the receiver.
#[must_use]
pub fn receive_config(scenario: &Scenario) -> ReceiveConfig {
    let mut config = ReceiveConfig::new(common(scenario, true), Code::parse(CODE).expect("a good code"));
    (config.local, config.discover) = (vec![SocketAddr::new(SENDER.into(), 4433)], false);
    config
}

fn common(scenario: &Scenario, aes: bool) -> Common {
    let address = RelayAddress { host: RELAY.ip().to_string(), port: RELAY.port() };
    let relays = match scenario.place {
        Place::Inside => Vec::new(),
        Place::ScriptedRelay | Place::Relay => vec![RelayChoice::new(address)],
    };
    let unix_time = Duration::from_secs(1_800_000_000);
    let mut common = Common::new(peer::Machine { cores: 2, interfaces: Vec::new(), unix_time, aes });
    (common.relays, common.give_up_after) = (relays, scenario.give_up_after);
    common
}

/// A relay with default options that listens on this port of all addresses.
///
/// # Panics
/// Its certificate is refused.
#[must_use]
pub fn real_relay(port: u16, seed: Seed) -> room::Relay {
    let config = room::Config {
        listen: vec![SocketAddr::new([0, 0, 0, 0].into(), port)],
        tcp: room::Tcp::default(),
        identity: identity(),
        password: None,
        limits: room::limits::Limits::default(),
        room_ttl: room::Config::ROOM_TTL,
        window_budget: room::Config::WINDOW_BUDGET,
        unix_time: Duration::from_secs(1_800_000_000),
        seed,
    };
    room::Relay::new(config).expect("a good identity")
}

/// One Ed25519 certificate for all, from a fixed key: events show its fingerprint, and runs of
/// two processes can be compared.
///
/// # Panics
/// The certificate can't be created.
#[must_use]
pub fn identity() -> Identity {
    static MADE: OnceLock<Identity> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        // RFC 8410, section 7: a private key of 32 bytes in PKCS #8.
        let mut pkcs8 = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        pkcs8.extend([7; 32]);
        let key = rcgen::KeyPair::try_from(pkcs8).expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["tallow".to_owned()]).expect("a name");
        params.serial_number = Some(1_u64.into());
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity { cert_chain: vec![certificate.der().to_vec()], key: key.serialize_der().into() }
    });
    made.clone()
}

/// Pseudorandom bytes that are the same in each run.
#[must_use]
pub fn noise(bytes: usize, salt: u64) -> Vec<u8> {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&salt.to_le_bytes());
    let mut chance = Chance::new(&Seed::new(seed).derive("noise"));
    std::iter::repeat_with(|| chance.draw().to_le_bytes()).flatten().take(bytes).collect()
}
