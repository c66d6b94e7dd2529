use proptest::prelude::*;
use rand_core::SeedableRng;

use super::*;

const REQUEST: &str = "GET /x HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: chat, tallow.1\r\n\r\n";

fn answer_to(request: &str) -> (Option<UpgradeFailure>, String) {
    let mut server = Upgrade::server(Browsers::Refused);
    let (failure, answer) = match server.receive(request.as_bytes()) {
        Ok(Some((answer, rest))) => {
            assert_eq!(rest, b"");
            (None, answer)
        }
        Ok(None) => panic!("not whole"),
        Err((failure, answer)) => (Some(failure), answer),
    };
    (failure, String::from_utf8(answer.to_vec()).unwrap())
}

fn client() -> (String, Upgrade) {
    let (request, upgrade) = Upgrade::client("relay.test:4433", "/x", &mut ChaCha20Rng::seed_from_u64(1));
    (String::from_utf8(request.to_vec()).unwrap(), upgrade)
}

fn judged(answer: &str) -> Result<(), UpgradeFailure> {
    let (_, mut client) = client();
    client.receive(answer.as_bytes()).map(|done| assert!(done.is_some())).map_err(|(failure, say)| {
        assert!(say.is_empty());
        failure
    })
}

#[test]
fn accept_key_matches_rfc_6455_example() {
    assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let (failure, answer) = answer_to(REQUEST);
    assert_eq!(failure, None);
    assert!(answer.starts_with("HTTP/1.1 101 "));
    assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: tallow.1\r\n"));
}

#[test]
fn upgrade_succeeds_and_keeps_following_bytes() {
    let (request, mut client) = client();
    assert!(request.starts_with("GET /x HTTP/1.1\r\nHost: relay.test:4433\r\n"));
    let mut server = Upgrade::server(Browsers::Refused);
    let with_more = [request.as_bytes(), b"more"].concat();
    let (answer, rest) = server.receive(&with_more).unwrap().unwrap();
    assert_eq!(rest, b"more");
    let with_more = [&answer[..], b"and more"].concat();
    let (say, rest) = client.receive(&with_more).unwrap().unwrap();
    assert_eq!((&say[..], rest), (&b""[..], &b"and more"[..]));
}

