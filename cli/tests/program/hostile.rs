//! Rows of the other side's making, met by the real program: names and words that a terminal would obey, names that lead elsewhere.

use std::time::Duration;

use tallow_proto::code::Code;
use tallow_proto::drive::Driver;
use tallow_proto::seed::Seed;
use tallow_proto::wire::peer::{CancelReason, Control, DeclineReason, Reason};
use tallow_proto::wire::relay::Side;
use tallow_tests::sim::{Heard, Hostile, Script, offering, raw};
use tallow_tokio::TokioIo;

use super::stage::{End, Home, Relay, Run, receiving};

/// As open.tsv has them.
const NAMES: [&str; 3] = ["\x1b[2J\x1b[1A\rharmless", "\x1b]52;c;ZXZpbA==\x07", "\u{9b}31m"];

/// A peer that knows the code and means ill, over real sockets, until this is dropped.
struct Evil {
    over: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Evil {
    fn comes(side: Side, code: &str, relay: &Relay, script: impl FnOnce() -> Script + Send + 'static) -> Self {
        let (over, end) = tokio::sync::oneshot::channel::<()>();
        let (code, relay) = (Code::parse(code).unwrap(), relay.addr);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let seed = Seed::new([side as u8 + 40; 32]);
                let (handle, driver) = Driver::new(*Hostile::new(side, code, relay, script(), seed), TokioIo::new());
                tokio::select! {
                    () = driver.run() => {}
                    _ = end => {}
                }
                drop(handle);
            });
            runtime.shutdown_timeout(Duration::ZERO);
        });
        Self { over: Some(over), thread: Some(thread) }
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The row's own expression: `[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]`.
fn obeyed(bytes: &[u8]) -> Option<usize> {
    let is_c0 = |byte: &u8| matches!(byte, 0..=8 | 0x0b..=0x1f | 0x7f);
    let c0 = bytes.iter().position(is_c0);
    c0.or_else(|| bytes.windows(2).position(|two| two[0] == 0xc2 && (0x80..=0x9f).contains(&two[1])))
}

/// A terminal ends its lines with CR LF, whoever writes; that CR is the terminal's own.
#[track_caller]
fn shows_nothing_that_is_obeyed(end: &End, on_terminal: bool) {
    let raw: Vec<u8> = if on_terminal {
        let pairs = end.raw.iter().zip(end.raw.iter().skip(1).chain([&0]));
        pairs.filter(|(byte, next)| (**byte, **next) != (b'\r', b'\n')).map(|(byte, _)| *byte).collect()
    } else {
        end.raw.clone()
    };
    assert_eq!(obeyed(&raw).map(|at| String::from_utf8_lossy(&raw[at.saturating_sub(20)..]).into_owned()), None);
}

#[test]
fn d01_the_expression_finds_what_it_is_for() {
    for text in NAMES.iter().map(|name| name.as_bytes()).chain([&b"\x7f"[..], b"a\0", b"\xc2\x80"]) {
        assert!(obeyed(text).is_some(), "{text:?}");
    }
    assert_eq!(obeyed("a\tb\n写真 é\u{a0}".as_bytes()), None);
}

fn offers(entries: Vec<Vec<u8>>, bytes: u64) -> impl FnOnce() -> Script + Send {
    move || offering(entries, bytes)
}

#[test]
fn d01_names_that_a_terminal_obeys_are_refused_and_shown_as_escapes() {
    let home = Home::new();
    let relay = Relay::start(&home, &["-vvvv"]);
    let mut number = 100;
    for name in NAMES {
        for on_terminal in [true, false] {
            number += 1;
            let code = format!("{number}-acorn-bicycle-canal");
            let entry = raw(0, name.as_bytes(), 1);
            let _evil = Evil::comes(Side::Sender, &code, &relay, offers(vec![entry], 1));
            let run = receiving(&home, &relay)
                .args(["--no-progress", "-vvvv", "--json", "--yes", &code])
                .env("NO_COLOR", "1");
            let end = if on_terminal { run.on_terminal().end() } else { run.piped(b"").end() };
            end.is(4, "the offer was refused");
            end.is(4, "control character");
            let escaped = if name.starts_with('\x1b') { "u{1b}" } else { "u{9b}" };
            assert!(end.shown.contains(escaped), "{}", end.shown);
            shows_nothing_that_is_obeyed(&end, on_terminal);
        }
    }
    assert!(home.list("into").is_empty());
    assert_eq!(obeyed(relay.program.so_far().as_bytes()), None);
}

/// The same names in a tree of one's own: the sender says which and what is wrong with it.
#[test]
fn d01_names_of_the_senders_own_disk_are_shown_as_escapes() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    for name in NAMES {
        let file = home.file(name, b"x");
        for named in [&file, &home.text("from")] {
            for on_terminal in [true, false] {
                let run = Run::new(&home, ["send", named, "--relay", &relay.name(), "--no-progress", "-vvvv"])
                    .env("NO_COLOR", "1");
                let end = if on_terminal { run.on_terminal().end() } else { run.piped(b"").end() };
                assert!(end.code == 4 || end.code == 6, "{}", end.shown);
                shows_nothing_that_is_obeyed(&end, on_terminal);
            }
        }
        std::fs::remove_file(file).unwrap();
    }
    let no_command = Run::new(&home, [NAMES[0]]).piped(b"").end();
    shows_nothing_that_is_obeyed(no_command.is(2, "harmless"), false);
}

/// D03: what the other side says when it ends.
#[test]
fn d03_the_reason_of_the_other_side_is_shown_escaped_and_short() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let file = home.file("notes.txt", b"hello");
    let words = NAMES.concat() + "%s%n\u{202e}";
    let long = words.repeat(4);
    for (on_terminal, code) in [(true, "76-acorn-bicycle-canal"), (false, "77-acorn-bicycle-canal")] {
        let run = Run::new(&home, ["send", &file, "--relay", &relay.name(), "--code", code, "--no-progress"])
            .env("NO_COLOR", "1");
        let mut sender = if on_terminal { run.on_terminal() } else { run.piped(b"") };
        sender.code();
        let said = long.clone();
        let _evil = Evil::comes(Side::Receiver, code, &relay, move || {
            Box::new(move |heard, mouth| {
                if matches!(heard, Heard::Control(Control::Offer(_))) {
                    mouth.say(Control::Decline {
                        transfer: 1,
                        reason: DeclineReason::Person,
                        text: Reason::new(&said),
                    });
                }
            })
        });
        let end = sender.end();
        end.is(4, "tallow: the receiver declined; peer said: \"");
        let quoted = end.shown.split('"').nth(1).unwrap();
        assert!(quoted.contains("%s%n") && quoted.contains("u{1b}"), "{quoted}");
        shows_nothing_that_is_obeyed(&end, on_terminal);
    }
    let said = long.clone();
    let _evil = Evil::comes(Side::Sender, "78-acorn-bicycle-canal", &relay, move || {
        Box::new(move |heard, mouth| {
            if matches!(heard, Heard::Keyed) {
                mouth.say(Control::Cancel { transfer: 0, reason: CancelReason::Io, text: Reason::new(&said) });
            }
        })
    });
    let end = receiving(&home, &relay).args(["--yes", "78-acorn-bicycle-canal"]).piped(b"").end();
    end.is(9, "peer said: \"");
    shows_nothing_that_is_obeyed(&end, false);
}
