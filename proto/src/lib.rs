//! The tallow protocol as pure state machines: their inputs are events and the time, their outputs are actions.
//!
//! Nothing in this crate reads a clock, a socket, a file, the environment or a global random source. A runtime
//! (`tallow-tokio`, `tallow-smol`), a simulator or a test does that. Everything that makes a transfer hard, such as a
//! lost link, a crash, a malicious peer or a full disk, is an ordinary input here and can be repeated from a seed.
//!
//! Applications use one of the two runtime crates. Use this crate to write another runtime adapter, to test the
//! protocol, or to work on it.
//!
//! # The layers
//!
//! A module imports only from rows below its own, or from its own row; CI checks that no two import each other in a
//! circle.
//!
//! | modules | responsibility |
//! |---|---|
//! | [`peer`] | one end of a transfer: the node that consists of the machines below |
//! | [`room`], [`drive`] | the relay as a node; the loop between a node and a runtime, written once for both nodes |
//! | [`node`] | the contract of a node: its inputs, its outputs, and the order of the calls |
//! | [`transfer`], [`memory`] | files and streams in chunks; files that are stored in memory |
//! | [`p2p`] | direct paths: candidates, STUN, rounds, selection |
//! | [`session`] | encrypted messages and chunks of two peers over changing links |
//! | [`handshake`] | from a shared code to shared keys |
//! | [`link`], [`discovery`], [`code`] | byte streams over QUIC, TLS or WebSocket; mDNS; the code |
//! | [`wire`] | frames, versions, messages, candidates, close codes, violations |
//! | [`net`], [`host`], [`seed`], [`ready`], [`pool`], [`misuse`] | ids, addresses; randomness; buffers; misuse |
//!
//! Applications and adapters need `peer`, `room`, `drive`, `node`, `net`, `transfer`, `link`, `code` and what these
//! name. The modules `p2p`, `session`, `handshake`, `discovery`, `host`, `ready` and `pool` are private, and so are the
//! machines inside `transfer`, `link`, `room` and `wire`, unless the feature `internals` is on.
//!
//! # Terms
//!
//! | term | meaning |
//! |---|---|
//! | machine | a struct with `handle_*` and `poll_*` methods that decides one thing and performs no IO |
//! | node | a machine at the outer edge, behind the trait [`node::Node`]: [`peer::Peer`] or [`room::Relay`] |
//! | settle | to pass the effects of a batch of inputs between the machines of a node |
//! | job | heavy work as a value (read, hash, compress, seal; open, check, write), run on a blocking thread |
//! | link | a reliable connection to the other peer or to a relay: over QUIC, or over TCP with records in it |
//! | stream | one ordered sequence of bytes of a link; a QUIC link has several, a TCP connection has one |
//! | path | how a link runs: over a relay, or direct |
//! | candidate | an address at which a peer may be reached directly (a term of ICE) |
//! | room | two seats at a relay for two peers, named by a hash of the code's nameplate |
//! | leg, seat | at the relay: one client's link, and its place in a room |
//! | session | the encrypted exchange between two peers; it continues when its links change |
//! | generation | the time in which one set of session keys is used, from one handshake to the next |
//! | record | one sealed unit of a session: a control message or a chunk |
//! | lane | the numbered records of one direction of one stream, with a key of their own |
//! | chunk | the unit of reading, sealing, acknowledging, storing and resuming |
//! | journal | the list of stored chunks on the receiver's disk, from which a transfer resumes |
//!
//! # The driving loop
//!
//! The driver of a node repeats six steps. This example drives two peers on one thread, with two variables as clock and
//! network. The sender embeds a relay; the receiver finds it, both prove that they know
//! the code, and the offer arrives.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::io::ErrorKind;
//! use std::net::{IpAddr, Ipv4Addr, SocketAddr};
//! use std::num::NonZeroUsize;
//! use std::sync::Arc;
//! use std::sync::atomic::AtomicBool;
//! use std::time::{Duration, Instant};
//!
//! use bytes::BytesMut;
//! use tallow_proto::code::Code;
//! use tallow_proto::net::{Action, Arrival, Ecn, TcpEvent, SocketId};
//! use tallow_proto::node::{Input, Node};
//! use tallow_proto::peer::{Common, Embedded, Event, Machine, Payload, Peer, ReceiveConfig, SendConfig};
//! # use tallow_proto::link::Identity;
//! # use tallow_proto::seed::Seed;
//! # use tallow_proto::transfer::Compression;
//! # use tallow_proto::transfer::storage::{Fault, Read, StreamSource};
//! # struct Nothing;
//! # impl StreamSource for Nothing {
//! #     fn read(&self, _: &mut [u8], _: Duration) -> Result<Read, Fault> {
//! #         Ok(Read::End)
//! #     }
//! # }
//! # fn identity() -> Identity {
//! #     let made = rcgen::generate_simple_self_signed(["tallow".to_owned()]).unwrap();
//! #     Identity { cert_chain: vec![made.cert.der().to_vec()], key: made.signing_key.serialize_der().into() }
//! # }
//!
//! /// Datagrams in flight: source, destination, contents.
//! type Network = VecDeque<(SocketAddr, SocketAddr, BytesMut)>;
//!
//! /// One machine: its node, its address, and the sockets that the node has bound.
//! struct Host {
//!     node: Peer,
//!     ip: IpAddr,
//!     sockets: Vec<(SocketId, SocketAddr)>,
//! }
//!
//! impl Host {
//!     fn new(node: Peer, last: u8) -> Self {
//!         Self { node, ip: Ipv4Addr::new(192, 0, 2, last).into(), sockets: Vec::new() }
//!     }
//!
//!     /// Steps 2 to 6; step 1 gave the node its input. Returns the events for the application.
//!     fn round(&mut self, now: Instant, network: &mut Network) -> Vec<Event> {
//!         let mut events = Vec::new();
//!         loop {
//!             // 2. Process the effects of the inputs.
//!             self.node.settle(now);
//!             let mut moved = false;
//!
//!             // 3. Carry out the actions and report their results. This host has UDP, but neither TCP nor DNS.
//!             while let Some(action) = self.node.poll_action() {
//!                 let answer = match action {
//!                     Action::Bind(socket, bind) => {
//!                         let port = if bind.addr.port() == 0 { 50_000 } else { bind.addr.port() };
//!                         self.sockets.push((socket, SocketAddr::new(self.ip, port)));
//!                         Some(Input::Bound(socket, Ok(SocketAddr::new(self.ip, port))))
//!                     }
//!                     Action::Release(socket) => {
//!                         self.sockets.retain(|(id, _)| *id != socket);
//!                         None
//!                     }
//!                     Action::Listen(listener, _) => Some(Input::Listening(listener, Err(ErrorKind::Unsupported))),
//!                     Action::Resolve(query, ..) => Some(Input::Resolved(query, Vec::new())),
//!                     Action::Dial(tcp, _) => {
//!                         self.node.handle_tcp(now, tcp, TcpEvent::Failed(ErrorKind::ConnectionRefused));
//!                         None
//!                     }
//!                     _ => None,
//!                 };
//!                 moved = true;
//!                 if let Some(answer) = answer {
//!                     self.node.handle_input(now, answer);
//!                 }
//!             }
//!
//!             // 4. Run the jobs: on worker threads in a runtime, at once here.
//!             while let Some(job) = self.node.poll_job() {
//!                 let done = job.run(&AtomicBool::new(false));
//!                 self.node.handle_input(now, Input::Done(done));
//!                 moved = true;
//!             }
//!
//!             // 5. Send the datagrams of each socket, one at a time.
//!             for (socket, from) in self.sockets.clone() {
//!                 let mut buffer = Vec::new();
//!                 while let Some(transmit) = self.node.poll_transmit(now, socket, NonZeroUsize::MIN, &mut buffer) {
//!                     network.push_back((from, transmit.to, buffer[..transmit.size].into()));
//!                     buffer.clear();
//!                     moved = true;
//!                 }
//!             }
//!
//!             // 6. Pass the events to the application.
//!             events.extend(std::iter::from_fn(|| self.node.poll_event()));
//!             if !moved {
//!                 return events;
//!             }
//!         }
//!     }
//! }
//!
//! let mut now = Instant::now();
//! let code = Code::parse("7-acorn-bicycle-canal")?;
//! let relay = SocketAddr::from(([192, 0, 2, 1], 4433));
//! let unix_time = Duration::from_secs(1_800_000_000);
//! let machine = || Machine { cores: 1, interfaces: Vec::new(), unix_time, aes: true };
//! let nothing = Payload::Stream(Arc::new(Nothing));
//! let mut sender = SendConfig::new(Common::new(machine()), nothing).with_code(code.clone());
//! let mut embedded = Embedded::new(identity()).listening_at(vec![relay]);
//! embedded.announce = false;
//! (sender.embedded, sender.compression) = (Some(embedded), Compression::Off);
//! let mut receiver = ReceiveConfig::new(Common::new(machine()), code);
//! (receiver.local, receiver.discover) = (vec![relay], false);
//! let mut hosts = [
//!     Host::new(Peer::sender(sender, now, Seed::new([1; 32])), 1),
//!     Host::new(Peer::receiver(receiver, now, Seed::new([2; 32])), 2),
//! ];
//! let mut network = Network::new();
//!
//! 'run: loop {
//!     for host in &mut hosts {
//!         for event in host.round(now, &mut network) {
//!             // An application shows the offer to its user here and answers it.
//!             if matches!(event, Event::StreamOffer { .. }) {
//!                 break 'run;
//!             }
//!         }
//!     }
//!     // 1. Give the nodes their input: an arrived datagram, or else the earliest deadline.
//!     if let Some((from, to, contents)) = network.pop_front() {
//!         for host in hosts.iter_mut().filter(|host| host.ip == to.ip()) {
//!             let socket = host.sockets.iter().find(|(_, at)| at.port() == to.port()).map(|(socket, _)| *socket);
//!             if let Some(socket) = socket {
//!                 let arrival = Arrival { socket, from, local_ip: Some(host.ip), ecn: Ecn::NotEct };
//!                 host.node.handle_datagram(now, arrival, contents.clone());
//!             }
//!         }
//!     } else {
//!         let deadlines = hosts.iter().filter_map(|host| host.node.poll_timeout());
//!         let (at, _reason) = deadlines.min().expect("a node that is not closed has a deadline");
//!         now = now.max(at);
//!         for host in &mut hosts {
//!             host.node.handle_timeout(now);
//!         }
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`drive::Driver`] is this loop with back-pressure, batches, TCP and fairness. The simulator of the workspace's
//! `tests` crate is this loop with latency, loss, NATs and crashes.
//!
//! # Reading order
//!
//! 1. [`node`]: the contract. Every machine below has the same kinds of methods in the same order.
//! 2. [`peer`]: how one end of a transfer is composed of its machines, with a diagram of its states.
//! 3. One machine from top to bottom; [`handshake`] is short and complete.
//! 4. [`session`], then [`transfer`]: the path of the bytes.
//! 5. [`drive`]: how a runtime performs the actions.
//!
//! In the repository, `docs/architecture.md` follows four bytes through the code, `docs/protocol.md` specifies the
//! wire format, with test vectors, and `docs/decisions.md` gives the reasons for the design.
//!
//! # Features
//!
//! | feature | modules or function | needs C |
//! |---|---|---|
//! | (none) | `code`, `wire`; inside, the handshake | no |
//! | `rust-crypto` | `transfer`, `node`, `drive`; inside: sessions, direct paths, discovery, by RustCrypto | no |
//! | `aws-lc` | the same, sealed by AWS-LC | yes |
//! | `links` (default) | `link`, `peer`, `room`: QUIC, TLS, WebSocket, whole peers and relays | yes |
//! | `zstd` (default) | compressed chunks; without it they are refused | yes |
//! | `internals` | the machines as public modules, and test doubles of sources and sinks | no |
//!
//! `internals` is for the tests, benchmarks and fuzz targets of tallow itself. What it opens is exempt from semantic
//! versioning: any release may change or remove it.

