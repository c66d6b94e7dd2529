//! Real peers against a peer that has the code and violates the protocol inside the encryption (rows P, N and D).

use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tallow_proto::code::Code;
use tallow_proto::peer::{Class, Command, Event, Failure, Peer};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::chunk::{Codec, Header};
use tallow_proto::transfer::memory::MemorySink;
use tallow_proto::wire::Violation;
use tallow_proto::wire::peer::{CancelReason, ChunkRange, ChunkRanges, Control, DeclineReason, Have, Reason};
use tallow_proto::wire::relay::Role;
use tallow_proto::wire::{Blob, BoundedVec};
use tallow_tests::sim::{
    CODE, CheckedSink, HostId, K64, Machine, MaliciousPeer, Network, Place, RELAY, Received, Relay, Scenario, Script,
    ScriptOutput, World, copied_end, honest, offer, offering, page_of, raw, receive_config, send_config,
};

/// A real peer and a malicious one of the other side.
fn meet(role: Role, bytes: usize, room: u64, script: Script) -> (World, HostId, Arc<CheckedSink>) {
    let scenario = Scenario { place: Place::ScriptedRelay, ..Scenario::plain(77, bytes) };
    let seed = Seed::new(scenario.seed);
    let mut world = World::new(Network::new(scenario.network, &seed), &seed);
    let relay = Relay::new(RELAY.port(), tallow_tests::sim::Policy::Proper, honest(), seed.derive("relay"));
    world.add(RELAY.ip(), Machine::Other(relay));
    let code = Code::parse(CODE).unwrap();
    let malicious = MaliciousPeer::new(role, code, RELAY, script, seed.derive("hostile"));
    let now = world.now;
    let peer = match role {
        Role::Sender => Peer::receiver(receive_config(&scenario), now, seed.derive("peer")),
        Role::Receiver => Peer::sender(send_config(&scenario), now, seed.derive("peer")),
    };
    world.add([192, 0, 2, 66].into(), Machine::Other(malicious));
    let peer = world.add([203, 0, 113, 9].into(), Machine::Peer(Box::new(peer)));
    let sink = CheckedSink::new(MemorySink::new().with_free(room), None);
    world.watch(sink.clone());
    (world, peer, sink)
}

/// Runs to the peer's end, and accepts the offer.
fn end(world: &mut World, peer: HostId, sink: &Arc<CheckedSink>) -> Event {
    let limit = Duration::from_secs(120);
    world.run_until(limit, |world| {
        world.end(peer).is_some() || world.said(peer).any(|event| matches!(event, Event::Offer(_)))
    });
    if world.end(peer).is_none() && world.said(peer).any(|event| matches!(event, Event::Offer(_))) {
        world.command(peer, Command::Accept(sink.clone()));
    }
    if !world.run_until(limit, |world| world.is_closed(peer)) {
        // A peer that sends no more messages but is alive: the user cancels.
        world.command(peer, Command::Cancel);
    }
    let ended = world.run_until(Duration::from_secs(30), |world| world.is_closed(peer));
    assert!(ended, "no end: {:?}", world.said(peer).collect::<Vec<_>>());
    copied_end(world.end(peer).expect("a terminal event"))
}

fn class(event: &Event) -> Option<Class> {
    match event {
        Event::Failed(failure) => Some(failure.class()),
        _ => None,
    }
}

fn offered(entries: Vec<Vec<u8>>, bytes: u64) -> (Event, bool) {
    let (mut world, peer, sink) = meet(Role::Sender, 0, 1 << 30, offering(entries, bytes));
    let event = end(&mut world, peer, &sink);
    assert!(!sink.has_final_names());
    (event, world.said(peer).any(|event| matches!(event, Event::Offer(_))))
}

fn refused(name: &[u8]) {
    let (event, shown) = offered(vec![raw(0, name, 1)], 1);
    let name = String::from_utf8_lossy(name);
    assert_eq!((class(&event), shown), (Some(Class::Refused), false), "{name:?}: {event:?}");
}

