use std::collections::BTreeSet;

use proptest::prelude::*;
use rand_core::{Infallible, TryCryptoRng, TryRng};

use super::*;
use crate::seed::Seed;

const SHAPE: &str = "7-acorn-bicycle-canal";

fn canonical_of(typed: &str) -> String {
    Code::parse(typed).unwrap().reveal().to_string()
}

#[test]
fn c01_an_invalid_code_gets_an_error_with_an_example() {
    let long = format!("7-{}", "x".repeat(10 << 10));
    for (typed, expected) in [
        ("MySecretPass", CodeError::NoWords),
        ("", CodeError::Empty),
        (" \n", CodeError::Empty),
        ("7", CodeError::NoWords),
        ("7-", CodeError::NoWords),
        ("7 .", CodeError::NoWords),
        ("-a-b", CodeError::Nameplate),
        (&long, CodeError::TooLong),
        (&format!("7{}", "-cro".repeat(200)), CodeError::TooLong),
        ("7-acorn\0-bicycle", CodeError::Character),
        ("7-acorn-bicycle\u{7f}", CodeError::Character),
        ("7-café-bicycle", CodeError::Character),
        ("7–acorn–bicycle", CodeError::Character),
        ("seven_-acorn-bicycle", CodeError::Nameplate),
        ("123456789012345678901234567890123-acorn", CodeError::Nameplate),
    ] {
        for read in [Code::parse, Code::custom] {
            let error = read(typed).unwrap_err();
            assert_eq!(error, expected, "{typed:.40}");
            assert!(error.to_string().contains(SHAPE), "{error}");
        }
    }
}

#[test]
fn every_code_error_shows_an_example() {
    for error in [CodeError::TooShort, CodeError::OneWord] {
        assert!(error.to_string().contains(SHAPE), "{error}");
    }
}

#[test]
fn typed_variants_have_one_canonical_form() {
    for typed in [
        "7-croissant-clock-banana",
        "  7-croissant-clock-banana\n",
        "7 croissant clock banana",
        "7.Croissant.CLOCK.Banana.",
        "7 - croissant -- clock  banana?!",
        "7-croissant-clock-banana -",
        "7-cro-clo-ban",
        "7-CROISSA\tcloc ban,",
    ] {
        assert_eq!(canonical_of(typed), "7-croissant-clock-banana", "{typed}");
    }
}

#[test]
fn unknown_word_leaves_code_as_typed() {
    assert_eq!(canonical_of("7-cro-clo-xyzzy"), "7-cro-clo-xyzzy");
    assert_eq!(canonical_of("7-cr-clock"), "7-cr-clock", "two letters stand for no word");
    assert_eq!(canonical_of("7-croissants"), "7-croissants");
    assert_eq!(canonical_of("7-yo-yo"), "7-yo-yo");
    assert_eq!(canonical_of("7-yoy-cro"), "7-yoyo-croissant");
    assert_eq!(canonical_of("007-p@ss_w0rd/1"), "007-p@ss_w0rd/1");
}

#[test]
fn c01_room_depends_on_nameplate_alone() {
    let room = |typed| Code::parse(typed).unwrap().nameplate().room_id();
    assert_eq!(room("7-acorn-bicycle"), room("7-canal-canal"));
    assert_ne!(room("7-acorn-bicycle"), room("8-acorn-bicycle"));
    assert_ne!(room("7-acorn-bicycle"), room("07-acorn-bicycle"));
    assert_eq!(Nameplate::from_number(7).room_id(), room("7-acorn-bicycle"));
    assert_eq!(Nameplate::from_number(7).room_id().0, blake3::derive_key("tallow v1 room", b"7"));
}

#[test]
fn custom_code_has_minimum_length_and_two_words() {
    assert_eq!(Code::custom("team-hunter2").unwrap_err(), CodeError::TooShort);
    assert_eq!(Code::custom("team-hunter2!").unwrap_err(), CodeError::TooShort, "it is counted in the canonical form");
    assert!(Code::custom("team-hunter22").is_ok());
    assert_eq!(Code::custom("team-croissant").unwrap_err(), CodeError::OneWord);
    assert_eq!(Code::custom("team-cro").unwrap_err(), CodeError::OneWord, "nine letters, but one word in 1,296");
    assert!(Code::custom("team-cro-ban").is_ok());
    assert_eq!(
        Code::parse("team-hunter2").unwrap().password().as_bytes(),
        b"hunter2",
        "the receiver takes what it is told"
    );
}

