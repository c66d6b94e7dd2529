//! `Framed` encodes and decodes every message to the same value, however the stream is split.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tallow_proto::p2p::candidate::{Candidate, CandidateTransport, Kind};
use tallow_proto::wire::Violation;
use tallow_proto::wire::frame::{CHUNK, CONTROL, GREETING, KIND_CHUNK, KIND_CONTROL, enclose};
use tallow_proto::wire::peer::{
    CancelReason, ChunkRange, Control, ControlRecord, DeclineReason, HandshakeMessage, Have, LaneCount, Mode, Offer,
    Placement, Reason, TransferKind,
};
use tallow_proto::wire::relay::{ClientMessage, Former, Owner, RefusalReason, RelayMessage, Role, RoomId};
use tallow_proto::wire::version::SPOKEN;
use tallow_proto::wire::{Blob, BoundedVec, Features, Hello, encode};
use tallow_tokio::codec::{Body, CodecError, TallowCodec};
use tokio::io::AsyncWriteExt;
use tokio_util::codec::{Decoder, Encoder, Framed};

fn hello() -> Hello {
    Hello::new(Features::VERIFY)
}

fn blob<const MAX: usize>(len: usize) -> Blob<MAX> {
    Blob((0..len).map(|at| at as u8).collect())
}

fn client_messages() -> Vec<ClientMessage> {
    let owner = Owner([7; 16]);
    let all = vec![
        ClientMessage::Hello(hello()),
        ClientMessage::Prove { mac: [1; 32] },
        ClientMessage::Allocate { owner },
        ClientMessage::Join { room: RoomId([2; 32]), role: Role::Sender, owner, again: false },
        ClientMessage::Ping,
        ClientMessage::Leave,
        ClientMessage::Rejoin {
            room: RoomId([2; 32]),
            role: Role::Receiver,
            owner,
            former: Former { room: RoomId([3; 32]), owner: Owner([8; 16]) },
        },
    ];
    // A new variant fails to compile here: add it above.
    for (at, message) in all.iter().enumerate() {
        let place = match message {
            ClientMessage::Hello(_) => 0,
            ClientMessage::Prove { .. } => 1,
            ClientMessage::Allocate { .. } => 2,
            ClientMessage::Join { .. } => 3,
            ClientMessage::Ping => 4,
            ClientMessage::Leave => 5,
            ClientMessage::Rejoin { .. } => 6,
        };
        assert_eq!(place, at);
    }
    all
}

fn relay_messages() -> Vec<RelayMessage> {
    let refused = |reason| RelayMessage::Refused { reason, retry_after: 5 };
    let all = vec![
        RelayMessage::Hello { hello: hello(), observed: "[2001:db8::1]:4433".parse().unwrap(), nonce: [3; 16] },
        RelayMessage::Allocated { nameplate: 12 },
        RelayMessage::Waiting,
        RelayMessage::Paired { streams: 16 },
        RelayMessage::Pong,
        refused(RefusalReason::UnsupportedVersion(SPOKEN)),
        RelayMessage::Redirect { relay: blob(255) },
    ];
    for (at, message) in all.iter().enumerate() {
        let place = match message {
            RelayMessage::Hello { .. } => 0,
            RelayMessage::Allocated { .. } => 1,
            RelayMessage::Waiting => 2,
            RelayMessage::Paired { .. } => 3,
            RelayMessage::Pong => 4,
            RelayMessage::Refused { .. } => 5,
            RelayMessage::Redirect { .. } => 6,
        };
        assert_eq!(place, at);
    }
    use RefusalReason::{Full, Idle, NameTaken, NobodyWaits, Password, RateLimited, ShuttingDown};
    let reasons = [NobodyWaits, NameTaken, RateLimited, Full, Password, ShuttingDown, Idle].map(refused);
    all.into_iter().chain(reasons).collect()
}

fn handshake_messages() -> Vec<HandshakeMessage> {
    let all = vec![
        HandshakeMessage::H1 {
            hello: hello(),
            mode: Mode::Code,
            sid: [1; 16],
            pake: blob(32),
            x25519: [2; 32],
            encapsulation_key: blob(1568),
        },
        HandshakeMessage::H2 {
            hello: hello(),
            version: 1,
            pake: blob(0),
            x25519: [3; 32],
            ciphertext: blob(1568),
            confirmation: [4; 32],
        },
        HandshakeMessage::H3 { confirmation: [5; 32] },
        HandshakeMessage::WrongCode,
        HandshakeMessage::UnsupportedVersion(SPOKEN),
    ];
    for (at, message) in all.iter().enumerate() {
        let place = match message {
            HandshakeMessage::H1 { .. } => 0,
            HandshakeMessage::H2 { .. } => 1,
            HandshakeMessage::H3 { .. } => 2,
            HandshakeMessage::WrongCode => 3,
            HandshakeMessage::UnsupportedVersion(_) => 4,
        };
        assert_eq!(place, at);
    }
    all
}