#![cfg_attr(not(feature = "links"), allow(dead_code, unused_imports, reason = "the layers that use it are not built"))]
#![cfg_attr(not(test), warn(unnameable_types))]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::iter_over_hash_type
    )
)]
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests have a clock"))]

pub mod code;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
#[cfg(feature = "internals")]
pub mod discovery;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
#[cfg(not(feature = "internals"))]
mod discovery;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
pub mod drive;
#[cfg(feature = "internals")]
pub mod handshake;
#[cfg(not(feature = "internals"))]
mod handshake;
#[cfg(feature = "internals")]
pub mod host;
#[cfg(not(feature = "internals"))]
mod host;
#[cfg(feature = "links")]
pub mod link;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
pub mod memory;
pub mod misuse;
pub mod net;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
pub mod node;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
#[cfg(feature = "internals")]
pub mod p2p;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
#[cfg(not(feature = "internals"))]
mod p2p;
#[cfg(feature = "links")]
pub mod peer;
mod pieces;
#[cfg(feature = "internals")]
pub mod pool;
#[cfg(not(feature = "internals"))]
mod pool;
#[cfg(feature = "internals")]
pub mod ready;
#[cfg(not(feature = "internals"))]
mod ready;
#[cfg(feature = "links")]
pub mod room;
pub mod seed;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
#[cfg(feature = "internals")]
pub mod session;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
#[cfg(not(feature = "internals"))]
mod session;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
pub mod share;
#[cfg(any(feature = "aws-lc", feature = "rust-crypto"))]
pub mod transfer;
pub mod wire;

/// The type of instants: that of `std`, or in a browser, where it does not work, that of `web-time`
/// (`performance.now()`).
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub use std::time::Instant;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use web_time::Instant;