#[test]
fn n01_n02_n03_n04_escaping_names_are_refused_before_offer() {
    for name in [&b"../x"[..], b"..", b"a/../../x", b"./../x", b"a/..", b"../target2/x"] {
        refused(name);
    }
    for name in ["/etc/cron.d/x", "//x"] {
        refused(name.as_bytes());
    }
    // One component each, which only some systems read as a path: the receiver's disk decides about such names.
    for name in ["..\\..\\x", "C:\\x", "C:x", "\\\\srv\\share\\x", "\\\\?\\C:\\x", "file.txt:stream"] {
        let (event, shown) = offered(vec![raw(0, name.as_bytes(), 1)], 1);
        assert!(shown, "{name}: {event:?}");
    }
    for name in ["a\0b", "a\nb", "a\rb", "\x1b[2J", "a\x7f", "a\u{85}b"] {
        refused(name.as_bytes());
    }
}

#[test]
fn n06_names_beyond_the_limits_are_refused() {
    let long = "a".repeat(256);
    let deep = vec!["d"; 65].join("/");
    let path = [vec!["p".repeat(255); 16].join("/"), "p".to_owned()].join("/");
    assert_eq!(path.len(), 4097);
    for name in ["", ".", "a//b", &long, &deep, &path] {
        refused(name.as_bytes());
    }
    let (event, shown) = offered(vec![raw(0, &[0x61, 0xff, 0x62], 1)], 1);
    assert_eq!((class(&event), shown), (Some(Class::Proto), false), "{event:?}");
    for name in ["a".repeat(255), vec!["d"; 64].join("/")] {
        let (event, shown) = offered(vec![raw(0, name.as_bytes(), 1)], 1);
        assert!(shown, "{event:?}");
    }
}

#[test]
fn n07_colliding_entries_are_refused() {
    let file = |name: &str| raw(0, name.as_bytes(), 1);
    let dir = |name: &str| raw(1, name.as_bytes(), 0);
    for (entries, bytes) in
        [(vec![file("dup"), file("dup")], 2), (vec![file("a"), file("a/b")], 2), (vec![dir("s"), file("s")], 1)]
    {
        let (event, shown) = offered(entries, bytes);
        assert_eq!((class(&event), shown), (Some(Class::Refused), false), "{event:?}");
    }
    // Names that only some disks treat as one.
    for entries in [[file("README"), file("readme")], [file("\u{e9}"), file("e\u{301}")]] {
        let (event, shown) = offered(entries.to_vec(), 2);
        assert!(shown, "{event:?}");
    }
}

#[test]
fn n08_an_entry_of_another_kind_is_refused() {
    for tag in [3, 4, 5, 0xc8] {
        let (event, shown) = offered(vec![raw(tag, b"x", 0)], 0);
        assert_eq!((class(&event), shown), (Some(Class::Proto), false), "{tag} {event:?}");
    }
}

#[test]
fn p03_oversized_or_incomplete_offer_is_refused() {
    // Ten million entries, or the largest possible count, and no page.
    for (entries, pages) in [(10_000_000, 1000), (u32::MAX, u32::MAX), (1_000_001, 20), (1, 0), (1, u32::MAX)] {
        let (mut world, peer, sink) = meet(
            Role::Sender,
            0,
            1 << 30,
            Box::new(move |heard, output| {
                if matches!(heard, Received::Keyed) {
                    output.say(Control::Offer(offer(entries, 0, pages)));
                }
            }),
        );
        let event = end(&mut world, peer, &sink);
        assert!(matches!(class(&event), Some(Class::Refused | Class::Proto)), "{entries} {event:?}");
    }
    // Pages full of zeros.
    let (event, shown) = offered(vec![vec![0; 60_000]; 40], 0);
    assert!(matches!(class(&event), Some(Class::Refused | Class::Proto)) && !shown, "{event:?}");
    // And one honest offer passes.
    let (_, shown) = offered(vec![raw(0, b"x", 1)], 1);
    assert!(shown);
}

/// A peer that has the code can keep a receiver waiting as long as it sends messages; the user ends that.
#[test]
fn p03_missing_pages_are_awaited_until_an_interrupt() {
    let script: Script = Box::new(|heard, output| {
        if matches!(heard, Received::Keyed) {
            output.say(Control::Offer(offer(1, 1, 5)));
        }
    });
    let (mut world, peer, _) = meet(Role::Sender, 0, 1 << 30, script);
    world.run_until(Duration::from_secs(60), |world| world.end(peer).is_some());
    assert!(world.end(peer).is_none());
    world.command(peer, Command::Cancel);
    assert!(world.run_until(Duration::from_secs(2), |world| world.is_closed(peer)));
    assert_eq!(world.end(peer).and_then(class), Some(Class::Interrupted));
}

