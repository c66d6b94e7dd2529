//! Requests to the embedded relay, from a client that accepts no answers.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::link::quic::{ConnId, Event, Profile, Quic, Stream};
use tallow_proto::link::trust::Trust;
use tallow_proto::net::{Arrival, Ecn, SocketId};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::ClientMessage;
use tallow_proto::wire::{Features, Hello, encode};

use super::Victim;
use super::stage::{Home, Run};

/// Clients at one time.
const GUESTS: usize = 16;
/// A sender drops a client that has not sent its request within 10 s.
const ATTACK: Duration = Duration::from_secs(12);

struct Guest {
    conn: ConnId,
    stream: Option<Stream>,
    hello: Bytes,
    rest: Bytes,
    asked: usize,
}

struct Guests {
    quic: Quic,
    socket: UdpSocket,
    victim: SocketAddr,
    guests: Vec<Guest>,
    pings: Bytes,
}

impl Guests {
    fn new(victim: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        // No credit for answers; and a large send window for its requests.
        let profile = Profile { stream_receive_window: 1, send_window: 512 << 10, ..Profile::peer() };
        let unix_time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mut quic = Quic::client(&profile, unix_time, &tallow_runtime::seed());
        let hello = enclose(&encode(&ClientMessage::Hello(Hello::new(Features::default()))));
        let mut come = || Guest {
            conn: quic.connect(Instant::now(), victim, "tallow", &Trust::Any).unwrap(),
            stream: None,
            hello: hello.clone(),
            rest: Bytes::new(),
            asked: 0,
        };
        let guests = (0..GUESTS).map(|_| come()).collect();
        let ping = enclose(&encode(&ClientMessage::Ping));
        let pings = ping.iter().copied().cycle().take(ping.len() * 480).collect::<Vec<u8>>().into();
        Self { quic, socket, victim, guests, pings }
    }

    fn asked(&self) -> usize {
        self.guests.iter().map(|guest| guest.asked).sum()
    }

    fn turn(&mut self) {
        let (now, mut datagram) = (Instant::now(), [0; 2048]);
        while let Ok(len) = self.socket.recv(&mut datagram) {
            let arrival = Arrival { socket: SocketId(0), from: self.victim, local_ip: None, ecn: Ecn::NotEct };
            self.quic.handle_datagram(now, &arrival, BytesMut::from(&datagram[..len]));
        }
        self.quic.handle_timeout(now);
        self.quic.settle(now);
        while let Some((conn, event)) = self.quic.poll_event() {
            match event {
                Event::Connected { .. } => {
                    let stream = self.quic.open_bi(conn);
                    self.guests.iter_mut().filter(|guest| guest.conn == conn).for_each(|guest| guest.stream = stream);
                }
                // The sender had enough of it.
                Event::Closed(_) => self.guests.retain(|guest| guest.conn != conn),
                _ => {}
            }
        }
        for guest in &mut self.guests {
            let Some(stream) = guest.stream else { continue };
            self.quic.write(guest.conn, stream, &mut guest.hello);
            if guest.hello.is_empty() {
                if guest.rest.is_empty() {
                    guest.rest = self.pings.clone();
                }
                let before = guest.rest.len();
                self.quic.write(guest.conn, stream, &mut guest.rest);
                guest.asked += (before - guest.rest.len()) * 480 / self.pings.len();
            }
        }
        self.quic.settle(now);
        let mut out = Vec::new();
        while let Some(transmit) = self.quic.poll_transmit(now, NonZeroUsize::MIN, &mut out) {
            // A full buffer is packet loss.
            let _ = self.socket.send_to(&out[..transmit.size], transmit.to);
            out.clear();
        }
    }
}

#[test]
fn endless_pings_cost_sender_a_bounded_queue() {
    let home = Home::new();
    let file = home.file("notes.txt", b"hello");
    // The port is free now; the sender binds it for both families.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut sender = Run::new(&home, ["send", &file]).env("TALLOW_PORT", &port.to_string()).piped(b"");
    sender.code();
    let victim = Victim::new(&sender);
    let mut guests = Guests::new(([127, 0, 0, 1], port).into());
    let (began, mut asked) = (Instant::now(), 0);
    while began.elapsed() < ATTACK && !guests.guests.is_empty() && !victim.is_over_the_limit() {
        guests.turn();
        asked = asked.max(guests.asked());
    }
    assert!(asked > 0, "the attack reached it");
    victim.check(&format!("{asked} questions"));
}