#[test]
fn words_hold_no_dash_and_differ_in_three_letters() {
    let words: Vec<_> = list().collect();
    assert_eq!(words.len(), usize::from(WORDS));
    assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    let prefixes: BTreeSet<_> = words.iter().map(|word| &word[..MIN_PREFIX]).collect();
    assert_eq!(prefixes.len(), words.len());
    assert!(words.iter().all(|word| find(word) == Some(word)));
    assert!(words.contains(&"yoyo"));
    assert_eq!((word(0), word(WORDS - 1), word(WORDS)), (Some("aardvark"), words.last().copied(), None));
}

#[test]
fn a_generated_code_has_the_words_asked_for() {
    let mut rng = Seed::new([1; 32]).rng();
    for (asked, words) in [(0, 2), (1, 2), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 8), (255, 8)] {
        let code = Code::generate(Nameplate::from_number(7), asked, &mut rng);
        let text = code.reveal();
        assert_eq!(text.split('-').count(), words + 1);
        assert_eq!(canonical_of(&text), *text);
        assert!(text.split('-').skip(1).all(|word| find(word) == Some(word)));
    }
}

/// Counts down from the highest number, so that what must be thrown away comes first.
struct Falling(u32);

impl TryRng for Falling {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0 = self.0.wrapping_sub(1);
        Ok(self.0)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unimplemented!()
    }
    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Infallible> {
        unimplemented!()
    }
}

impl TryCryptoRng for Falling {}

#[test]
fn each_word_is_equally_likely() {
    let mut rng = Falling(1 << 16);
    let mut counts = vec![0; usize::from(WORDS)];
    for _ in 0..50 * u32::from(WORDS) {
        let word = random_word(&mut rng);
        counts[list().position(|other| other == word).unwrap()] += 1;
    }
    assert_eq!(rng.0, 0, "each number was used or thrown away once");
    assert!(counts.iter().all(|&count| count == 50));
}

#[test]
fn the_prompt_completes_the_last_word() {
    assert_eq!(complete("7-croissant-Clo"), ["clock"]);
    assert_eq!(complete("7 yo"), list().filter(|word| word.starts_with("yo")).collect::<Vec<_>>());
    assert!(complete("7 yo").contains(&"yoyo"));
    for typed in ["", "7", "cro", "7-", "7-croissant-", "-cro", " -cro", "7-qqq", &format!("7-cro{}", " ".repeat(2000))]
    {
        assert_eq!(complete(typed), [""; 0], "{typed:.20}");
    }
}

#[test]
fn c02_no_debug_string_shows_the_password() {
    let code = Code::parse("7-canary-of-the-words").unwrap();
    let link = Link::new("relay.example", None, code.clone()).unwrap();
    for shown in [format!("{code:?}"), format!("{:#?}", code.password()), format!("{link:?}")] {
        assert!(shown.contains("***") && !shown.contains("canary"), "{shown}");
    }
}

#[test]
fn a_link_is_read_and_printed() {
    let code = |words: &str| Code::parse(&format!("7-{words}")).unwrap();
    for (host, port, words, text) in [
        ("relay.example", None, "croissant-banana", "tallow://relay.example/7#croissant-banana"),
        ("192.0.2.1", Some(443), "croissant-banana", "tallow://192.0.2.1:443/7#croissant-banana"),
        ("2001:db8::1", None, "croissant-banana", "tallow://[2001:db8::1]/7#croissant-banana"),
        ("2001:db8::1", Some(4433), "a%b#c/d?e@f\"", "tallow://[2001:db8::1]:4433/7#a%25b%23c%2Fd%3Fe%40f%22"),
    ] {
        let link = Link::new(host, port, code(words)).unwrap();
        assert_eq!(*link.reveal(), text);
        let read = Link::parse(text).unwrap();
        assert_eq!((read.host(), read.port(), read.code().reveal().to_string()), (host, port, format!("7-{words}")));
        assert!(Link::is_link(text));
    }
    let forgiven = Link::parse(" TALLOW://Relay.Example:443/7#Cro%2DBAN. \n").unwrap();
    assert_eq!(*forgiven.reveal(), "tallow://relay.example:443/7#croissant-banana");
    assert!(!Link::is_link("7-croissant-banana") && !Link::is_link("tallow:7"));
}