#[test]
fn p04_impossible_sizes_are_refused() {
    for (sizes, sum) in [(vec![u64::MAX], u64::MAX), (vec![1 << 63, 1 << 63], 0), (vec![1 << 62], 1 << 62)] {
        let entries = sizes.iter().zip(["a", "b"]).map(|(&size, name)| raw(0, name.as_bytes(), size)).collect();
        let (event, shown) = offered(entries, sum);
        // The user is asked about a possible offer, and there is no space for it.
        let full = shown && class(&event) == Some(Class::Io);
        assert!(full || !shown && matches!(class(&event), Some(Class::Refused | Class::Proto)), "{event:?}");
    }
    // More than there is space for: refused when it is accepted, and nothing was written.
    let (mut world, peer, sink) = meet(Role::Sender, 0, 1000, offering(vec![raw(0, b"a", 1 << 40)], 1 << 40));
    let event = end(&mut world, peer, &sink);
    assert!(matches!(class(&event), Some(Class::Io | Class::Refused | Class::Proto)), "{event:?}");
    assert_eq!(sink.written(), 0);
    // Sums that are not those of the pages.
    let (event, shown) = offered(vec![raw(0, b"a", 5)], 6);
    assert_eq!((class(&event), shown), (Some(Class::Proto), false), "{event:?}");
}

/// Offers one file of this size and, once it is accepted, runs the script.
fn sending(bytes: u64, mut then: impl FnMut(&mut ScriptOutput) + Send + 'static) -> Script {
    Box::new(move |heard, output| match heard {
        Received::Keyed => {
            output.say(Control::Offer(offer(1, bytes, 1)));
            output.say(Control::Page { transfer: 1, page: Blob(page_of(&[raw(0, b"file", bytes)])) });
        }
        Received::Control(Control::Accept { .. }) => then(output),
        Received::Paired | Received::Control(_) | Received::Chunk(_) => {}
    })
}

fn chunk(index: u64, contents: &[u8]) -> Header {
    let hash = *blake3::hash(contents).as_bytes();
    Header { transfer: 1, chunk: index, codec: Codec::Raw, length: contents.len() as u32, hash }
}

fn sent(bytes: u64, then: impl FnMut(&mut ScriptOutput) + Send + 'static) -> (Event, u64) {
    let (mut world, peer, sink) = meet(Role::Sender, 0, 1 << 40, sending(bytes, then));
    let event = end(&mut world, peer, &sink);
    assert!(!sink.is_complete() && !sink.has_final_names(), "{event:?}");
    (event, sink.written())
}

#[test]
fn p05_p06_chunks_with_false_headers_are_refused() {
    let good = vec![7; K64 as usize];
    type Make = fn(&[u8]) -> (Header, Vec<u8>);
    let cases: [(&str, Make); 9] = [
        ("an index that is not there", |good| (chunk(9, good), good.to_vec())),
        ("the largest index", |good| (chunk(u64::MAX, good), good.to_vec())),
        ("an index of 2^63", |good| (chunk(1 << 63, good), good.to_vec())),
        ("another transfer", |good| (Header { transfer: 2, ..chunk(0, good) }, good.to_vec())),
        ("a wrong hash", |good| (Header { hash: [1; 32], ..chunk(0, good) }, good.to_vec())),
        ("too short", |good| (chunk(0, &good[1..]), good[1..].to_vec())),
        ("shorter than it says", |good| (chunk(0, good), good[1..].to_vec())),
        ("longer than it says", |good| (chunk(0, good), [good, &[0]].concat())),
        ("no compressed data", |good| (Header { codec: Codec::Zstd, ..chunk(0, good) }, vec![9; 100])),
    ];
    for (name, make) in cases {
        let (header, contents) = make(&good);
        let (event, written) = sent(u64::from(K64) * 4, move |output| output.chunk(&header.to_bytes(), &contents));
        assert_eq!((class(&event), written), (Some(Class::Proto), 0), "{name}: {event:?}");
    }
    // An unknown codec, and less than a header.
    let mut strange = chunk(0, &good).to_bytes();
    strange[12] = 9;
    let contents = good.clone();
    let (event, _) = sent(u64::from(K64) * 4, move |output| output.chunk(&strange, &contents));
    assert_eq!(class(&event), Some(Class::Proto), "{event:?}");
    let (event, _) = sent(u64::from(K64) * 4, |output| output.chunk(&[0; 10], &[]));
    assert_eq!(class(&event), Some(Class::Proto), "{event:?}");
}

