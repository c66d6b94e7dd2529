//! Streams to a direct path's socket without their first byte: their data can't be read or checked, so all of it is
//! kept.

use std::any::Any;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::congestion::{Controller, ControllerFactory};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, StreamId, TransportConfig,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tallow_proto::code::Code;
use tallow_proto::p2p::candidate::{Candidate, CandidateTransport, Kind};
use tallow_proto::wire::BoundedVec;
use tallow_proto::wire::peer::Control;
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{MaliciousPeer, Received, Script, ScriptOutput};

use super::Victim;
use super::stage::{Home, Relay, Run};

/// Connections at one time; each that ends is followed by another.
const AT_ONCE: usize = 12;
/// Datagrams in a row before others have their turn, and the sender time to read.
const BURST: usize = 100;
/// The longest duration of the attack: the connections of several rounds.
const ATTACK: Duration = Duration::from_secs(12);
/// Windows are 32 MiB; more is not accepted.
const WINDOW: u64 = 64 << 20;

/// Sends as if the network were endless.
#[derive(Clone)]
struct Reckless;

impl Controller for Reckless {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}
    fn on_mtu_update(&mut self, _: u16) {}
    fn window(&self) -> u64 {
        WINDOW
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }
    fn initial_window(&self) -> u64 {
        WINDOW
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for Reckless {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

/// Accepts any certificate, because this is an attacker.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider.clone());
    let tls = tls.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut tls =
        tls.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth();
    tls.alpn_protocols = vec![b"tallow/1".to_vec()];
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(Reckless)).send_window(WINDOW).mtu_discovery_config(None);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

/// One connection whose streams lack their first byte.
struct Hole {
    socket: UdpSocket,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    streams: Vec<StreamId>,
    began: Instant,
    sent: usize,
}

impl Hole {
    fn new(victim: SocketAddr) -> Self {
        // From the receiver's own network, and from the address of a candidate.
        let socket = UdpSocket::bind((victim.ip(), 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let began = Instant::now();
        let (handle, connection) = endpoint.connect(began, config(), victim, "tallow").unwrap();
        Self { socket, endpoint, handle, connection, streams: Vec::new(), began, sent: 0 }
    }

    /// Passes received datagrams to the connection. Once the holes exist nothing is processed any more: an
    /// acknowledgement would cause the first bytes to be sent again.
    fn shake_hands(&mut self, victim: SocketAddr) {
        let (now, mut datagram) = (Instant::now(), [0; 2048]);
        while let Ok(len) = self.socket.recv(&mut datagram) {
            let data = BytesMut::from(&datagram[..len]);
            let event = self.endpoint.handle(now, victim, None, None, data, &mut Vec::new());
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.connection.handle_event(event);
            }
        }
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while self.connection.poll().is_some() {}
        self.transmit(victim, usize::MAX, true);
    }

    /// The first byte of each stream goes into datagrams that are dropped.
    fn make_holes(&mut self, victim: SocketAddr) {
        for dir in [Dir::Bi, Dir::Uni] {
            while let Some(stream) = self.connection.streams().open(dir) {
                self.streams.push(stream);
                let _ = self.connection.send_stream(stream).write(b"x");
            }
        }
        self.transmit(victim, usize::MAX, false);
        let junk = vec![0x55; 1 << 20];
        for &stream in &self.streams {
            while self.connection.send_stream(stream).write(&junk).is_ok() {}
        }
    }

    fn transmit(&mut self, victim: SocketAddr, most: usize, really: bool) -> usize {
        let mut out = Vec::new();
        for count in 0..most {
            out.clear();
            let Some(transmit) = self.connection.poll_transmit(Instant::now(), 1, &mut out) else { return count };
            if really {
                // A full buffer is packet loss.
                let _ = self.socket.send_to(&out[..transmit.size], victim);
                self.sent += transmit.size;
            }
        }
        most
    }

    /// False: this one has had its time.
    fn go_on(&mut self, victim: SocketAddr) -> bool {
        if self.streams.is_empty() {
            self.shake_hands(victim);
            if !self.connection.is_handshaking() && !self.connection.is_closed() {
                self.make_holes(victim);
            }
            return !self.connection.is_closed() && self.began.elapsed() < Duration::from_secs(2);
        }
        self.transmit(victim, BURST, true) > 0 || self.began.elapsed() < Duration::from_secs(5)
    }
}

/// A sender with the right code, which begins a round and lets it last: the receiver accepts connections meanwhile.
fn stalling(ip: IpAddr) -> Script {
    Box::new(move |heard: Received, output: &mut ScriptOutput| {
        if let Received::Keyed = heard {
            let addr = SocketAddr::new(ip, 40_000);
            let candidate = Candidate { kind: Kind::Host, transport: CandidateTransport::Udp, addr };
            for round in 1..4 {
                output.say(Control::CandidateOffer {
                    round,
                    candidates: BoundedVec::truncated(vec![candidate]),
                    certificate: [7; 32],
                    token: [8; 16],
                    dependent: false,
                });
                output.say(Control::CandidatesDone { round });
                output.pause(Duration::from_secs(6));
                output.say(Control::DirectFailed { round });
            }
        }
    })
}

fn sender(code: &str, relay: SocketAddr, ip: IpAddr) -> std::thread::JoinHandle<()> {
    let node =
        *MaliciousPeer::new(Role::Sender, Code::parse(code).unwrap(), relay, stalling(ip), tallow_runtime::seed());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut handle = tallow_tokio::spawn(node);
            let over = tokio::time::sleep(ATTACK);
            tokio::select! {
                () = over => {}
                () = async { while handle.next_event().await.is_some() {} } => {}
            }
        });
    })
}

#[test]
fn streams_with_missing_first_byte_cost_receiver_little() {
    let Some(ip) = tallow_runtime::addresses().into_iter().find(|addr| addr.is_ipv4() && !addr.is_loopback()) else {
        return eprintln!("SKIPPED: this machine has no network of IPv4");
    };
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port().to_string();
    let code = "room-abcdefgh1234";
    let thread = sender(code, relay.addr, ip);
    let receiver = Run::new(&home, ["receive", "--yes", code, "--relay", &relay.name()])
        .args(["--p2p-port", &port, "--no-port-map"])
        .piped(b"");
    // Memory is measured from the first connection on: what the program allocates at its start is not caused by the
    // attack.
    let mut victim: Option<Victim<'_>> = None;
    let addr = SocketAddr::new(ip, port.parse().unwrap());
    let began = Instant::now();
    let (mut holes, mut sent, mut reached): (Vec<Hole>, usize, usize) = (Vec::new(), 0, 0);
    while began.elapsed() < ATTACK && !victim.as_ref().is_some_and(Victim::is_over_the_limit) {
        while holes.len() < AT_ONCE {
            holes.push(Hole::new(addr));
        }
        holes.retain_mut(|hole| {
            let before = hole.streams.is_empty();
            let goes_on = hole.go_on(addr);
            reached += usize::from(before && !hole.streams.is_empty());
            sent += if goes_on { 0 } else { hole.sent };
            goes_on
        });
        if reached > 0 {
            victim.get_or_insert_with(|| Victim::new(&receiver));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent += holes.iter().map(|hole| hole.sent).sum::<usize>();
    let Some(victim) = victim else { panic!("no connection was accepted: {}", receiver.so_far()) };
    victim.check(&format!("{reached} connections, {} KiB behind holes", sent >> 10));
    drop(receiver);
    drop(relay);
    thread.join().unwrap();
}
