use proptest::prelude::*;

use super::chunked::MAX_CHUNKED;
use super::*;

const ID: ConnectionId = ConnectionId(7);

fn exchange() -> Exchange {
    let to = SocketAddrV4::new([192, 168, 1, 1].into(), 80);
    let mut exchange = Exchange::new(to, b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(matches!(exchange.poll_connect(ID), Some(addr) if addr == to));
    exchange
}

fn feed(exchange: &mut Exchange, bytes: &[u8], piece: usize) -> Progress {
    for piece in bytes.chunks(piece) {
        exchange.buffer()[..piece.len()].copy_from_slice(piece);
        let progress = exchange.handle(ConnectionEvent::Received(piece.len()));
        if progress != Progress::Waiting {
            return progress;
        }
    }
    exchange.handle(ConnectionEvent::Eof)
}

fn answered(status: u16, body: &str) -> Progress {
    Progress::Answered(Answer { status, body: body.to_owned() })
}

#[test]
fn body_ends_by_length_chunks_or_close() {
    for piece in [1, 3, BUFFER] {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", answered(200, "abc")),
            ("HTTP/1.0 500 X\r\ncontent-length:0\r\n\r\n", answered(500, "")),
            ("HTTP/1.1 200 OK\r\n\r\nabc", answered(200, "abc")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: \
                Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
                answered(200, "abc"),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", Progress::Failed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc", Progress::Failed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", Progress::Failed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", Progress::Failed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Progress::Failed),
            ("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabcd", Progress::Failed),
            ("HTTP/1.1 200 OK\r\n", Progress::Failed),
            ("220 mail.example ESMTP\r\n\r\n", Progress::Failed),
            ("", Progress::Failed),
        ] {
            assert_eq!(feed(&mut exchange(), text.as_bytes(), piece), expected, "{text}");
        }
    }
}

#[test]
fn a_response_over_a_bound_fails() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let full = "x".repeat(MAX_BODY);
    assert_eq!(feed(&mut exchange(), format!("{ok}\r\n{full}").as_bytes(), BUFFER), answered(200, &full));
    for text in [
        format!("{ok}\r\n{full}x"),
        format!("{ok}Content-Length: {}\r\n\r\n{full}x", MAX_BODY + 1),
        format!("{ok}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\n{}", "1\r\na\r\n".repeat(MAX_CHUNKED / 6 + 1)),
        format!("{ok}{}", "X: y\r\n".repeat(9000)),
    ] {
        assert_eq!(feed(&mut exchange(), text.as_bytes(), BUFFER), Progress::Failed);
    }
}

#[test]
fn request_is_sent_in_partial_writes() {
    let mut exchange = exchange();
    let mut written = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[])];
        if exchange.send_queue(&mut slices) == 0 {
            break;
        }
        written.extend_from_slice(&slices[0][..1]);
        assert_eq!(exchange.handle(ConnectionEvent::Sent(1)), Progress::Waiting);
    }
    assert_eq!(written, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(exchange.connection(), Some(ID));
    assert_eq!(exchange.handle(ConnectionEvent::Failed), Progress::Failed);
    assert_eq!(exchange.connection(), None);
}

proptest! {
    #[test]
    fn response_does_not_depend_on_read_sizes(
        text in "(HTTP/1.1 200 OK\r\n|\r\n|Content-Length: 3\r\n|Transfer-Encoding: \
            chunked\r\n|2\r\n|ab|0\r\n|x){0,12}",
        piece in 1..20_usize,
    ) {
        let text = ["HTTP/1.1 200 OK\r\n", &text].concat();
        let whole = feed(&mut exchange(), text.as_bytes(), BUFFER);
        prop_assert_eq!(feed(&mut exchange(), text.as_bytes(), piece), whole);
    }
}
