use proptest::prelude::*;

use super::*;

const ID: PipeId = PipeId(7);

fn exchange() -> Exchange {
    let to = SocketAddrV4::new([192, 168, 1, 1].into(), 80);
    let mut exchange = Exchange::new(to, b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(matches!(exchange.poll_dial(ID), Some(Action::Dial(ID, dial)) if dial.to == to.into()));
    exchange
}

fn feed(exchange: &mut Exchange, bytes: &[u8], piece: usize) -> Progress {
    for piece in bytes.chunks(piece) {
        exchange.buffer()[..piece.len()].copy_from_slice(piece);
        let progress = exchange.handle(PipeEvent::Filled(piece.len()));
        if progress != Progress::Waiting {
            return progress;
        }
    }
    exchange.handle(PipeEvent::Eof)
}

fn answered(status: u16, body: &str) -> Progress {
    Progress::Answered(Answer { status, body: body.to_owned() })
}

#[test]
fn bodies_end_in_three_ways() {
    for piece in [1, 3, BUFFER] {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", answered(200, "abc")),
            ("HTTP/1.0 500 X\r\ncontent-length:0\r\n\r\n", answered(500, "")),
            ("HTTP/1.1 200 OK\r\n\r\nabc", answered(200, "abc")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
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
fn nothing_is_too_large() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let full = "x".repeat(MAX_BODY);
    assert_eq!(feed(&mut exchange(), format!("{ok}\r\n{full}").as_bytes(), BUFFER), answered(200, &full));
    for text in [
        format!("{ok}\r\n{full}x"),
        format!("{ok}Content-Length: {}\r\n\r\n{full}x", MAX_BODY + 1),
        format!("{ok}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\n{}", "1\r\na\r\n".repeat(MAX_RAW / 6 + 1)),
        format!("{ok}{}", "X: y\r\n".repeat(9000)),
    ] {
        assert_eq!(feed(&mut exchange(), text.as_bytes(), BUFFER), Progress::Failed);
    }
}

#[test]
fn a_request_is_written_as_the_pipe_takes_it() {
    let mut exchange = exchange();
    let mut written = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[])];
        if exchange.output(&mut slices) == 0 {
            break;
        }
        written.extend_from_slice(&slices[0][..1]);
        assert_eq!(exchange.handle(PipeEvent::Wrote(1)), Progress::Waiting);
    }
    assert_eq!(written, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(exchange.pipe(), Some(ID));
    assert_eq!(exchange.handle(PipeEvent::Failed(std::io::ErrorKind::ConnectionReset)), Progress::Failed);
    assert_eq!(exchange.pipe(), None);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        text in "(HTTP/1.1 200 OK\r\n|\r\n|Content-Length: 3\r\n|Transfer-Encoding: chunked\r\n|2\r\n|ab|0\r\n|x){0,12}",
        piece in 1..20_usize,
    ) {
        let text = ["HTTP/1.1 200 OK\r\n", &text].concat();
        let whole = feed(&mut exchange(), text.as_bytes(), BUFFER);
        prop_assert_eq!(feed(&mut exchange(), text.as_bytes(), piece), whole);
    }
}