#[test]
fn p05_decompression_stops_at_chunk_length() {
    // RFC 8878: magic, a single segment with 8 bytes of content size, then RLE blocks of zeros: far more than a chunk.
    for claimed in [u64::from(K64), u64::from(K64) + 1, 1 << 40] {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
        frame.extend_from_slice(&claimed.to_le_bytes());
        for block in 0..1000_u32 {
            let header = (u32::from(block == 999)) | (1 << 1) | ((128 << 10) << 3);
            frame.extend_from_slice(&header.to_le_bytes()[..3]);
            frame.push(0);
        }
        let header = Header { codec: Codec::Zstd, ..chunk(0, &vec![0; K64 as usize]) };
        let (event, written) = sent(u64::from(K64) * 4, move |output| output.chunk(&header.to_bytes(), &frame));
        assert_eq!((class(&event), written), (Some(Class::Proto), 0), "{event:?}");
    }
}

#[test]
fn chunks_beyond_credit_end_transfer() {
    // 40 MiB at once, where 32 may wait, and a disk that is too slow to keep up.
    let then = |output: &mut ScriptOutput| {
        let contents = vec![1; K64 as usize];
        for index in 0..640 {
            output.chunk(&chunk(index, &contents).to_bytes(), &contents);
        }
    };
    let (mut world, peer, sink) = meet(Role::Sender, 0, 1 << 40, sending(u64::from(K64) * 640, then));
    world.job_time = Duration::from_secs(20);
    let event = end(&mut world, peer, &sink);
    assert!(matches!(event, Event::Failed(Failure::Violation(Violation::BeyondCredit))), "{event:?}");
}

#[test]
fn contradictory_end_or_wrong_root_gives_no_file() {
    for (chunks, moved) in [(4, 4), (5, 4), (4, 5), (0, 0), (u64::MAX, u64::MAX)] {
        let (event, _) = sent(u64::from(K64) * 4, move |output| {
            let contents = vec![1; K64 as usize];
            for index in 0..4 {
                output.chunk(&chunk(index, &contents).to_bytes(), &contents);
            }
            output.say(Control::End { transfer: 1, chunks, moved, root: [3; 32] });
        });
        assert_eq!(class(&event), Some(Class::Proto), "{chunks} {moved} {event:?}");
    }
}

#[test]
fn messages_out_of_turn_end_a_receiver() {
    let end_message = Control::End { transfer: 1, chunks: 0, moved: 0, root: [0; 32] };
    let accept = Control::Accept { transfer: 1, have: BoundedVec::default(), credit: 1 };
    let verified = Control::Verified { transfer: 1, root: [0; 32] };
    let page = Control::Page { transfer: 1, page: Blob(page_of(&[raw(0, b"x", 1)])) };
    for message in [end_message, accept, verified, page, Control::Bye] {
        let shown = format!("{message:?}");
        let script: Script = Box::new(move |heard, output| {
            if matches!(heard, Received::Keyed) {
                output.say(message.clone());
            }
        });
        let (mut world, peer, sink) = meet(Role::Sender, 0, 1 << 30, script);
        let event = end(&mut world, peer, &sink);
        assert_eq!(class(&event), Some(Class::Proto), "{shown}: {event:?}");
    }
}