#[test]
fn c01_invalid_link_is_refused() {
    for (text, expected) in [
        ("7-croissant-banana", LinkError::Form),
        ("https://relay.example/7#croissant-banana", LinkError::Form),
        ("tallow://relay.example#croissant-banana", LinkError::Form),
        ("tallow://relay.example/7", LinkError::NoWords),
        ("tallow://relay.example/7-croissant-banana", LinkError::NoWords),
        ("tallow://me@relay.example/7#croissant-banana", LinkError::UserInfo),
        ("tallow://me:secret@relay.example/7#croissant-banana", LinkError::UserInfo),
        ("tallow://relay.example/7?p=1#croissant-banana", LinkError::Query),
        ("tallow://relay.example?p=1/7#croissant-banana", LinkError::Query),
        ("tallow:///7#croissant-banana", LinkError::Host),
        ("tallow://relay..example/7#croissant-banana", LinkError::Host),
        ("tallow://relay%2eexample/7#croissant-banana", LinkError::Host),
        ("tallow://rel ay/7#croissant-banana", LinkError::Host),
        ("tallow://2001:db8::1/7#croissant-banana", LinkError::Port),
        ("tallow://[2001:db8::1/7#croissant-banana", LinkError::Host),
        ("tallow://[2001:db8::1]443/7#croissant-banana", LinkError::Host),
        ("tallow://[fe80::1%25eth0]/7#croissant-banana", LinkError::Host),
        ("tallow://[relay]/7#croissant-banana", LinkError::Host),
        ("tallow://relay.example:/7#croissant-banana", LinkError::Port),
        ("tallow://relay.example:0/7#croissant-banana", LinkError::Port),
        ("tallow://relay.example:65536/7#croissant-banana", LinkError::Port),
        ("tallow://relay.example:+443/7#croissant-banana", LinkError::Port),
        ("tallow://relay.example/7/8#croissant-banana", LinkError::Code(CodeError::Nameplate)),
        ("tallow://relay.example/7-acorn#croissant-banana", LinkError::Code(CodeError::Nameplate)),
        ("tallow://relay.example/#croissant-banana", LinkError::Code(CodeError::Nameplate)),
        ("tallow://relay.example/7#", LinkError::Code(CodeError::NoWords)),
        ("tallow://relay.example/7#cross%", LinkError::Percent),
        ("tallow://relay.example/7#cross%4", LinkError::Percent),
        ("tallow://relay.example/7#cross%+4", LinkError::Percent),
        ("tallow://relay.example/7#cross%C3%A9", LinkError::Code(CodeError::Character)),
        ("tallow://relay.example/7#cross%00ing", LinkError::Code(CodeError::Character)),
        (&format!("tallow://relay.example/7#{}", "x".repeat(1023)), LinkError::Code(CodeError::TooLong)),
        (&format!("tallow://relay.example/7#{}", "x".repeat(5000)), LinkError::TooLong),
    ] {
        assert_eq!(Link::parse(text).unwrap_err(), expected, "{text:.80}");
    }
    let code = Code::parse("7-croissant-banana").unwrap();
    assert_eq!(Link::new("a@b", None, code.clone()).unwrap_err(), LinkError::Host);
    assert_eq!(Link::new("relay.example", Some(0), code).unwrap_err(), LinkError::Port);
}

proptest! {
    #[test]
    fn any_text_gives_an_error_or_a_code_whose_form_is_stable(
        typed in "\\PC{0,60}|[ -~\\n]{0,60}|[a-z0-9]{1,3}[ .-][a-z .-]{0,40}",
    ) {
        if let Ok(code) = Code::parse(&typed) {
            let text = code.reveal();
            let again = Code::parse(&text).unwrap();
            prop_assert_eq!(&*again.reveal(), &*text);
            prop_assert_eq!(again.nameplate(), code.nameplate());
            let link = Link::new("relay.example", Some(4433), code).unwrap();
            let read = Link::parse(&link.reveal()).unwrap();
            prop_assert_eq!(&*read.code().reveal(), &*text);
        }
        let _ = Link::parse(&format!("tallow://{typed}"));
        let _ = (Link::parse(&typed), complete(&typed));
    }

    #[test]
    fn the_words_may_be_shortened(seed: [u8; 32], words in 2u8..=8, keep in 3usize..10) {
        let code = Code::generate(Nameplate::from_number(41), words, &mut Seed::new(seed).rng());
        let text = code.reveal();
        let short: Vec<_> = text.split('-').map(|part| &part[..part.len().min(keep)]).collect();
        prop_assert_eq!(canonical_of(&short.join(" ")), text.as_str());
    }
}