fn control_messages() -> Vec<Control> {
    let transfer = 1;
    let range = ChunkRange { first: 3, last: 900 };
    let addr = "[2001:db8::1]:50000".parse().unwrap();
    let candidate = Candidate { kind: Kind::Host, transport: CandidateTransport::Tcp, addr };
    let all = vec![
        Control::Sync,
        Control::KeepAlive {
            lanes: BoundedVec::truncated(vec![LaneCount { lane: 1, records: 2, partial: 3 }; 64]),
            reading: true,
        },
        Control::Bind { nonce: [1; 16], echo: Some([2; 16]) },
        Control::Offer(Offer {
            transfer,
            kind: TransferKind::Files,
            chunk_size: 1 << 20,
            entries: 2,
            bytes: u64::MAX,
            pages: 1,
        }),
        Control::Page { transfer, page: blob(60 << 10) },
        Control::Accept {
            transfer,
            have: BoundedVec::truncated(vec![Have { range, digest: [6; 32] }; 1000]),
            credit: 9,
        },
        Control::Decline { transfer, reason: DeclineReason::NoSpace, text: Reason::new("zu groß") },
        Control::Ack { transfer, ranges: BoundedVec::truncated(vec![range; 1000]), credit: 32 << 20 },
        Control::End { transfer, chunks: 5, moved: 4, root: [7; 32] },
        Control::Verified { transfer, root: [8; 32] },
        Control::Cancel { transfer, reason: CancelReason::Interrupted, text: Reason::new("") },
        Control::Bye,
        Control::Checked { transfer, range, same: true },
        Control::CandidateOffer {
            round: 1,
            candidates: BoundedVec::truncated(vec![candidate; 16]),
            certificate: [9; 32],
            token: [10; 16],
            dependent: true,
        },
        Control::CandidatesDone { round: 2 },
        Control::DirectFailed { round: 3 },
        Control::DirectConnected { round: u32::MAX },
        Control::Placement { transfer, placement: Placement { renamed: 1, links_outside: 2, links_unsupported: 3 } },
    ];
    for (at, message) in all.iter().enumerate() {
        let place = match message {
            Control::Sync => 0,
            Control::KeepAlive { .. } => 1,
            Control::Bind { .. } => 2,
            Control::Offer(_) => 3,
            Control::Page { .. } => 4,
            Control::Accept { .. } => 5,
            Control::Decline { .. } => 6,
            Control::Ack { .. } => 7,
            Control::End { .. } => 8,
            Control::Verified { .. } => 9,
            Control::Cancel { .. } => 10,
            Control::Bye => 11,
            Control::Checked { .. } => 12,
            Control::CandidateOffer { .. } => 13,
            Control::CandidatesDone { .. } => 14,
            Control::DirectFailed { .. } => 15,
            Control::DirectConnected { .. } => 16,
            Control::Placement { .. } => 17,
        };
        assert_eq!(place, at);
    }
    all
}

/// Control records as they are sent (with a header and a tag; the session does the sealing), and a large chunk
/// record.
fn records() -> Vec<Bytes> {
    let control = control_messages().into_iter().map(|message| {
        let plain = encode(&ControlRecord { sequence: 300, ack: 299, message });
        [&[KIND_CONTROL][..], &[0; 12], &plain, &[0; 16]].concat().into()
    });
    control.chain([vec![KIND_CHUNK; CHUNK].into()]).collect()
}

/// Sends messages through a pipe that takes `capacity` bytes at a time.
async fn go_round<M: Body + Clone + PartialEq + std::fmt::Debug>(messages: Vec<M>, capacity: usize) {
    let (near, far) = tokio::io::duplex(capacity);
    let mut near = Framed::new(near, TallowCodec::<M, M>::new());
    let mut far = Framed::new(far, TallowCodec::<M, M>::new());
    let sent = messages.clone();
    let send = async move {
        for message in sent {
            near.send(message).await.unwrap();
        }
        near.close().await.unwrap();
    };
    let receive = async move {
        let mut received = Vec::new();
        while let Some(message) = far.next().await {
            received.push(message.unwrap());
        }
        received
    };
    let ((), received) = tokio::join!(send, receive);
    assert_eq!(received, messages);
}