/// A malicious receiver: answers the offer with this.
fn answered(answer: impl Fn(&mut ScriptOutput) + Send + 'static) -> (Event, usize) {
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let script: Script = Box::new(move |heard, output| match heard {
        Received::Control(Control::Page { .. }) => answer(output),
        Received::Chunk(bytes) => *count.lock().unwrap() += bytes,
        Received::Paired | Received::Keyed | Received::Control(_) => {}
    });
    let (mut world, peer, sink) = meet(Role::Receiver, 300_000, 0, script);
    let event = end(&mut world, peer, &sink);
    let seen = *seen.lock().unwrap();
    (event, seen)
}

fn range(first: u64, last: u64) -> ChunkRange {
    ChunkRange { first, last }
}

fn accept(have: Vec<Have>) -> Control {
    Control::Accept { transfer: 1, have: BoundedVec::new(have).unwrap(), credit: 32 << 20 }
}

fn ack(ranges: Vec<ChunkRange>) -> Control {
    Control::Ack { transfer: 1, ranges: ChunkRanges::new(ranges).unwrap(), credit: 32 << 20 }
}

#[test]
fn p06_ranges_outside_offer_are_a_violation() {
    for (first, last) in [(0, 5), (5, 5), (1 << 63, 1 << 63), (0, u64::MAX), (4, 2), (0, u64::from(u32::MAX))] {
        let (event, seen) = answered(move |output| {
            output.say(accept(vec![Have { range: range(first, last), digest: [0; 32] }]));
        });
        assert_eq!((class(&event), seen), (Some(Class::Proto), 0), "have {first} {last}: {event:?}");
        let (event, _) = answered(move |output| {
            output.say(accept(vec![]));
            output.say(ack(vec![range(first, last)]));
        });
        assert_eq!(class(&event), Some(Class::Proto), "ack {first} {last}: {event:?}");
    }
}

#[test]
fn p06_repeated_acks_get_nothing_twice() {
    let (event, seen) = answered(|output| {
        output.say(accept(vec![]));
        for _ in 0..200 {
            output.say(ack(vec![]));
        }
    });
    assert!(matches!(class(&event), Some(Class::Proto | Class::Net)), "{event:?}");
    assert!(seen <= 2 * 300_000, "{seen}");
}

#[test]
fn false_verified_message_is_a_violation() {
    for root in [[0; 32], [9; 32]] {
        let (event, _) = answered(move |output| {
            output.say(accept(vec![]));
            output.say(ack(vec![]));
            output.say(Control::Verified { transfer: 1, root });
        });
        assert_eq!(class(&event), Some(Class::Proto), "{event:?}");
    }
}

#[test]
fn d03_peer_text_is_shown_escaped_and_short() {
    let nasty = "\x1b[2J\x1b]52;c;ZXZpbA==\x07\r\n%s%n\u{9b}31m\u{202e}".repeat(20);
    let text = Reason::new(&nasty);
    for cancel in [false, true] {
        let text = text.clone();
        let (event, _) = answered(move |output| {
            output.say(if cancel {
                Control::Cancel { transfer: 1, reason: CancelReason::Io, text: text.clone() }
            } else {
                Control::Decline { transfer: 1, reason: DeclineReason::Person, text: text.clone() }
            });
        });
        let Event::Failed(failure) = &event else { panic!("{event:?}") };
        let said = match failure {
            Failure::Peer { text, .. } | Failure::Declined { text, .. } => text,
            other => panic!("{other:?}"),
        };
        let shown = format!("{} {failure} {event:?}", said.escaped(200));
        assert!(!shown.chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown}");
        assert!(said.escaped(200).len() < 2000);
    }
}

#[test]
fn invalid_record_bytes_end_either_peer() {
    for role in [Role::Sender, Role::Receiver] {
        for junk in [&[0xff; 8][..], &[0, 0, 0, 0], &[0, 0, 0, 5, 0, 1, 2, 3, 4], &[0, 0, 0, 5, 9, 1, 2, 3, 4]] {
            let shown = junk;
            let junk = Bytes::copy_from_slice(junk);
            let script: Script = Box::new(move |heard, output| {
                if matches!(heard, Received::Keyed) {
                    output.raw(junk.clone());
                }
            });
            let (mut world, peer, sink) = meet(role, 1000, 1 << 20, script);
            let event = end(&mut world, peer, &sink);
            assert_eq!(class(&event), Some(Class::Proto), "{role:?} {shown:?} {event:?}");
        }
    }
}
