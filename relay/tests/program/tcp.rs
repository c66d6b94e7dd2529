//! The real program on TCP: TLS and WebSocket at the same port as its UDP socket.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};

use tallow_proto::link::quic::Profile;
use tallow_proto::link::tcp::{Closed, Kind, Transport};
use tallow_proto::link::trust::CertificateSeen;
use tallow_proto::wire::close;
use tallow_proto::wire::relay::{RefusalReason, RelayMessage, Role};

use super::client::{ClientPool, join};
use super::tcp_client::{TcpClient, until, websocket};
use super::{Program, SOON, Signal};

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn tls_and_websocket_clients_are_paired_on_quic_port() {
    let state = tempfile::tempdir().unwrap();
    let mut relay = Program::start(state.path(), &["--listen", "127.0.0.1:0"]);
    let fingerprint = relay.expect("certificate fingerprint ");
    let addr = relay.listening();
    let kinds = [
        (Kind::Tls, Transport::Tls),
        (websocket(true), Transport::SecureWebSocket),
        (websocket(false), Transport::WebSocket),
    ];
    for (room, (kind, transport)) in (0..).zip(kinds) {
        let mut alice = TcpClient::connect(addr, Kind::Tls, &[join(room, Role::Sender)]);
        assert!(until(SOON, [&mut alice], |[alice]| alice.received.contains(&RelayMessage::Waiting)));
        let mut bob = TcpClient::connect(addr, kind, &[join(room, Role::Receiver)]);
        let both = until(SOON, [&mut alice, &mut bob], |[alice, bob]| alice.streams.is_some() && bob.streams.is_some());
        assert!(both && alice.streams == Some(0) && bob.streams == Some(0));
        let (certificate, seen) = bob.link.unwrap();
        assert_eq!(seen, transport);
        if let CertificateSeen::Unchecked(seen) = certificate {
            assert_eq!(seen.to_string(), fingerprint);
        } else {
            assert_eq!(transport, Transport::WebSocket);
        }
        let all = bytes(20 << 20);
        alice.send(&all);
        bob.send(&all[..1000]);
        assert!(until(SOON, [&mut alice, &mut bob], |[alice, bob]| bob.bytes_received.len() == all.len()
            && alice.bytes_received.len() == 1000));
        assert!(bob.bytes_received == all && alice.bytes_received == all[..1000]);
        alice.finish();
        assert!(until(SOON, [&mut alice, &mut bob], |[_, bob]| bob.ended));
        bob.close(close::DONE);
        assert!(until(SOON, [&mut alice, &mut bob], |[alice, _]| alice.closed == Some(Closed::Ended)));
        let closed = relay.expect("room_closed");
        assert!(closed.contains("bytes_forwarded=20972520") && closed.contains("reason=left"), "{closed}");
    }
}

#[test]
fn quic_and_tls_clients_are_paired() {
    let state = tempfile::tempdir().unwrap();
    let mut relay = Program::start(state.path(), &["--listen", "127.0.0.1:0"]);
    let addr = relay.listening();
    let mut pool = ClientPool::new(addr, &Profile::peer());
    let alice = pool.connect(&[join(1, Role::Sender)]);
    assert!(pool.until(SOON, |pool| pool.clients[&alice].received.contains(&RelayMessage::Waiting)));
    let mut bob = TcpClient::connect(addr, Kind::Tls, &[join(1, Role::Receiver)]);
    assert!(pool.until(SOON, |pool| {
        bob.turn();
        pool.clients[&alice].paired && bob.streams == Some(0)
    }));
    bob.send(&bytes(5 << 20));
    assert!(pool.until(SOON, |pool| {
        bob.turn();
        pool.clients[&alice].bytes_received == 5 << 20
    }));
    pool.leave(alice, close::DONE);
    assert!(pool.until(SOON, |_| {
        bob.turn();
        bob.ended
    }));
}

