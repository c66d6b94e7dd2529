use std::io::{self, Read, Write};

use proptest::prelude::*;
use rand_core::SeedableRng;
use tungstenite::Message as Whole;
use tungstenite::protocol::{Role as OtherRole, WebSocketConfig, WebSocketContext};

use super::*;

fn server() -> WebSocket {
    WebSocket::new(Instant::now(), Role::Server)
}

fn client() -> WebSocket {
    WebSocket::new(Instant::now(), Role::Client(Box::new(ChaCha20Rng::seed_from_u64(1))))
}

fn receive(socket: &mut WebSocket, bytes: &[u8]) -> Result<Vec<u8>, WebSocketViolation> {
    let mut got = Vec::new();
    let mut deliver = |bytes: &[u8], mask: &mut Mask| {
        let mut piece = bytes.to_vec();
        mask.apply(&mut piece);
        got.extend(piece);
    };
    socket.receive(bytes, &mut deliver).map(|()| got)
}

#[test]
fn frames_match_rfc_6455_examples() {
    let text = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(receive(&mut server(), &text), Err(WebSocketViolation::Text));
    let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(receive(&mut server(), &masked).unwrap(), b"Hello");
    assert_eq!(receive(&mut client(), &masked), Err(WebSocketViolation::Mask));
    assert_eq!(receive(&mut client(), &[0x82, 5, 0x48, 0x65, 0x6c, 0x6c, 0x6f]).unwrap(), b"Hello");
    let fragments = [0x02, 3, 0x48, 0x65, 0x6c, 0x89, 1, 7, 0x80, 2, 0x6c, 0x6f];
    let mut socket = client();
    assert_eq!(receive(&mut socket, &fragments).unwrap(), b"Hello");
    let pong = socket.poll_control(Instant::now()).unwrap();
    assert_eq!((pong[0], pong[1], pong[6] ^ pong[2]), (0x8a, 0x81, 7), "the ping between them is answered");
    let long = [&[0x82, 0x7e, 0x01, 0x00], &[5; 256][..]].concat();
    assert_eq!(receive(&mut client(), &long).unwrap(), [5; 256]);
    let longer = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0], &[6; 65536][..]].concat();
    assert_eq!(receive(&mut client(), &longer).unwrap(), [6; 65536]);
}

#[test]
fn websocket_violations_are_detected() {
    use WebSocketViolation::{Close, Control, Fragments, Mask, Reserved, TooLong};
    let cases: [(&[u8], WebSocketViolation); 17] = [
        (&[0xc2, 0], Reserved),
        (&[0xa2, 0], Reserved),
        (&[0x92, 0], Reserved),
        (&[0x83, 0], Reserved),
        (&[0x8b, 0], Reserved),
        (&[0x82, 0x80, 1, 2, 3, 4], Mask),
        (&[0x80, 0], Fragments),
        (&[0x02, 0, 0x82, 0], Fragments),
        (&[0x02, 0, 0x80, 0, 0x80, 0], Fragments),
        (&[0x09, 0], Control),
        (&[0x89, 126, 0, 126], Control),
        (&[0x82, 127, 0, 0, 0, 0, 1, 0, 0, 1], TooLong),
        (&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255], TooLong),
        (&[0x88, 1, 3], Close),
        (&[0x88, 2, 3, 0xed], Close),
        (&[0x88, 2, 0, 0], Close),
        (&[0x88, 3, 0x03, 0xe8, 0xff], Close),
    ];
    for (bytes, violation) in cases {
        assert_eq!(receive(&mut client(), bytes), Err(violation), "{bytes:?}");
    }
}

#[test]
fn claimed_frame_length_allocates_nothing() {
    let mut socket = client();
    assert_eq!(receive(&mut socket, &[0x82, 127, 0, 0, 0, 0, 1, 0, 0, 0]).unwrap(), b"");
    assert!(matches!(socket.reading, Reading::Data { left: MAX_FRAME, .. }));
    assert_eq!(receive(&mut socket, b"as it comes").unwrap(), b"as it comes");
}

