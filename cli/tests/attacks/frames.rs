//! WebSocket frames of one byte each: the memory of a relay must depend on the window and not on the number of
//! frames.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{ClientMessage, Owner, RelayMessage, Role, RoomId};
use tallow_proto::wire::{Caps, Decoder, Features, Hello, decode, encode};

use super::Victim;
use super::stage::{Home, Relay};

/// Pairs of the attacker, of the 64 that one address may have.
const PAIRS: u8 = 16;
/// If neither relay nor kernel accepts a byte for this long, they will accept none.
const FULL_AFTER: Duration = Duration::from_secs(1);
/// Bytes on the wire after which a faulty relay would hold several times the limit.
const ENOUGH: usize = 512 << 20;
/// The longest duration of the attack.
const ATTACK: Duration = Duration::from_secs(15);

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \
    tallow.1\r\n\r\n";
/// A binary frame of one byte, masked with nothing.
const TINY: [u8; 7] = [0x82, 0x81, 0, 0, 0, 0, 9];

/// A client that was greeted and requests its seat; the relay answers with `last`.
fn seated(relay: SocketAddr, room: u8, role: Role, last: &RelayMessage) -> TcpStream {
    let mut socket = connect(relay);
    socket.write_all(UPGRADE).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(&mut socket));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let hello = ClientMessage::Hello(Hello::new(Features::default()));
    let owner = Owner([room.wrapping_mul(2).wrapping_add(u8::from(role == Role::Sender)); 16]);
    let join = ClientMessage::Join { room: RoomId([room; 32]), role, owner, again: false };
    let greeting = [enclose(&encode(&hello)), enclose(&encode(&join))].concat();
    let len = u8::try_from(greeting.len()).ok().filter(|len| *len < 126).expect("a short greeting");
    socket.write_all(&[&[0x82, 0x80 | len, 0, 0, 0, 0], greeting.as_slice()].concat()).unwrap();
    let mut decoder = Decoder::new(Caps::Greeting);
    loop {
        let (_, len) = (byte(&mut socket), byte(&mut socket));
        assert!(len < 126, "a short frame");
        let mut payload = vec![0; len.into()];
        socket.read_exact(&mut payload).unwrap();
        decoder.push(payload.into());
        while let Ok(Some(frame)) = decoder.next_frame() {
            let message: RelayMessage = decode(&frame.into_bytes()).unwrap();
            if std::mem::discriminant(&message) == std::mem::discriminant(last) {
                return socket;
            }
            assert!(!matches!(message, RelayMessage::Refused { .. }), "{message:?}");
        }
    }
}

/// A connection with the smallest kernel buffers at both ends: otherwise the kernels would hold most of the unread
/// data.
fn connect(relay: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&relay.into()).unwrap();
    socket.into()
}

fn byte(socket: &mut TcpStream) -> u8 {
    let mut byte = [0];
    socket.read_exact(&mut byte).unwrap();
    byte[0]
}

#[test]
fn one_byte_frames_cost_relay_no_more_than_its_windows() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let victim = Victim::new(&relay.program);
    let mut sockets = Vec::new();
    for room in 0..PAIRS {
        sockets.push(seated(relay.addr, room, Role::Sender, &RelayMessage::Waiting));
        sockets.push(seated(relay.addr, room, Role::Receiver, &RelayMessage::Paired { streams: 0 }));
    }
    let tiny: Vec<u8> = TINY.iter().copied().cycle().take(TINY.len() * 2048).collect();
    let mut begun = vec![0; sockets.len()];
    let began = Instant::now();
    let (mut moved, mut written) = (began, 0);
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    while moved.elapsed() < FULL_AFTER && began.elapsed() < ATTACK && written < ENOUGH && !victim.is_over_the_limit() {
        for (socket, begun) in sockets.iter_mut().zip(&mut begun) {
            match socket.write(&tiny[*begun..]) {
                Ok(count) => {
                    // The next write continues within a frame.
                    *begun = (*begun + count) % TINY.len();
                    written += count;
                    moved = Instant::now();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    victim.check(&format!("{} KiB of frames of one byte", written >> 10));
}