#[tokio::test]
async fn every_message_round_trips() {
    for capacity in [1, 7, 1 << 16] {
        go_round(client_messages(), capacity).await;
        go_round(relay_messages(), capacity).await;
        go_round(handshake_messages(), capacity).await;
    }
    for capacity in [1 << 10, 1 << 20] {
        go_round(records(), capacity).await;
    }
}

#[test]
fn any_cut_of_the_stream_gives_the_same_messages() {
    let mut stream = BytesMut::new();
    let mut codec = TallowCodec::<RelayMessage, RelayMessage>::new();
    for message in relay_messages() {
        codec.encode(message, &mut stream).unwrap();
    }
    for cut in 0..stream.len() {
        let mut codec = TallowCodec::<RelayMessage, RelayMessage>::new();
        let (mut received, mut arrived) = (Vec::new(), BytesMut::new());
        for part in [&stream[..cut], &stream[cut..]] {
            arrived.extend_from_slice(part);
            while let Some(message) = codec.decode(&mut arrived).unwrap() {
                received.push(message);
            }
        }
        assert!(codec.decode_eof(&mut arrived).unwrap().is_none());
        assert_eq!(received, relay_messages());
    }
}

#[tokio::test]
async fn early_bytes_are_kept_for_next_codec() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let h3 = HandshakeMessage::H3 { confirmation: [1; 32] };
    let record = Bytes::from(vec![KIND_CONTROL; GREETING + 1]);
    let mut all = BytesMut::new();
    let paired = RelayMessage::Paired { streams: 0 };
    TallowCodec::<RelayMessage, RelayMessage>::new().encode(paired.clone(), &mut all).unwrap();
    TallowCodec::<HandshakeMessage, HandshakeMessage>::new().encode(h3.clone(), &mut all).unwrap();
    all.extend_from_slice(&enclose(&record));
    far.write_all(&all).await.unwrap();

    let mut relay = Framed::new(near, TallowCodec::<ClientMessage, RelayMessage>::new());
    assert_eq!(relay.next().await.unwrap().unwrap(), paired);
    let mut handshake = relay.map_codec(|codec| codec.turn_into::<HandshakeMessage, HandshakeMessage>());
    assert_eq!(handshake.next().await.unwrap().unwrap(), h3);
    let mut records = handshake.map_codec(|codec| codec.turn_into::<Bytes, Bytes>());
    assert_eq!(records.next().await.unwrap().unwrap(), record);
}

#[tokio::test]
async fn a_stream_that_ends_inside_of_a_frame_is_an_error() {
    let frame = enclose(&encode(&ClientMessage::Ping));
    for cut in 1..frame.len() {
        let (near, mut far) = tokio::io::duplex(100);
        far.write_all(&frame[..cut]).await.unwrap();
        drop(far);
        let mut near = Framed::new(near, TallowCodec::<ClientMessage, ClientMessage>::new());
        assert!(matches!(near.next().await, Some(Err(CodecError::Truncated))), "{cut}");
    }
}

#[test]
fn invalid_frames_are_errors() {
    let read = |bytes: &[u8]| {
        let mut codec = TallowCodec::<ClientMessage, ClientMessage>::new();
        match codec.decode(&mut BytesMut::from(bytes)) {
            Err(CodecError::Violation(violation)) => violation,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(&[0, 0, 0, 0]), Violation::EmptyFrame);
    assert_eq!(read(&[0, 1, 0, 0]), Violation::FrameTooLong);
    assert_eq!(read(&enclose(&[99])), Violation::Malformed);
    let mut with_rest = encode(&ClientMessage::Ping);
    with_rest.put_u8(0);
    assert_eq!(read(&enclose(&with_rest)), Violation::Malformed);
}

#[test]
fn unsendable_frame_is_not_written() {
    let mut codec = TallowCodec::<Bytes, Bytes>::new();
    let mut dst = BytesMut::new();
    let too_long = [(KIND_CONTROL, CONTROL + 1), (KIND_CHUNK, CHUNK + 1), (2, 10), (0, 0)];
    for (kind, len) in too_long {
        let result = codec.encode(vec![kind; len].into(), &mut dst);
        assert!(matches!(result, Err(CodecError::Unsendable)), "{kind} {len}");
        assert!(dst.is_empty());
    }
    codec.encode(vec![KIND_CONTROL; CONTROL].into(), &mut dst).unwrap();
    assert_eq!(dst.len(), CONTROL + 4);
}
