#![allow(clippy::disallowed_methods, reason = "virtual time starts somewhere")]

use proptest::prelude::*;

use super::*;
use crate::seed::Seed;

const ID: TransactionId = TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// RFC 5769 §2.1: a request of ICE, with PRIORITY, ICE-CONTROLLED, USERNAME, MESSAGE-INTEGRITY and FINGERPRINT.
fn rfc5769_request() -> Vec<u8> {
    hex("000100582112a442b7e7a701bc34d686fa87dfae 802200105354554e207465737420636c69656e74 002400046e0001ff
         80290008932ff9b151263b36 000600096576746a3a68367659202020 000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
         80280004e57a3bcf")
}

/// RFC 5769 §2.2.
fn rfc5769_v4() -> Vec<u8> {
    hex("0101003c2112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220 002000080001a147e112a643
         000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96")
}

/// RFC 5769 §2.3.
fn rfc5769_v6() -> Vec<u8> {
    hex("010100482112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
         002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
         00080014a382954e4be67bf11784c97c8292c275bfe3ed41 80280004c8fb0b4c")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    attributes.iter().fold(Writer::new(kind, ID), |writer, (kind, value)| writer.put(*kind, value)).0
}

#[test]
fn rfc_5769_vectors_match() {
    let observed = addr("192.0.2.1:32853");
    assert_eq!(decode(&rfc5769_v4()), Ok(Message::Success { id: ID, observed }));
    let observed = addr("[2001:db8:1234:5678:11:2233:4455:6677]:32853");
    assert_eq!(decode(&rfc5769_v6()), Ok(Message::Success { id: ID, observed }));
    let request = Message::Request { id: ID, unknown: vec![0x24], fingerprint: true };
    assert_eq!(decode(&rfc5769_request()), Ok(request));
}

/// Except in the attributes' headers: a flipped bit there can hide the fingerprint in another attribute, and then none
/// is checked.
#[test]
fn flipped_bit_is_detected_by_fingerprint() {
    for vector in [rfc5769_request(), rfc5769_v4(), rfc5769_v6()] {
        let (mut headers, mut at) = (vec![], HEADER);
        while at < vector.len() {
            headers.extend(at..at + 4);
            at += 4 + usize::from(vector[at + 3]).next_multiple_of(4);
        }
        for bit in (0..vector.len() * 8).filter(|bit| !headers.contains(&(bit / 8))) {
            let mut flipped = vector.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn request_is_answered_with_its_source_address() {
    for from in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853", "[::ffff:192.0.2.1]:1"] {
        let from = addr(from);
        let said = answer(&request(ID), from).unwrap();
        assert_eq!(decode(&said), Ok(Message::Success { id: ID, observed: canonical(from) }));
        assert_eq!(decode(&said[..said.len() - 1]), Err(Invalid::Length));
    }
    assert_eq!(request(ID).len(), REQUEST_LEN);
}

#[test]
fn ordinary_clients_get_minimal_answer() {
    let bare = message(kind::REQUEST, &[]);
    assert_eq!(answer(&bare, addr("192.0.2.1:5")).unwrap().len(), 32);
    assert_eq!(answer(&bare, addr("[2001:db8::1]:5")).unwrap().len(), 44);
    // Requests of coturn's and Chrome's clients: with SOFTWARE, or with credentials that are ignored.
    let named = message(kind::REQUEST, &[(0x8022, b"some client"), (6, b"somebody"), (8, &[0; 20])]);
    assert_eq!(answer(&named, addr("192.0.2.1:5")).unwrap().len(), 32);
}

#[test]
fn unknown_required_attribute_is_listed_in_error() {
    // CHANGE-REQUEST and RESPONSE-PORT of RFC 5780 would redirect the response.
    let said =
        answer(&message(kind::REQUEST, &[(3, &[0, 0, 0, 6]), (0x27, &[0, 80, 0, 0])]), addr("192.0.2.1:5")).unwrap();
    assert_eq!(said[20..], [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 4, 0, 3, 0, 0x27]);
    assert_eq!(decode(&said), Ok(Message::Error { id: ID, code: 420 }));
    assert_eq!(
        decode(&answer(&rfc5769_request(), addr("192.0.2.1:5")).unwrap()),
        Ok(Message::Error { id: ID, code: 420 })
    );
}

#[test]
fn only_requests_are_answered() {
    let from = addr("192.0.2.1:5");
    let said = answer(&request(ID), from).unwrap();
    let error = message(kind::ERROR, &[(9, &[0, 0, 5, 0])]);
    let indication = message(kind::INDICATION, &[]);
    assert_eq!(decode(&indication), Ok(Message::Indication));
    for other in
        [said, error, indication, rfc5769_v4(), message(0x0003, &[]), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![]]
    {
        assert_eq!(answer(&other, from), None);
    }
}

#[test]
fn rfc_3489_servers_are_understood() {
    let plain = [0, 1, 0x80, 0x55, 192, 0, 2, 1];
    let other = [0, 1, 0x10, 0x10, 192, 0, 2, 9];
    let observed = addr("192.0.2.1:32853");
    let old = message(kind::SUCCESS, &[(1, &plain), (4, &other), (5, &other)]);
    assert_eq!(decode(&old), Ok(Message::Success { id: ID, observed }));
    // XOR-MAPPED-ADDRESS has precedence over MAPPED-ADDRESS, which a NAT may have changed, in any order; of two
    // attributes of one type the first one counts.
    let xored = [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
    let both = message(kind::SUCCESS, &[(1, &other), (0x20, &xored), (0x20, &other)]);
    assert_eq!(decode(&both), Ok(Message::Success { id: ID, observed }));
}

#[test]
fn malformed_messages_are_discarded() {
    let plain: &[u8] = &[0, 1, 0x80, 0x55, 192, 0, 2, 1];
    let success = |attributes: &[(u16, &[u8])]| message(kind::SUCCESS, attributes);
    let cases: Vec<(Vec<u8>, Invalid)> = vec![
        (vec![], Invalid::NotStun),
        (request(ID)[..19].to_vec(), Invalid::NotStun),
        ([&[0x41][..], &request(ID)[1..]].concat(), Invalid::NotStun),
        ([&request(ID)[..], &[0; 4]].concat(), Invalid::Length),
        ([&[0, 1, 0, 1][..], &message(1, &[])[4..], &[0]].concat(), Invalid::Length),
        (message(0x0003, &[]), Invalid::Method),
        (success(&[]), Invalid::Empty),
        (message(kind::ERROR, &[]), Invalid::Empty),
        (success(&[(1, plain), (0x7000, &[])]), Invalid::Unknown),
        (success(&[(1, &plain[..7])]), Invalid::Attribute),
        (success(&[(1, &[plain, &[0; 4]].concat())]), Invalid::Attribute),
        (success(&[(1, &[0, 3, 0, 0, 1, 2, 3, 4])]), Invalid::Attribute),
        (message(kind::ERROR, &[(9, &[0, 0, 2, 0])]), Invalid::Attribute),
        (message(kind::ERROR, &[(9, &[0, 0, 4, 100])]), Invalid::Attribute),
        (message(kind::ERROR, &[(9, &[0, 0, 4])]), Invalid::Attribute),
        (success(&[(0x8028, &[1, 2, 3, 4]), (1, plain)]), Invalid::Fingerprint),
        (success(&vec![(0x8000, &[][..]); MAX_ATTRIBUTES + 1]), Invalid::Attribute),
        (success(&[(0x8000, &[0; MAX_LEN])]), Invalid::TooLong),
        // Lengths that exceed the message, once into the padding.
        ([&[1, 1, 0, 8][..], &success(&[])[4..], &[0x80, 0, 0, 5, 0, 0, 0, 0]].concat(), Invalid::Attribute),
        ([&[1, 1, 0, 4][..], &success(&[])[4..], &[0x80, 0, 0xFF, 0xFF]].concat(), Invalid::Attribute),
    ];
    for (number, (bytes, why)) in cases.into_iter().enumerate() {
        assert_eq!(decode(&bytes), Err(why), "case {number}");
    }
    // A correct fingerprint, and an attribute after it.
    let mut behind = request(ID);
    behind.extend_from_slice(&[0x80, 0, 0, 0]);
    behind[3] = 12;
    assert_eq!(decode(&behind), Err(Invalid::Fingerprint));
    assert_eq!(decode(&success(&[(8, &[0; 20]), (1, plain)])), Err(Invalid::Empty), "behind an integrity check");
}

#[test]
fn stun_request_is_sent_five_times_then_given_up() {
    let start = Instant::now();
    let mut transaction = Transaction::new(start, addr("192.0.2.1:3478"), &mut Seed::new([1; 32]).rng());
    let (mut now, mut sent, mut waits) = (start, Vec::new(), Vec::new());
    loop {
        match transaction.step(now) {
            Step::Send(bytes) => sent.push(bytes),
            Step::Wait(until) => {
                assert_eq!(transaction.due(), until);
                waits.push((until - now).as_millis());
                now = until;
            }
            Step::Over => break,
        }
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 2000]);
    assert_eq!(sent.len(), TRIES as usize);
    assert!(sent.iter().all(|bytes| *bytes == sent[0]), "a retransmission is the same request");
    assert_eq!(transaction.step(now), Step::Over);
}

#[test]
fn answer_must_match_transaction_id_and_server() {
    let (now, server, own) = (Instant::now(), addr("192.0.2.1:3478"), addr("198.51.100.1:7000"));
    let mut transaction = Transaction::new(now, server, &mut Seed::new([1; 32]).rng());
    let Step::Send(request) = transaction.step(now) else { panic!() };
    let right = decode(&answer(&request, own).unwrap()).unwrap();
    assert_eq!(transaction.handle_message(server, &right), Some(Answer::Observed(own)));
    assert_eq!(transaction.handle_message(addr("[::ffff:192.0.2.1]:3478"), &right), Some(Answer::Observed(own)));
    for other in ["192.0.2.1:3479", "192.0.2.2:3478"] {
        assert_eq!(transaction.handle_message(addr(other), &right), None);
    }
    let guessed = Message::Success { id: ID, observed: own };
    assert_eq!(transaction.handle_message(server, &guessed), None);
    assert_eq!(transaction.handle_message(server, &decode(&request).unwrap()), None, "a request is not a response");
    let Message::Success { id, .. } = right else { panic!() };
    // An alternate server (300) is a response like other errors: no other server is queried.
    assert_eq!(transaction.handle_message(server, &Message::Error { id, code: 300 }), Some(Answer::Refused(300)));
}

#[test]
fn transaction_ids_derive_from_seed_only() {
    let (now, server) = (Instant::now(), addr("192.0.2.1:3478"));
    let ids = |seed| -> Vec<TransactionId> {
        let mut rng = Seed::new([seed; 32]).rng();
        (0..1000).map(|_| Transaction::new(now, server, &mut rng).id).collect()
    };
    assert_eq!(ids(1), ids(1));
    let mut all = [ids(1), ids(2)].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2000);
    // Every bit varies: none has the same value in all ids.
    let ones = all.iter().fold([0; 12], |ones, id| std::array::from_fn(|at| ones[at] | id.0[at]));
    let both = all.iter().fold([0xFF; 12], |both, id| std::array::from_fn(|at| both[at] & id.0[at]));
    assert_eq!((ones, both), ([0xFF; 12], [0; 12]));
}

/// Bytes, some of which resemble a message.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (
        prop_oneof![prop::sample::select(vec![1_u16, 3, 6, 8, 9, 10, 0x1C, 0x20, 0x24, 0x8022, 0x8028]), any::<u16>()],
        prop::collection::vec(any::<u8>(), 0..24),
    );
    let near = (
        prop::sample::select(vec![1_u16, 1, 1, 0x11, 0x101, 0x111]),
        prop::collection::vec(attribute, 0..40),
        any::<bool>(),
        prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(kind, attributes, fingerprint, change)| {
            let writer =
                attributes.iter().fold(Writer::new(kind, ID), |writer, (kind, value)| writer.put(*kind, value));
            let mut bytes = writer.finish(fingerprint);
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..100), near]
}

proptest! {
    #[test]
    fn any_datagram_gets_short_or_no_answer(bytes in any_bytes(), v6 in any::<bool>()) {
        let from = if v6 { addr("[2001:db8::1]:5000") } else { addr("192.0.2.1:5000") };
        let said = answer(&bytes, from);
        prop_assert_eq!(said.is_some(), matches!(decode(&bytes), Ok(Message::Request { .. })));
        if let Some(said) = said {
            prop_assert!(said.len() <= bytes.len() + MAX_GAIN);
            prop_assert!(!matches!(decode(&said), Ok(Message::Request { .. })), "two relays do not answer each other");
            prop_assert!(decode(&said).is_ok());
        }
    }

    #[test]
    fn every_address_round_trips(ip in any::<IpAddr>(), port in any::<u16>(), id in any::<[u8; 12]>()) {
        let (id, from) = (TransactionId(id), SocketAddr::new(ip, port));
        let said = answer(&request(id), from).unwrap();
        prop_assert_eq!(decode(&said), Ok(Message::Success { id, observed: canonical(from) }));
    }
}