#[test]
fn ending_relay_reports_reason_to_tcp_clients() {
    let state = tempfile::tempdir().unwrap();
    let mut relay = Program::start(state.path(), &["--listen", "127.0.0.1:0", "--drain", "1"]);
    let addr = relay.listening();
    let mut alice = TcpClient::connect(addr, websocket(true), &[join(1, Role::Sender)]);
    let mut waits = TcpClient::connect(addr, websocket(false), &[join(2, Role::Sender)]);
    let waiting = |client: &TcpClient| client.received.contains(&RelayMessage::Waiting);
    assert!(until(SOON, [&mut alice, &mut waits], |[alice, waits]| waiting(alice) && waiting(waits)));
    let mut bob = TcpClient::connect(addr, Kind::Tls, &[join(1, Role::Receiver)]);
    assert!(until(SOON, [&mut alice, &mut bob], |[alice, bob]| alice.streams.is_some() && bob.streams.is_some()));
    relay.signal(Signal::TERM);
    relay.expect("shutting down: ");
    let told = RelayMessage::Refused { reason: RefusalReason::ShuttingDown, retry_after: 0 };
    let down =
        |client: &TcpClient| matches!(client.closed, Some(Closed::Application { code: close::SHUTTING_DOWN, .. }));
    assert!(until(SOON, [&mut waits], |[waits]| down(waits)));
    assert_eq!(waits.received.last(), Some(&told));
    assert!(TcpStream::connect(addr).is_err(), "the listener is closed, so that clients go elsewhere at once");
    alice.send(b"still here");
    assert!(until(SOON, [&mut alice, &mut bob], |[_, bob]| bob.bytes_received == b"still here"));
    assert!(until(SOON, [&mut alice, &mut bob], |[alice, bob]| down(alice) && bob.is_over()));
    assert!(bob.ended, "close_notify, and not an end without it");
    assert_eq!(relay.end().0, Some(0));
}

#[test]
fn tcp_port_in_use_is_reported_with_address() {
    let state = tempfile::tempdir().unwrap();
    // A port that is free for UDP.
    let (taken, addr) = loop {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        if UdpSocket::bind(addr).is_ok() {
            break (taken, addr);
        }
    };
    let (code, said) = Program::start(state.path(), &["--listen", &addr.to_string()]).end();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains(&format!("cannot listen on {addr} (TCP)")), "{said}");
    assert!(!said.contains("listening on"), "{said}");
    drop(taken);
}

/// A client of another protocol gets no answer before the end, except that a browser gets an explanation.
#[test]
fn other_protocols_are_refused() {
    let state = tempfile::tempdir().unwrap();
    let mut relay = Program::start(state.path(), &["--listen", "127.0.0.1:0", "-v"]);
    let addr = relay.listening();
    for (request, answer) in
        [(&b"SSH-2.0-OpenSSH_9.2\r\n"[..], ""), (b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", "HTTP/1.1 4")]
    {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(request).unwrap();
        let mut got = Vec::new();
        // The end of the stream or a reset.
        let _ = stream.read_to_end(&mut got);
        let got = String::from_utf8_lossy(&got).into_owned();
        assert!(got.starts_with(answer) && (!answer.is_empty() || got.is_empty()), "{got}");
        relay.expect("reason=violation");
    }
}

/// Run by `.ci/nginx`, which provides the path of nginx.
#[test]
#[ignore = "needs nginx in front of a relay"]
fn websockets_work_behind_nginx() {
    let addr = std::env::var("TALLOW_BEHIND_NGINX").unwrap().parse().unwrap();
    let mut alice = TcpClient::connect(addr, websocket(true), &[join(77, Role::Sender)]);
    let waits = until(SOON, [&mut alice], |[alice]| alice.received.contains(&RelayMessage::Waiting) || alice.is_over());
    assert!(waits && !alice.is_over(), "{:?} {:?}", alice.link, alice.closed);
    let mut bob = TcpClient::connect(addr, websocket(true), &[join(77, Role::Receiver)]);
    assert!(until(SOON, [&mut alice, &mut bob], |[alice, bob]| alice.streams.is_some() && bob.streams.is_some()));
    let all = bytes(20 << 20);
    alice.send(&all);
    bob.send(&all[..1000]);
    assert!(until(SOON, [&mut alice, &mut bob], |[alice, bob]| bob.bytes_received.len() == all.len()
        && alice.bytes_received.len() == 1000));
    assert!(bob.bytes_received == all && alice.bytes_received == all[..1000]);
    // The close code and the end of the stream are forwarded, too.
    alice.close(close::ENDED);
    let left = |bob: &TcpClient| matches!(bob.closed, Some(Closed::Application { code: close::PEER_LEFT, .. }));
    assert!(until(SOON, [&mut alice, &mut bob], |[_, bob]| left(bob)));
}
