//! Attacks of the other side on the real program: names and texts that a terminal would interpret, and names that
//! lead outside the destination.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tallow_proto::code::Code;
use tallow_proto::drive::Driver;
use tallow_proto::seed::Seed;
use tallow_proto::wire::Blob;
use tallow_proto::wire::peer::{CancelReason, Control, DeclineReason, Reason};
use tallow_proto::wire::relay::Role;
use tallow_tests::sim::{MaliciousPeer, Received, Script, offer, offering, raw};
use tallow_tokio::TokioIo;

use super::stage::{End, Home, Relay, Run, receiving, sending};

/// File names that control a terminal: D01 in tests/cases/bad-inputs.tsv.
const NAMES: [&str; 3] = ["\x1b[2J\x1b[1A\rharmless", "\x1b]52;c;ZXZpbA==\x07", "\u{9b}31m"];

/// A malicious peer that has the code, over real sockets, until this value is dropped.
struct Attacker {
    over: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attacker {
    fn comes(role: Role, code: &str, relay: &Relay, script: impl FnOnce() -> Script + Send + 'static) -> Self {
        let (over, end) = tokio::sync::oneshot::channel::<()>();
        let (code, relay) = (Code::parse(code).unwrap(), relay.addr);
        // Two attackers with the same seed would have the same connection IDs, and the relay remembers those of the
        // one that left without a farewell.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let seed = Seed::new([7; 32]).derive(&format!("attacker {}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (handle, driver) =
                    Driver::new(*MaliciousPeer::new(role, code, relay, script(), seed), TokioIo::new());
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

impl Drop for Attacker {
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

/// A terminal ends every line with CR LF, so this CR does not come from the program.
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
fn d01_control_character_search_finds_known_cases() {
    for text in NAMES.iter().map(|name| name.as_bytes()).chain([&b"\x7f"[..], b"a\0", b"\xc2\x80"]) {
        assert!(obeyed(text).is_some(), "{text:?}");
    }
    assert_eq!(obeyed("a\tb\n写真 é\u{a0}".as_bytes()), None);
}

fn offers(entries: Vec<Vec<u8>>, bytes: u64) -> impl FnOnce() -> Script + Send {
    move || offering(entries, bytes)
}

#[test]
fn d01_control_characters_are_refused_and_shown_escaped() {
    let home = Home::new();
    let relay = Relay::start(&home, &["-vvvv"]);
    let mut number = 100;
    for name in NAMES {
        for on_terminal in [true, false] {
            number += 1;
            let code = format!("{number}-acorn-bicycle-canal");
            let entry = raw(0, name.as_bytes(), 1);
            let _attacker = Attacker::comes(Role::Sender, &code, &relay, offers(vec![entry], 1));
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

/// The same names in the sender's own tree: the sender reports which name is invalid and why.
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

/// D03: the reason that the other side sends at the end.
#[test]
fn d03_peer_reason_is_shown_escaped_and_short() {
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
        let _attacker = Attacker::comes(Role::Receiver, code, &relay, move || {
            Box::new(move |heard, output| {
                if matches!(heard, Received::Control(Control::Offer(_))) {
                    output.say(Control::Decline {
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
    let _attacker = Attacker::comes(Role::Sender, "78-acorn-bicycle-canal", &relay, move || {
        Box::new(move |heard, output| {
            if matches!(heard, Received::Keyed) {
                output.say(Control::Cancel { transfer: 0, reason: CancelReason::Io, text: Reason::new(&said) });
            }
        })
    });
    let end = receiving(&home, &relay).args(["--yes", "78-acorn-bicycle-canal"]).piped(b"").end();
    end.is(9, "peer said: \"");
    shows_nothing_that_is_obeyed(&end, false);
}

/// N01 and N02, each name by itself, into a directory that exists and into one that does not; and N04, with the
/// neighbour there.
#[test]
fn n01_n02_n04_escaping_names_write_nothing_outside() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    for dir in ["into/target", "into/target2", "outside"] {
        std::fs::create_dir(home.path(dir)).unwrap();
    }
    std::fs::write(home.path("into/target2/x"), "victim").unwrap();
    let names = ["../x", "..", "a/../../x", "./../x", "a/..", "../target2/x", "/etc/cron.d/x", "//x"];
    let before = home.list("");
    let mut number = 200;
    for name in names {
        for out in ["into/target", "into/not/there"] {
            number += 1;
            let code = format!("{number}-acorn-bicycle-canal");
            let _attacker = Attacker::comes(Role::Sender, &code, &relay, offers(vec![raw(0, name.as_bytes(), 0)], 0));
            let run = receiving(&home, &relay).args(["--yes", "--overwrite", "--out", &home.text(out), &code]);
            run.piped(b"").end().is(4, "tallow: the offer was refused");
        }
    }
    let after: Vec<String> = home.list("").into_iter().filter(|name| !name.starts_with("home/")).collect();
    let made = |name: &&String| !before.contains(name) && !name.starts_with("into/not");
    assert_eq!(after.iter().find(made), None);
    let written: Vec<&String> = after.iter().filter(|name| home.path(name.as_str()).is_file()).collect();
    assert_eq!(written, ["into/target2/x"]);
    assert_eq!(std::fs::read(home.path("into/target2/x")).unwrap(), b"victim");
}

/// N05, N07: names that not every system can have arrive as they are on a disk that holds them; or portable, when asked
/// for, and both people are told.
#[test]
fn n05_names_arrive_as_they_are_or_portable_if_asked_for() {
    let names =
        ["CON", "nul.txt", "COM1", "LPT9.log", "AUX", "x.", "y ", "z. .", "12:30", "a\\b", "README", "readme", "q?"];
    for portable in [false, true] {
        let home = Home::new();
        let relay = Relay::start(&home, &[]);
        for name in names {
            home.file(name, name.as_bytes());
        }
        let (sender, code) = sending(&home, &relay, &home.text("from"), &[]);
        let option: &[&str] = if portable { &["--names", "portable"] } else { &[] };
        let end = receiving(&home, &relay).args(["--yes", "--json", &code]).args(option).piped(b"").end();
        end.is(0, "Received 13 files");
        let sent = sender.end();
        sent.is(0, "Sent 13 files");
        let there = home.list("into/from");
        assert_eq!(there.len(), names.len(), "{there:?}");
        let kept = names.iter().filter(|&&name| there.iter().any(|there| there == name)).count();
        assert_eq!(kept, if portable { 1 } else { names.len() }, "{there:?}");
        assert_eq!(end.shown.contains("Saved under another name:"), portable, "{}", end.shown);
        let renamed = |from: &str, to: &str| format!(r#"{{"event":"renamed","from":"from/{from}","to":"from/{to}"}}"#);
        for (from, to) in [("12:30", "12_30"), ("readme", "readme (1)"), ("AUX", "_AUX")] {
            assert_eq!(end.out.contains(&renamed(from, to)), portable, "{}", end.out);
        }
        assert_eq!(sent.shown.contains("The receiver saved 12 names otherwise"), portable, "{}", sent.shown);
    }
}

/// N08: links that lead out arrive only if both sides want it, and else both sides name them.
#[test]
fn n08_links_that_lead_out_need_both_sides() {
    for (send, receive) in [(false, false), (true, false), (false, true), (true, true)] {
        let home = Home::new();
        let relay = Relay::start(&home, &[]);
        home.file("x", b"x");
        std::os::unix::fs::symlink("/etc/passwd", home.path("from/out")).unwrap();
        std::os::unix::fs::symlink("x", home.path("from/in")).unwrap();
        let keep: &[&str] = &["--links", "keep"];
        let none: &[&str] = &[];
        let (sender, code) = sending(&home, &relay, &home.text("from"), if send { keep } else { none });
        let option = if receive { keep } else { none };
        let end = receiving(&home, &relay).args(["--yes", "--json", &code]).args(option).piped(b"").end();
        end.is(0, "Received 1 file");
        let sent = sender.end();
        sent.is(0, "Sent 1 file");
        let there = std::fs::read_link(home.path("into/from/out")).ok();
        assert_eq!(there.is_some(), send && receive);
        assert!(std::fs::read_link(home.path("into/from/in")).is_ok());
        assert_eq!(sent.shown.contains("from/out"), !(send && receive), "{}", sent.shown);
        let named = end.shown.contains("from/out: a link out of what was sent");
        assert_eq!(named, send && !receive, "{}", end.shown);
        let event = r#"{"event":"left_out","path":"from/out","why":"a link out of what was sent"}"#;
        assert_eq!(end.out.contains(event), send && !receive, "{}", end.out);
    }
}

/// N14: all names that can't be sent are told in one run.
#[test]
fn n14_all_names_that_cannot_be_sent_are_told() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    home.file("fine", b"x");
    for name in [&b"a\xffb"[..], b"c\nd", b"e\xfe"] {
        std::fs::write(home.path("from").join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
    }
    let end = Run::new(&home, ["send", &home.text("from")]).piped(b"").end();
    end.is(4, "tallow: ");
    for name in
        [r"a\xffb: file name is not valid UTF-8", r"c\nd: unsafe file name: control", r"e\xfe: file name is not"]
    {
        assert!(end.shown.contains(name), "{}", end.shown);
    }
}

/// P03 on the real program: counts and zeros do not become memory, and the next session is served.
#[test]
fn p03_claimed_counts_and_zero_pages_take_no_memory() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let zeros = || -> Script {
        Box::new(|heard, output| {
            if matches!(heard, Received::Keyed) {
                output.say(Control::Offer(offer(1_000_000, 0, 1000)));
                for _ in 0..200 {
                    // 10,000 entries of six zero bytes, as many as the page's count can state.
                    let page = [&10_000_u16.to_be_bytes()[..], &[0; 60_000]].concat();
                    output.say(Control::Page { transfer: 1, page: Blob(page.into()) });
                }
            }
        })
    };
    let count = |entries: u32| {
        move || -> Script {
            Box::new(move |heard, output| {
                if matches!(heard, Received::Keyed) {
                    output.say(Control::Offer(offer(entries, u64::MAX, u32::MAX)));
                }
            })
        }
    };
    let scripts: [Box<dyn FnOnce() -> Script + Send>; 3] =
        [Box::new(zeros), Box::new(count(10_000_000)), Box::new(count(u32::MAX))];
    for (number, script) in scripts.into_iter().enumerate() {
        let code = format!("{}-acorn-bicycle-canal", 300 + number);
        let _attacker = Attacker::comes(Role::Sender, &code, &relay, script);
        let end = receiving(&home, &relay).args(["--yes", &code]).piped(b"").end();
        assert!(end.code == 4 || end.code == 7, "{} {}", end.code, end.shown);
        assert!((1..=128 << 20).contains(&end.peak), "{}", end.peak);
    }
    let file = home.file("notes.txt", b"hello");
    let (sender, code) = sending(&home, &relay, &file, &[]);
    receiving(&home, &relay).args(["--yes", &code]).piped(b"").end().is(0, "Received 1 file");
    sender.end().is(0, "Sent 1 file");
}

/// P04 on the real program: no room for it is known before anything is made.
#[test]
fn p04_impossible_sizes_are_refused_before_any_write() {
    let home = Home::new();
    let relay = Relay::start(&home, &[]);
    let cases: [(&[u64], u64); 5] = [
        (&[1 << 60], 1 << 60),
        (&[1 << 62], 1 << 62),
        (&[u64::MAX], u64::MAX),
        (&[1 << 63, 1 << 63], 0),
        (&[1 << 62, 1 << 62], 1 << 63),
    ];
    for (number, (sizes, sum)) in cases.into_iter().enumerate() {
        let code = format!("{}-acorn-bicycle-canal", 400 + number);
        let entries = sizes.iter().zip(["a", "b"]).map(|(&size, name)| raw(0, name.as_bytes(), size)).collect();
        let _attacker = Attacker::comes(Role::Sender, &code, &relay, offers(entries, sum));
        let end = receiving(&home, &relay).args(["--yes", &code]).piped(b"").end();
        assert!([4, 6, 7].contains(&end.code), "{} {}", end.code, end.shown);
        assert!(end.code != 6 || end.shown.contains("not enough space on disk: need "), "{}", end.shown);
        assert!(home.list("into").is_empty() && end.peak <= 128 << 20);
    }
}
