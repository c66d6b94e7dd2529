use proptest::prelude::*;

use super::*;

fn proxy(url: &str) -> Proxy {
    url.parse().unwrap()
}

/// Feeds the answer in pieces. Returns the bytes that were sent, and the bytes that follow the conversation.
fn converse(url: &str, host: &str, answer: &[u8], cut: usize) -> Result<(Vec<u8>, Option<Vec<u8>>), ProxyFailure> {
    let mut conversation = Conversation::new(&proxy(url), host, 4433);
    let (mut said, mut waiting) = (conversation.poll_message().unwrap().to_vec(), Vec::new());
    let mut pieces = answer.chunks(cut);
    while let Some(piece) = pieces.next() {
        waiting.extend_from_slice(piece);
        loop {
            match conversation.receive(&waiting)? {
                Progress::Wait => break,
                Progress::Took(count) => drop(waiting.drain(..count)),
                Progress::Through(count) => {
                    waiting.drain(..count);
                    waiting.extend(pieces.flatten());
                    return Ok((said, Some(waiting)));
                }
            }
            said.extend(conversation.poll_message().into_iter().flatten());
        }
    }
    Ok((said, None))
}

#[test]
fn proxy_url_is_parsed() {
    let cases = [
        ("http://proxy.test:3128", "http://proxy.test:3128"),
        ("HTTP://Proxy.Test:3128/", "http://proxy.test:3128"),
        ("proxy.test:8080", "http://proxy.test:8080"),
        ("http://proxy.test", "http://proxy.test:80"),
        ("socks5://127.0.0.1", "socks5h://127.0.0.1:1080"),
        ("socks5h://[::1]:9050", "socks5h://[::1]:9050"),
        (" http://a:b@proxy.test ", "http://proxy.test:80"),
    ];
    for (url, shown) in cases {
        assert_eq!(proxy(url).to_string(), shown, "{url}");
    }
    let Login { user, password } = proxy("socks5://a%40b:p%3A%25:@h").login.unwrap();
    assert_eq!((user.as_str(), password.as_str()), ("a@b", "p:%:"));
}

#[test]
fn invalid_proxy_url_reports_its_error() {
    let long = format!("http://{}", "a".repeat(MAX_URL));
    let long_host = format!("http://{}", "a".repeat(254));
    let long_login = format!("http://{}@h", "a".repeat(MAX_LOGIN + 1));
    let cases = [
        (long.as_str(), BadProxy::TooLong),
        ("ftp://h", BadProxy::Scheme),
        ("socks4://h", BadProxy::Scheme),
        ("https://h", BadProxy::Tls),
        ("http://", BadProxy::Host),
        ("", BadProxy::Host),
        ("http://a b", BadProxy::Host),
        ("http://[::1", BadProxy::Host),
        ("http://[::1]x", BadProxy::Host),
        ("http://::1", BadProxy::Host),
        ("http://[h]", BadProxy::Host),
        ("http://h\r\nX: y", BadProxy::Host),
        (&long_host, BadProxy::Host),
        ("http://h:0", BadProxy::Port),
        ("http://h:", BadProxy::Port),
        ("http://h:+80", BadProxy::Port),
        ("http://h:65536", BadProxy::Port),
        ("http://@h", BadProxy::Login),
        ("http://a%3ab:c@h", BadProxy::Login),
        ("http://a:%4@h", BadProxy::Login),
        ("http://a:%ff@h", BadProxy::Login),
        ("http://a:%0a@h", BadProxy::Login),
        (&long_login, BadProxy::Login),
        ("http://h/x", BadProxy::Path),
        ("http://h?x", BadProxy::Path),
        ("http://h#x", BadProxy::Path),
    ];
    for (url, expected) in cases {
        assert_eq!(url.parse::<Proxy>(), Err(expected), "{url}");
    }
}

#[test]
fn a_login_is_never_shown() {
    let proxy = proxy("http://user:sesame@h:1");
    let conversation = Conversation::new(&proxy, "relay.test", 1);
    let shown = format!("{proxy} {proxy:?} {conversation:?}");
    assert!(!shown.contains("user") && !shown.contains("sesame") && !shown.contains("dXNlcjpzZXNhbWU"), "{shown}");
    assert!(shown.contains("h:1"));
}

#[test]
fn http_connect_works_with_and_without_login() {
    let answer = b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n\x16\x03";
    let (said, rest) = converse("http://p", "relay.test", answer, 7).unwrap();
    assert_eq!(said, b"CONNECT relay.test:4433 HTTP/1.1\r\nHost: relay.test:4433\r\n\r\n");
    assert_eq!(rest.unwrap(), b"\x16\x03", "what follows belongs to the tunnel");
    let (said, _) = converse("http://Aladdin:open%20sesame@p", "::1", answer, 1000).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("CONNECT [::1]:4433 HTTP/1.1\r\n"), "{said}");
    assert!(said.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "RFC 7617 §2: {said}");
}

