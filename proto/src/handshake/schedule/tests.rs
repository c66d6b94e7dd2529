use super::*;

fn schedule(transcript: u8, proved: &[u8]) -> Schedule {
    let shared = Shared { x25519: Zeroizing::new([2; 32]), ml_kem: Zeroizing::new([3; 32]) };
    Schedule::new([transcript; 32], proved, &shared)
}

#[test]
fn schedule_expand_equals_hkdf_expand() {
    let mut expected = [0; 32];
    hkdf::Hkdf::<Sha256>::from_prk(&[7; 32]).unwrap().expand(b"tallow v1 x", &mut expected).unwrap();
    assert_eq!(*expand(&[7; 32], &[b"tallow v1 ", b"x"]), expected);
}

#[test]
fn confirmation_depends_on_role_transcript_and_secret() {
    let ours = schedule(1, b"proved");
    let confirmation = ours.confirmation(Role::Sender);
    assert!(ours.confirms(Role::Sender, &confirmation));
    assert!(!ours.confirms(Role::Receiver, &confirmation));
    assert!(!schedule(2, b"proved").confirms(Role::Sender, &confirmation));
    assert!(!schedule(1, b"proven").confirms(Role::Sender, &confirmation));
    for at in 0..CONFIRMATION {
        let mut wrong = confirmation;
        wrong[at] ^= 1;
        assert!(!ours.confirms(Role::Sender, &wrong));
    }
}

#[test]
fn transcript_separates_its_messages() {
    let room = RoomId([9; 32]);
    let expected = transcript(b"ab", b"cd", &room);
    assert_ne!(transcript(b"abc", b"d", &room), expected);
    assert_ne!(transcript(b"ab", b"cd", &RoomId([8; 32])), expected);
}

#[test]
fn every_derived_key_is_different() {
    let schedule = schedule(1, b"proved");
    let (sender, receiver) = (schedule.records(Role::Sender), schedule.records(Role::Receiver));
    let reconnect = schedule.reconnect();
    let keys = [
        sender.0,
        receiver.0,
        reconnect.0,
        *schedule.expand(b"verifier"),
        *sender.lane_key(0),
        *sender.lane_key(1),
        *sender.lane_key(1 << 24),
        *receiver.lane_key(0),
        reconnect.room().0,
        *reconnect.pre_shared_key(),
    ];
    let all: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(all.len(), keys.len());
    assert!(reconnect.owner(Role::Sender) != reconnect.owner(Role::Receiver));
}

#[test]
fn verifier_words_are_base_1296_digits_in_big_endian_order() {
    let of = |number: u128| {
        let mut bytes = [0xff; 32];
        bytes[..16].copy_from_slice(&number.to_be_bytes());
        Verifier::new(&bytes).0
    };
    assert_eq!(of(0), [0; 7]);
    assert_eq!(of(1295), [0, 0, 0, 0, 0, 0, 1295]);
    assert_eq!(of(1296), [0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(of(1296_u128.pow(7) - 1), [1295; 7]);
    assert_eq!(of(1296_u128.pow(7) + 5), [0, 0, 0, 0, 0, 0, 5]);
    let words = Verifier([0, 1, 2, 3, 4, 5, 1295]).words();
    assert_eq!(words.map(str::is_empty), [false; 7]);
    assert_eq!(words[0], "aardvark");
}

#[test]
fn the_suite_follows_from_both_sides_features() {
    let (aes, no_aes) = (Features::VERIFY, Features::NO_AES.with(Features::NO_P2P));
    assert_eq!(Suite::of(aes, aes), Suite::Aes256Gcm);
    assert_eq!(Suite::of(aes, no_aes), Suite::ChaCha20Poly1305);
    assert_eq!(Suite::of(no_aes, aes), Suite::ChaCha20Poly1305);
}
