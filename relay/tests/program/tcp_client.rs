//! One client of a relay on TCP, with the state machines of `tallow_proto` and `std::net`.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tallow_proto::link::tcp::{Closed, Dialler, Event, Kind, SocketAction, Target, TcpLink, Transport, Windows};
use tallow_proto::link::trust::{CertificateSeen, Trust};
use tallow_proto::link::{Read, Write};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{ClientMessage, RelayMessage};
use tallow_proto::wire::{self, Caps, Decoder, Features, Hello};

/// A WebSocket client, with or without TLS.
pub fn websocket(tls: bool) -> Kind {
    Kind::WebSocket { tls, path: "/".into() }
}

/// A client over TCP.
pub struct TcpClient {
    pub link: Option<(CertificateSeen, Transport)>,
    pub received: Vec<RelayMessage>,
    pub streams: Option<u8>,
    pub bytes_received: Vec<u8>,
    /// The relay has ended its direction.
    pub ended: bool,
    pub closed: Option<Closed>,
    tcp: TcpLink,
    socket: TcpStream,
    decoder: Decoder,
    out: Bytes,
}

impl TcpClient {
    /// Connects and sends the greeting and these messages.
    pub fn connect(relay: SocketAddr, kind: Kind, to_send: &[ClientMessage]) -> Self {
        let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let windows = Windows::peer();
        let target = Target { kind, host: "relay.test", port: relay.port(), trust: Trust::Any, proxy: None, windows };
        let tcp = Dialler::new(unix_time, &tallow_runtime::seed()).dial(Instant::now(), &target).expect("a target");
        let socket = TcpStream::connect(relay).expect("a connection");
        socket.set_nonblocking(true).expect("no waiting");
        let hello = ClientMessage::Hello(Hello::new(Features::default()));
        let all = std::iter::once(&hello).chain(to_send);
        let out: Vec<u8> = all.flat_map(|message| enclose(&wire::encode(message))).collect();
        Self {
            link: None,
            received: Vec::new(),
            streams: None,
            bytes_received: Vec::new(),
            ended: false,
            closed: None,
            tcp,
            socket,
            decoder: Decoder::new(Caps::Greeting),
            out: out.into(),
        }
    }

    /// Queues bytes for writing.
    pub fn send(&mut self, bytes: &[u8]) {
        assert!(self.out.is_empty(), "one after the other");
        self.out = Bytes::copy_from_slice(bytes);
    }

    pub fn finish(&mut self) {
        self.tcp.finish(Instant::now());
    }

    pub fn close(&mut self, code: u32) {
        self.tcp.close(Instant::now(), code, "test");
    }

    pub fn is_over(&self) -> bool {
        self.ended || self.closed.is_some()
    }

    pub fn turn(&mut self) {
        let now = Instant::now();
        self.tcp.handle_timeout(now);
        let mut slices = [IoSlice::new(&[]); 8];
        let count = self.tcp.output(&mut slices);
        if count > 0 {
            match self.socket.write_vectored(&slices[..count]) {
                Ok(written) => self.tcp.handle_wrote(now, written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.tcp.handle_failed(),
            }
        }
        let buf = self.tcp.read_buffer();
        if !buf.is_empty() {
            match self.socket.read(buf) {
                Ok(0) => self.tcp.handle_eof(),
                Ok(count) => self.tcp.handle_filled(now, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.tcp.handle_failed(),
            }
        }
        while let Some(event) = self.tcp.poll_event() {
            match event {
                Event::Connected { certificate, transport } => self.link = Some((certificate, transport)),
                Event::Readable | Event::Writable => {}
                Event::Closed(closed) => self.closed = Some(closed),
            }
        }
        loop {
            match self.tcp.read() {
                Read::Data(bytes) => self.take(bytes),
                Read::End => {
                    self.ended = true;
                    break;
                }
                Read::Blocked | Read::Reset(_) | Read::Gone => break,
            }
        }
        if !self.out.is_empty() && self.tcp.write(now, &mut self.out) == Write::Gone {
            self.out.clear();
        }
        match self.tcp.socket_action() {
            SocketAction::Live => {}
            SocketAction::Finish => drop(self.socket.shutdown(Shutdown::Write)),
            SocketAction::Abort => drop(self.socket.shutdown(Shutdown::Both)),
        }
    }

    fn take(&mut self, bytes: Bytes) {
        if self.streams.is_some() {
            return self.bytes_received.extend_from_slice(&bytes);
        }
        self.decoder.push(bytes);
        while self.streams.is_none()
            && let Ok(Some(frame)) = self.decoder.next_frame()
        {
            let message = wire::decode::<RelayMessage>(&frame.into_bytes()).expect("a message");
            if let RelayMessage::Paired { streams } = message {
                self.streams = Some(streams);
            }
            self.received.push(message);
        }
        if self.streams.is_some() {
            let decoder = std::mem::replace(&mut self.decoder, Decoder::new(Caps::Greeting));
            decoder.into_rest().iter().for_each(|rest| self.bytes_received.extend_from_slice(rest));
        }
    }
}

/// Runs until the condition holds; returns false if it does not in time.
pub fn until<const N: usize>(
    within: Duration,
    clients: [&mut TcpClient; N],
    mut done: impl FnMut([&TcpClient; N]) -> bool,
) -> bool {
    let end = Instant::now() + within;
    let mut clients = clients;
    loop {
        clients.iter_mut().for_each(|client| client.turn());
        if done(clients.each_ref().map(|client| &**client)) {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