#[test]
fn http_proxy_refusals_are_reported() {
    let cases = [
        ("http://p", "HTTP/1.1 407 Who?\r\n\r\n", ProxyFailure::LoginNeeded),
        ("http://a:b@p", "HTTP/1.1 407 Who?\r\n\r\n", ProxyFailure::LoginRefused),
        ("http://p", "HTTP/1.0 403 No\r\n\r\n", ProxyFailure::Status(403)),
        ("http://p", "HTTP/1.1 101 So\r\n\r\n", ProxyFailure::Status(101)),
        ("http://p", "SSH-2.0-x\r\n\r\n", ProxyFailure::NotAProxy),
        ("http://p", &"x".repeat(9000), ProxyFailure::NotAProxy),
    ];
    for (url, answer, expected) in cases {
        assert_eq!(converse(url, "h", answer.as_bytes(), 100), Err(expected), "{answer}");
    }
}

#[test]
fn socks_messages_match_rfc_1928_and_1929() {
    let (said, rest) =
        converse("socks5://p", "x.onion", b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00more", 1).unwrap();
    assert_eq!(said, b"\x05\x01\x00\x05\x01\x00\x03\x07x.onion\x11\x51");
    assert_eq!(rest.unwrap(), b"more");
    let (_, rest) = converse("socks5://p", "h", b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00more", 100).unwrap();
    assert_eq!(rest.unwrap(), b"more");

    let answer = b"\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x12\x34";
    let (said, rest) = converse("socks5://me:pw@p", "192.0.2.1", answer, 100).unwrap();
    assert_eq!(said, b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00\x01\xc0\x00\x02\x01\x11\x51");
    assert_eq!(rest.unwrap(), b"");

    let answer = b"\x05\x00\x05\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let (said, rest) = converse("socks5://me:pw@p", "2001:db8::1", answer, 3).unwrap();
    assert_eq!(said, b"\x05\x02\x00\x02\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x11\x51");
    assert_eq!(rest.unwrap(), b"");
}

#[test]
fn socks_proxy_refusals_are_reported() {
    let (open, login) = ("socks5://p", "socks5://a:b@p");
    let cases: [(&str, &[u8], ProxyFailure); 11] = [
        (open, b"\x05\xff", ProxyFailure::LoginNeeded),
        (login, b"\x05\xff", ProxyFailure::LoginRefused),
        (open, b"\x05\x02", ProxyFailure::NotAProxy),
        (open, b"\x04\x00", ProxyFailure::NotAProxy),
        (open, b"HTTP/1.1 400 Bad\r\n", ProxyFailure::NotAProxy),
        (login, b"\x05\x02\x01\x01", ProxyFailure::LoginRefused),
        (login, b"\x05\x02\x05\x00", ProxyFailure::NotAProxy),
        (open, b"\x05\x00\x05\x05\x00\x01\0\0\0\0\0\0", ProxyFailure::Socks(5)),
        (open, b"\x05\x00\x05\xf0\x00\x01\0\0\0\0\0\0", ProxyFailure::Socks(0xf0)),
        (open, b"\x05\x00\x04\x00", ProxyFailure::NotAProxy),
        (open, b"\x05\x00\x05\x00\x00\x02", ProxyFailure::NotAProxy),
    ];
    for (url, answer, expected) in cases {
        assert_eq!(converse(url, "h", answer, 1), Err(expected), "{answer:?}");
    }
    assert_eq!(ProxyFailure::Socks(5).to_string(), "the proxy could not connect: the connection was refused");
}

#[test]
fn partial_proxy_answer_is_awaited() {
    for (url, answer) in [
        ("http://p", &b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"[..]),
        ("socks5://a:b@p", b"\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x12\x34"),
    ] {
        for len in 1..answer.len() {
            let (_, rest) = converse(url, "h", &answer[..len], 1).unwrap();
            assert_eq!(rest, None, "{len}");
        }
        assert!(converse(url, "h", answer, 1).unwrap().1.is_some());
    }
}

proptest! {
    #[test]
    fn proxy_client_survives_any_answer(
        answer in proptest::collection::vec(any::<u8>(), 1..600),
        cut in 1_usize..50,
        socks: bool,
        known in 0_usize..4,
    ) {
        let url = if socks { "socks5://a:b@p" } else { "http://p" };
        let begin: &[u8] =
            if socks { &b"\x05\x02\x01\x00\x05\x00\x00"[..known * 2] } else { &b"HTTP/1.1 2"[..known * 3] };
        let _ = converse(url, "h", &[begin, &answer].concat(), cut);
    }

    #[test]
    fn proxy_url_parser_survives_any_text(url in "\\PC{0,60}", scheme in 0_usize..3) {
        let _ = format!("{}{url}", ["", "http://", "socks5://u:p@"][scheme]).parse::<Proxy>();
    }
}