#[test]
fn close_codes_round_trip() {
    for (code, expected) in [(0, None), (1, Some(1)), (7, Some(7)), (999, Some(999)), (70_000, Some(999))] {
        let mut other = server();
        receive(&mut other, &client().close(code, "why")).unwrap();
        let reason = Untrusted::new("why".to_owned());
        let seen = expected.map_or(CloseSeen::Normal, |code| CloseSeen::Own { code, reason });
        assert_eq!(other.take_close(), Some(seen));
        assert_eq!(other.take_close(), None);
        assert_eq!(receive(&mut other, &client().close(1, "again")).unwrap(), b"", "what follows is ignored");
        assert_eq!(other.take_close(), None);
    }
    let mut socket = client();
    receive(&mut socket, &[0x88, 2, 0x03, 0xe9]).unwrap();
    assert_eq!(socket.take_close(), Some(CloseSeen::Other(1001)));
    let mut socket = client();
    receive(&mut socket, &[0x88, 0]).unwrap();
    assert_eq!(socket.take_close(), Some(CloseSeen::Normal));
}

#[test]
fn a_reason_is_cut_between_characters() {
    let mut other = server();
    receive(&mut other, &client().close(5, &"ü".repeat(100))).unwrap();
    let Some(CloseSeen::Own { reason, .. }) = other.take_close() else { panic!("no close") };
    assert_eq!(reason.as_raw(), "ü".repeat(61));
}

/// A TCP connection in memory for the other implementation.
#[derive(Default)]
struct Memory {
    arrived: Vec<u8>,
    sent: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.arrived.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = buf.len().min(self.arrived.len());
        buf[..count].copy_from_slice(&self.arrived[..count]);
        self.arrived.drain(..count);
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn frames(socket: &mut WebSocket, data: &[u8], in_one: bool) -> Vec<u8> {
    let mut wire = Vec::new();
    for piece in data.chunks(5000) {
        let (first, second) = socket.frame(Bytes::copy_from_slice(piece), in_one);
        wire.extend(first);
        wire.extend(second.into_iter().flatten());
    }
    wire
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_agree_with_tungstenite(
        data in proptest::collection::vec(any::<u8>(), 0..12_000),
        ours: bool,
        in_one: bool,
        cut in 1_usize..4000,
    ) {
        let (mut socket, role) = if ours { (client(), OtherRole::Server) } else { (server(), OtherRole::Client) };
        let mut other = WebSocketContext::new(role, Some(WebSocketConfig::default()));
        let mut memory = Memory { arrived: frames(&mut socket, &data, in_one), sent: Vec::new() };
        let mut got = Vec::new();
        while let Ok(message) = other.read(&mut memory) {
            got.extend(message.into_data());
        }
        prop_assert_eq!(&got, &data);

        for message in [
            Whole::Binary(data.clone().into()), Whole::Ping(b"x".to_vec().into()), Whole::Binary(data.clone().into())
        ] {
            other.write(&mut memory, message).unwrap();
        }
        other.flush(&mut memory).unwrap();
        let mut got = Vec::new();
        for piece in memory.sent.chunks(cut) {
            got.extend(receive(&mut socket, piece).unwrap());
        }
        prop_assert_eq!(got, [&data[..], &data[..]].concat());
        memory.arrived = socket.poll_control(Instant::now()).unwrap().to_vec();
        prop_assert_eq!(other.read(&mut memory).unwrap(), Whole::Pong(b"x".to_vec().into()));
        memory.arrived = socket.close(3, "so").to_vec();
        let Whole::Close(Some(close)) = other.read(&mut memory).unwrap() else { panic!("no close") };
        prop_assert_eq!((u16::from(close.code), close.reason.as_str()), (4003, "so"));
    }

    #[test]
    fn websocket_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), ours: bool) {
        let mut socket = if ours { client() } else { server() };
        let whole = receive(&mut socket, &bytes);
        let mut again = if ours { client() } else { server() };
        let mut pieces = Ok(Vec::new());
        for byte in &bytes {
            if let Ok(got) = &mut pieces {
                match receive(&mut again, &[*byte]) {
                    Ok(more) => got.extend(more),
                    Err(violation) => pieces = Err(violation),
                }
            }
        }
        prop_assert_eq!(whole, pieces, "however it is cut");
    }
}