#[test]
fn invalid_upgrade_request_gets_matching_status() {
    let cases = [
        (REQUEST.replace("GET", "POST"), "405 "),
        (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "400 "),
        (REQUEST.replace("Host: relay.test\r\n", ""), "400 "),
        (REQUEST.replace("Upgrade: websocket\r\n", ""), "426 "),
        (REQUEST.replace("keep-alive, Upgrade", "keep-alive"), "426 "),
        (REQUEST.replace("Version: 13", "Version: 8"), "426 "),
        (REQUEST.replace("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: dGhlIHNhbXBsZQ=="), "400 "),
        (REQUEST.replace("Key: dGhl", "Key: !!!!"), "400 "),
        (REQUEST.replace("chat, tallow.1", "chat, tallow.10"), "400 "),
        (REQUEST.replace("Sec-WebSocket-Protocol: chat, tallow.1\r\n", ""), "400 "),
        (REQUEST.replace("Host:", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost:"), "400 "),
    ];
    for (request, status) in cases {
        let (failure, answer) = answer_to(&request);
        assert_eq!(failure, Some(UpgradeFailure::Request), "{request}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}\n{answer}");
        assert!(answer.ends_with(ABOUT) && answer.contains(&format!("Content-Length: {}\r\n", ABOUT.len())));
    }
    let (failure, answer) = answer_to(&REQUEST.replace("Version: 13", "Version: 8"));
    assert_eq!(failure, Some(UpgradeFailure::Request));
    assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"), "RFC 6455 §4.4");
    assert_eq!(answer_to("GET\x01 / HTTP/1.1\r\n\r\n").0, Some(UpgradeFailure::NotHttp));
}

#[test]
fn upgrade_head_length_is_bounded() {
    let many = REQUEST.replace("Host:", &("X: y\r\n".repeat(MAX_HEADERS) + "Host:"));
    assert_eq!(answer_to(&many).0, Some(UpgradeFailure::TooLarge));
    let mut server = Upgrade::server(Browsers::Refused);
    let mut fed = 0;
    let failure = loop {
        match server.receive(b"GET / HTTP/1.1 and so on") {
            Ok(None) => fed += 24,
            Ok(Some(_)) => panic!("never whole"),
            Err((failure, answer)) => {
                assert!(answer.starts_with(b"HTTP/1.1 431 "));
                break failure;
            }
        }
    };
    assert_eq!(failure, UpgradeFailure::TooLarge);
    assert!(fed <= MAX_HEAD);
}

#[test]
fn invalid_upgrade_response_is_refused() {
    let (request, _) = client();
    let (_, good) = answer_to(&request);
    assert_eq!(judged(&good), Ok(()));
    let cases = [
        (good.replace("101", "200"), UpgradeFailure::Status(200)),
        (good.replace("101", "502"), UpgradeFailure::Status(502)),
        (good.replace("HTTP/1.1", "HTTP/1.0"), UpgradeFailure::Answer),
        (good.replace("Upgrade: websocket", "Upgrade: h2c"), UpgradeFailure::Answer),
        (good.replace("Connection: Upgrade", "Connection: close"), UpgradeFailure::Answer),
        (good.replace("Accept: ", "Accept: x"), UpgradeFailure::Answer),
        (
            good.replace("Protocol:", "Extensions: permessage-deflate\r\nSec-WebSocket-Protocol:"),
            UpgradeFailure::Answer,
        ),
        (good.replace("tallow.1", "tallow.2"), UpgradeFailure::Subprotocol),
        (good.replace("Sec-WebSocket-Protocol: tallow.1\r\n", ""), UpgradeFailure::Subprotocol),
        (good.replace("HTTP", "HELO"), UpgradeFailure::NotHttp),
    ];
    for (answer, failure) in cases {
        assert_eq!(judged(&answer), Err(failure), "{answer}");
    }
}

#[test]
fn a_path_cannot_smuggle_a_header_in() {
    assert!(is_path("/") && is_path("/tallow/link?x=%20"));
    for path in ["", "x", "/a b", "/a\r\nX: y", "/ü", "/a#b", &format!("/{}", "a".repeat(MAX_HEAD))] {
        assert!(!is_path(path), "{path}");
    }
}

proptest! {
    #[test]
    fn upgrade_accepts_any_split_of_input(cuts in proptest::collection::vec(1_usize..200, 1..50)) {
        let mut server = Upgrade::server(Browsers::Refused);
        let bytes = [REQUEST.as_bytes(), &[b'z'; 300]].concat();
        let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
        let mut got = None;
        while got.is_none() {
            let end = (at + cuts.next().unwrap()).min(bytes.len());
            if let Some((_, rest)) = server.receive(&bytes[at..end]).unwrap() {
                got = Some(end - rest.len());
            }
            at = end;
        }
        prop_assert_eq!(got, Some(REQUEST.len()));
    }

    #[test]
    fn upgrade_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..400) {
        let sides =
            [(Upgrade::server(Browsers::Refused), REQUEST.to_owned()), (client().1, answer_to(&client().0).1)];
        for (mut upgrade, good) in sides {
            let mut text = good.into_bytes();
            let at = at.min(text.len());
            text.splice(at..at, bytes.iter().copied());
            let _ = upgrade.receive(&text);
        }
    }
}

#[test]
fn browser_origin_is_refused_unless_allowed() {
    let request = REQUEST.replace("\r\n\r\n", "\r\nORIGIN: null\r\n\r\n");
    let (failure, answer) = answer_to(&request);
    assert_eq!(failure, Some(UpgradeFailure::Request));
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let mut server = Upgrade::server(Browsers::Allowed);
    assert!(server.receive(request.as_bytes()).is_ok_and(|answer| answer.is_some()));
}
