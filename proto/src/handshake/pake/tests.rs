use super::*;
use crate::seed::Seed;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn scalar(text: &str) -> Scalar {
    Scalar::from_bytes_mod_order(hex(text).try_into().unwrap())
}

/// draft-irtf-cfrg-cpace, appendix "CPACE-RISTR255-SHA512".
#[test]
fn cpace_draft_vectors_match() {
    let identifiers = hex("6f630b425f726573706f6e6465720b415f696e69746961746f72");
    let sid = hex("7e4b4791d6a8ef019b936c79fb7f2c57");
    let generator = generator(b"Password", &identifiers, &sid);
    assert_eq!(
        generator.compress().to_bytes()[..],
        hex("a6fc82c3b8968fbb2e06fee81ca858586dea50d248f0c7ca6a18b0902a30b36b")
    );
    let ours = scalar("da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08");
    let theirs = scalar("d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d");
    let ya = (ours * *generator).compress().to_bytes();
    let yb = (theirs * *generator).compress().to_bytes();
    assert_eq!(ya[..], hex("d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f87a"));
    assert_eq!(yb[..], hex("08bcf6e9777a9c313a3db6daa510f2d398403319c2341bd506a92e672eb7e307"));
    let shares = [&ya[..], b"ADa", &yb, b"ADb"];
    let expected = hex(
        "4c5469a16b2364c4b944ebc1a79e51d1674ad47db26e8718154f59faebfaa52d8346f30aa58377117eb20d527f2cbc5c76381f7fd372e8\
        9df8239f87f2e02ed1",
    );
    assert_eq!(session_key(&sid, &ours, &yb, shares).unwrap()[..], expected);
    assert_eq!(session_key(&sid, &theirs, &ya, shares).unwrap()[..], expected);
}

fn run(password: &str, room: u8, sid: u8, seed: u8) -> Pake {
    Pake::new(password.as_bytes(), &RoomId([room; 32]), [sid; 16], &mut Seed::new([seed; 32]).rng())
}

fn keys(a: Pake, b: Pake) -> (Vec<u8>, Vec<u8>) {
    let (ya, yb) = (a.share(), b.share());
    (a.finish(Role::Sender, &yb).unwrap().to_vec(), b.finish(Role::Receiver, &ya).unwrap().to_vec())
}

#[test]
fn a_key_depends_on_password_room_and_session_id() {
    let (a, b) = keys(run("cat-dog", 1, 1, 1), run("cat-dog", 1, 1, 2));
    assert_eq!(a, b);
    for other in [run("cat-dot", 1, 1, 2), run("cat-dog", 2, 1, 2), run("cat-dog", 1, 2, 2)] {
        let (a, b) = keys(run("cat-dog", 1, 1, 1), other);
        assert_ne!(a, b);
    }
    let long = "x".repeat(1000);
    let (a, b) = keys(run(&long, 1, 1, 1), run(&long, 1, 1, 2));
    assert_eq!(a, b, "a password longer than the hash's block");
    let (a, b) = (run("cat-dog", 1, 1, 1), run("cat-dog", 1, 1, 2));
    let (ya, yb) = (a.share(), b.share());
    assert_ne!(
        a.finish(Role::Sender, &yb).unwrap().to_vec(),
        b.finish(Role::Sender, &ya).unwrap().to_vec(),
        "two equal sides"
    );
}

#[test]
fn x04_a_share_that_is_no_point_or_the_identity_gives_no_key() {
    // RFC 9496 §A.2: non-canonical field encodings, negative field elements, a non-square, a negative xy, s = -1.
    for bad in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ed57ffd8c914fb201471d1c3d245ce3c746fcbe63a3679d51b6a516ebebe0e20",
        "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",
        "4eac077a713c57b4f4397629a4145982c661f48044dd3f96427d40b147d9742f",
        "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "",
        "00",
        "d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f8",
        "d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f87a00",
    ] {
        for role in [Role::Sender, Role::Receiver] {
            assert!(run("cat-dog", 1, 1, 1).finish(role, &hex(bad)).is_none(), "{bad}");
        }
    }
}

#[test]
fn length_prefixes_are_leb128() {
    for (len, prefix) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
        let mut written = Vec::new();
        lv(&vec![7; len], |bytes| written.extend_from_slice(bytes));
        assert_eq!(written, [prefix, &vec![7; len]].concat());
    }
}
