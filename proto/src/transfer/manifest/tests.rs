use proptest::prelude::*;

use super::codec::{DIR, FILE, Raw, SYMLINK};
use super::*;

fn seed() -> Seed {
    Seed::new([7; 32])
}

fn builder() -> ManifestBuilder {
    ManifestBuilder::new(TransferKind::Files, &seed())
}

fn file(path: &str, size: u64) -> Entry {
    let mtime = Mtime { seconds: 1_763_647_200, nanos: 5 };
    Entry { path: RelPath::parse(path).unwrap(), kind: EntryKind::File { size }, mode: 0o644, mtime }
}

fn dir(path: &str) -> Entry {
    Entry { kind: EntryKind::Dir, mode: 0o755, ..file(path, 0) }
}

fn link(path: &str, target: &str) -> Entry {
    let target = LinkTarget::parse(target).unwrap();
    Entry { kind: EntryKind::Symlink { target }, mode: 0o777, ..file(path, 0) }
}

fn raw<'a>(tag: u8, path: &'a [u8]) -> Raw<'a> {
    Raw { tag, path, mode: 0o644, seconds: 0, nanos: 0, size: 0, target: b"" }
}

fn page_of(entries: &[Raw<'_>]) -> Page {
    let mut page = PageBuilder::new();
    for entry in entries {
        page.push_raw(entry).unwrap();
    }
    page.finish()
}

fn judge(entries: &[Raw<'_>]) -> Result<Manifest, ManifestError> {
    let mut builder = builder();
    builder.push_page(page_of(entries))?;
    builder.finish()
}

pub(super) fn manifest(entries: &[Entry]) -> Result<Manifest, ManifestError> {
    let mut builder = builder();
    let mut page = PageBuilder::new();
    for entry in entries {
        if page.push(entry).is_err() {
            builder.push_page(std::mem::take(&mut page).finish())?;
            page.push(entry).unwrap();
        }
    }
    if !page.is_empty() {
        builder.push_page(page.finish())?;
    }
    builder.finish()
}

fn why(result: Result<Manifest, ManifestError>) -> Refusal {
    match result {
        Err(ManifestError::Refused(refused)) => refused.why,
        other => panic!("{other:?}"),
    }
}

fn violation(result: Result<Manifest, ManifestError>) -> Violation {
    match result {
        Err(ManifestError::Violation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn manifest_pages_round_trip() {
    let entries = [
        dir("photos"),
        file("photos/a.jpg", 1 << 20),
        file("photos/ab.jpg", 0),
        link("photos/latest", "a.jpg"),
        file("日本語.txt", 17),
        file("日曜.txt", 18),
        Entry { mode: 0o7755, mtime: Mtime { seconds: -1, nanos: 999_999_999 }, ..file("old", 1) },
    ];
    let manifest = manifest(&entries).unwrap();
    let mut expected = entries.to_vec();
    expected[6].mode = 0o755;
    assert_eq!(manifest.page(0), expected);
    assert_eq!(manifest.entries().map(|(index, _)| index).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    assert_eq!(manifest.totals(), Totals { entries: 7, files: 5, bytes: (1 << 20) + 17 + 18 + 1 });
    assert_eq!((manifest.page_of(6), manifest.page_of(7)), (Some(0), None));
    assert_eq!(manifest.entry(3).unwrap(), entries[3]);
    assert_eq!(manifest.entry(7), None);
    assert_eq!(manifest.page(1), vec![]);
}

#[test]
fn empty_manifest_is_valid() {
    let manifest = builder().finish().unwrap();
    assert_eq!((manifest.totals(), manifest.pages(), manifest.entries().count()), (Totals::default(), 0, 0));
}

/// The encoding is part of the protocol, so this test has it as bytes.
#[test]
fn manifest_encoding_matches_protocol() {
    let mut page = PageBuilder::new();
    let at = |seconds| Mtime { seconds, nanos: 0 };
    page.push(&Entry { mtime: at(100), ..file("ab/c", 300) }).unwrap();
    page.push(&Entry { mtime: at(99), ..link("ab/d", "c") }).unwrap();
    page.push(&Entry { mtime: at(99), ..dir("ab/de") }).unwrap();
    let Page(bytes) = page.finish();
    let expected: &[u8] = &[
        0, 3, // entries
        0, 0, 4, b'a', b'b', b'/', b'c', 0xa4, 0x03, 0xc8, 0x01, 0, 0xac,
        0x02, // file, mode 0o644, +100 s, 300 bytes
        2, 3, 1, b'd', 0xff, 0x03, 1, 0, 1, b'c', // link, mode 0o777, -1 s
        1, 4, 1, b'e', 0xed, 0x03, 0, 0, // directory, mode 0o755
    ];
    assert_eq!(&bytes[..], expected);

    let mut builder = builder();
    builder.push_page(Page(bytes.clone())).unwrap();
    let manifest = builder.finish().unwrap();
    let mut hasher = blake3::Hasher::new_derive_key("tallow v1 manifest");
    hasher.update(&[0, 0, 1, 0, 0]).update(&bytes);
    assert_eq!(manifest.digest(), hasher.finalize().as_bytes());
}

#[test]
fn n01_to_n04_n06_a_name_is_refused_with_its_reason() {
    let deep = vec!["d"; 65].join("/");
    let long = "x".repeat(256);
    let longer = vec!["y"; 2049].join("/");
    assert_eq!(longer.len(), 4097);
    for (name, rule) in [
        ("../x", PathError::DotDot),
        ("a/../../x", PathError::DotDot),
        ("../target2/x", PathError::DotDot),
        ("/etc/cron.d/x", PathError::Absolute),
        ("\x1b[2J\x1b[1A\rharmless", PathError::Control(0)),
        ("", PathError::Empty),
        ("a//b", PathError::EmptyComponent),
        (&deep, PathError::TooDeep),
        (&long, PathError::ComponentTooLong),
        (&longer, PathError::TooLong),
    ] {
        match judge(&[raw(FILE, b"fine"), raw(FILE, name.as_bytes())]) {
            Err(ManifestError::Refused(refused)) => {
                assert_eq!((refused.why, refused.name.as_raw()), (Refusal::Name(rule), name));
            }
            other => panic!("{name:?} {other:?}"),
        }
    }
    // A text longer than any name can be is not decoded.
    let endless = "x".repeat(5000);
    assert_eq!(violation(judge(&[raw(FILE, endless.as_bytes())])), Violation::BadPage);
}

#[test]
fn n06_name_that_is_not_utf8_is_a_violation() {
    assert_eq!(violation(judge(&[raw(FILE, &[0x61, 0xff, 0x62])])), Violation::NotUtf8);
    assert_eq!(violation(judge(&[Raw { target: &[0xff], ..raw(SYMLINK, b"l") }])), Violation::NotUtf8);
}

#[test]
fn n07_colliding_entries_are_refused() {
    let refused = |entries: &[Entry]| match manifest(entries) {
        Err(ManifestError::Refused(refused)) => (refused.why, refused.name.as_raw().to_owned()),
        other => panic!("{entries:?} {other:?}"),
    };
    let twice: [[Entry; 2]; 5] = [
        [file("dup", 1), file("dup", 1)],
        [dir("dup"), dir("dup")],
        [link("dup", "x"), file("dup", 1)],
        [file("dup", 1), dir("dup")],
        [dir("dup"), file("dup", 1)],
    ];
    for entries in twice {
        assert_eq!(refused(&entries), (Refusal::Twice, "dup".into()));
    }
    let below: [[Entry; 2]; 5] = [
        [file("a", 1), file("a/b", 1)],
        [file("a/b", 1), file("a", 1)],
        [link("a", "x"), file("a/b", 1)],
        [file("a/b", 1), link("a", "x")],
        [link("a", "x"), dir("a/b/c")],
    ];
    for entries in below {
        assert_eq!(refused(&entries), (Refusal::NoDirectory, "a".into()));
    }
    assert_eq!(why(judge(&[raw(FILE, b"dup"), raw(FILE, b"./dup")])), Refusal::Name(PathError::Dot));

    let fine: &[&[Entry]] = &[
        &[file("a/b", 1), dir("a")],
        &[dir("a"), file("a/b", 1), dir("a/c"), file("a/c/b", 1), file("b", 1)],
        &[file("x/y/z", 1), file("x/y", 1)][..1],
        &[file("ab", 1), file("a/b", 1)],
        &[file("a/b", 1), file("b/a", 1), file("ab/a", 1)],
        &[file("a/b/c", 1), file("a/b!", 1), file("a/bc", 1), file("a!/b", 1)],
        &[file("x", 1), file("x.", 1), file("x ", 1)],
        // What only some disks take for one name is decided where the disk is.
        &[
            file("README", 1),
            file("readme", 1),
            file("\u{e9}", 1),
            file("e\u{301}", 1),
            file("CON", 1),
            file("_con", 1),
        ],
        &[file("a", 1), file("A/b", 1), file("B/x", 1), file("b/y", 1)],
    ];
    for entries in fine {
        assert!(manifest(entries).is_ok(), "{entries:?}");
    }
}

#[test]
fn n08_unknown_kinds_and_unsafe_links_are_refused() {
    for tag in [3, 4, 5, 6, 0xc8, 0xff] {
        assert_eq!(violation(judge(&[raw(tag, b"x")])), Violation::UnknownEntryKind, "{tag}");
    }
    assert!(judge(&[Raw { target: b"y", ..raw(SYMLINK, b"x") }, raw(DIR, b"d"), raw(FILE, b"f")]).is_ok());
    // Where a link leads is judged by the receiver, who may keep one that leads out.
    for target in ["../x", "/etc/passwd", "a/../../x"] {
        assert!(judge(&[Raw { target: target.as_bytes(), ..raw(SYMLINK, b"l") }]).is_ok(), "{target}");
    }
    for (target, rule) in [("", PathError::Empty), ("a\x1b[2J", PathError::Control(1))] {
        assert_eq!(
            why(judge(&[Raw { target: target.as_bytes(), ..raw(SYMLINK, b"l") }])),
            Refusal::Link(rule),
            "{target}"
        );
    }
}

#[test]
fn n12_modes_and_times_are_clamped() {
    let extreme = |seconds, nanos| Raw { mode: 0o106_777, seconds, nanos, ..raw(FILE, b"x") };
    for (seconds, nanos, mtime) in [
        (i64::MAX, u64::from(u32::MAX), Mtime { seconds: 253_402_300_799, nanos: 999_999_999 }),
        (i64::MIN, u64::MAX, Mtime { seconds: -62_167_219_200, nanos: 999_999_999 }),
    ] {
        let entry = judge(&[extreme(seconds, nanos)]).unwrap().entry(0).unwrap();
        assert_eq!((entry.mode, entry.mtime), (0o777, mtime));
    }
    let both = judge(&[extreme(i64::MAX, 0), Raw { path: b"y", ..extreme(i64::MIN, 0) }]).unwrap();
    assert_eq!(both.entry(1).unwrap().mtime.seconds, -62_167_219_200);
    let mode = judge(&[Raw { mode: u64::MAX, ..raw(FILE, b"x") }]).unwrap().entry(0).unwrap().mode;
    assert_eq!(mode, 0o777);
}

#[test]
fn p02_only_canonical_encoding_is_accepted() {
    let entries = [Raw { size: 300, ..raw(FILE, b"ab/c") }, Raw { target: b"c", ..raw(SYMLINK, b"ab/d") }];
    let Page(good) = page_of(&entries);
    let push = |bytes: Vec<u8>| builder().push_page(Page(bytes.into()));
    assert_eq!(push(good.to_vec()), Ok(()));
    // Truncated at every byte, and with trailing bytes.
    for cut in 0..good.len() {
        assert_eq!(push(good[..cut].to_vec()), Err(Violation::BadPage.into()), "{cut}");
    }
    assert_eq!(push([&good[..], &[0]].concat()), Err(Violation::BadPage.into()));
    // Overlong varints: the length of the first name in two and in five bytes.
    assert_eq!(good[4], 4);
    for overlong in [&[0x84, 0][..], &[0x84, 0x80, 0x80, 0x80, 0]] {
        assert_eq!(push([&good[..4], overlong, &good[5..]].concat()), Err(Violation::BadPage.into()));
    }
    // A shared part that is shorter than possible, and one that is longer than the previous path.
    let page = |second: &[u8]| [&[0, 2, 1, 0, 1, b'a', 0, 0, 0][..], second].concat();
    assert_eq!(push(page(&[1, 1, 1, b'b', 0, 0, 0])), Ok(()));
    assert_eq!(push(page(&[1, 0, 2, b'a', b'b', 0, 0, 0])), Err(Violation::BadPage.into()));
    assert_eq!(push(page(&[1, 2, 1, b'b', 0, 0, 0])), Err(Violation::BadPage.into()));
    // 65 bits.
    assert_eq!(push([&[0, 1, 1, 0, 1, b'a'][..], &[0xff; 9], &[2, 0, 0]].concat()), Err(Violation::BadPage.into()));
    assert_eq!(push([&[0, 1, 1, 0, 1, b'a'][..], &[0xff; 9], &[1, 0, 0]].concat()), Ok(()));
}

#[test]
fn p03_zeros_and_false_counts_are_refused() {
    let push = |bytes: Vec<u8>| builder().push_page(Page(bytes.into()));
    assert_eq!(push(vec![0; Page::MAX]), Err(Violation::BadPage.into()));
    assert_eq!(
        push([&[0xff, 0xff][..], &vec![0; Page::MAX - 2]].concat()),
        Err(ManifestError::Refused(Refused { name: Untrusted::default(), why: Refusal::Name(PathError::Empty) }))
    );
    assert_eq!(push(vec![0xff, 0xff]), Err(Violation::BadPage.into()));
    assert_eq!(push(vec![]), Err(Violation::BadPage.into()));
    // Lengths of 2^60 without the bytes.
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    assert_eq!(push([&[0, 1, 0, 0][..], &huge].concat()), Err(Violation::BadPage.into()));
    assert_eq!(push([&[0, 1, 0][..], &huge, &[0]].concat()), Err(Violation::BadPage.into()));
    // A page that is longer than allowed but otherwise correct.
    let mut names: Vec<_> = (0..2000).map(|number| format!("{number:040}")).collect();
    names.sort();
    let mut page = PageBuilder::new();
    let taken =
        names.iter().take_while(|name| page.push_raw(&raw(FILE, &[name.as_bytes(), &[b'x'; 60]].concat())).is_ok());
    assert!(taken.count() < 2000);
    let Page(full) = page.finish();
    assert!(full.len() <= Page::MAX && full.len() > Page::MAX - 120);
    assert_eq!(push(full.to_vec()), Ok(()));
    let mut longer = full.to_vec();
    longer.resize(Page::MAX + 1, 0);
    assert_eq!(push(longer), Err(Violation::BadPage.into()));
}

/// Names that share nearly all of a long path take few bytes in a page, but their number is limited.
#[test]
fn p03_page_expansion_is_bounded() {
    let stem = vec!["d".repeat(255); 15].join("/");
    let mut page = PageBuilder::new();
    let mut count = 0;
    while page.push(&file(&format!("{stem}/{count}"), 0)).is_ok() {
        count += 1;
    }
    assert!((200..=Page::MAX_NAMES / stem.len()).contains(&count), "{count}");
    let Page(bytes) = page.finish();
    assert!(bytes.len() < 10_000);
    // The same page encoded by hand, with one entry more than the limit allows.
    let mut encoded = Vec::new();
    let mut before = Vec::new();
    for number in 0..=count {
        let path = format!("{stem}/{number}").into_bytes();
        codec::encode(&raw(FILE, &path), &before, 0, &mut encoded);
        before = path;
    }
    let bytes = [&u16::try_from(count + 1).unwrap().to_be_bytes()[..], &encoded].concat();
    assert_eq!(builder().push_page(Page(bytes.into())), Err(Violation::BadPage.into()));
}

#[test]
fn p03_the_number_of_entries_and_bytes_is_bounded() {
    let mut builder = builder();
    builder.totals.entries = MAX_ENTRIES - 1;
    assert_eq!(builder.push_page(page_of(&[raw(FILE, b"a")])), Ok(()));
    let result = builder.push_page(page_of(&[raw(FILE, b"b")]));
    assert_eq!(result, Err(refused("", Refusal::TooManyEntries)));

    let mut builder = self::builder();
    let page = page_of(&[raw(FILE, b"a")]);
    builder.encoded = MAX_ENCODED - page.0.len() + 1;
    assert_eq!(builder.push_page(page), Err(refused("", Refusal::TooManyNames)));

    let mut builder = self::builder();
    for number in 0..MAX_PAGES {
        builder.push_page(page_of(&[raw(FILE, format!("{number}").as_bytes())])).unwrap();
    }
    assert_eq!(builder.push_page(page_of(&[raw(FILE, b"x")])), Err(refused("", Refusal::TooManyNames)));
}

#[test]
fn p04_overflowing_size_sums_are_refused() {
    let sized = |path: &'static [u8], size| Raw { size, ..raw(FILE, path) };
    assert_eq!(judge(&[sized(b"a", 1 << 60)]).unwrap().totals().bytes, 1 << 60);
    assert_eq!(why(judge(&[sized(b"a", u64::MAX)])), Refusal::TooLarge);
    assert_eq!(why(judge(&[sized(b"a", 1 << 63), sized(b"b", 1 << 63)])), Refusal::TooLarge);
    let half = MAX_BYTES / 2;
    assert_eq!(why(judge(&[sized(b"a", half), sized(b"b", half), sized(b"c", 2)])), Refusal::TooLarge);
    // The sum is within the limit, but not with the gap before the second file.
    assert_eq!(why(judge(&[sized(b"a", 1), sized(b"b", MAX_BYTES - 1)])), Refusal::TooLarge);
    assert_eq!(judge(&[sized(b"b", MAX_BYTES)]).unwrap().totals().bytes, MAX_BYTES);
}

#[test]
fn invalid_chunk_size_is_a_violation() {
    for size in [0, 1, 32 << 10, (64 << 10) + 1, 96 << 10, 8 << 20, u32::MAX] {
        assert_eq!(builder().finish_with(size).unwrap_err(), Violation::BadOffer.into(), "{size}");
    }
    for class in 0..7 {
        assert_eq!(builder().finish_with((64 << 10) << class).unwrap().chunk_size(), (64 << 10) << class);
    }
}

fn any_name() -> impl Strategy<Value = RelPath> {
    prop::collection::vec("[a-cA-Cé日]{1,3}|\\PC{1,8}", 1..4)
        .prop_filter_map("a name", |parts| RelPath::parse(&parts.join("/")).ok())
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        4 => (0_u64..1 << 40).prop_map(|size| EntryKind::File { size }),
        2 => Just(EntryKind::Dir),
        1 => Just(EntryKind::Symlink { target: LinkTarget::parse("x/y").unwrap() }),
    ];
    (any_name(), kind, 0_u16..=0o777, any::<i64>(), 0_u32..1_000_000_000).prop_map(
        |(path, kind, mode, seconds, nanos)| Entry { path, kind, mode, mtime: Mtime::clamped(seconds, nanos.into()) },
    )
}

#[test]
fn manifest_with_staging_name_is_refused() {
    let entry = |name: &str| Entry {
        path: RelPath::parse(name).unwrap(),
        kind: EntryKind::File { size: 1 },
        mode: 0o644,
        mtime: Mtime::default(),
    };
    let refused = manifest(&[entry(".tallow-0123456789abcdef/journal")]);
    assert!(matches!(refused, Err(ManifestError::Refused(Refused { why: Refusal::Partial, .. }))), "{refused:?}");
    assert!(manifest(&[entry("d/.tallow-0123456789abcdef/journal")]).is_ok());
}

/// A slow and simple implementation of the rules.
fn collides(entries: &[Entry]) -> bool {
    let directory = |entry: &Entry| entry.kind == EntryKind::Dir;
    let ancestors = |path: &RelPath| {
        let parts: Vec<_> = path.components().map(str::to_owned).collect();
        (1..parts.len()).map(|count| RelPath::parse(&parts[..count].join("/")).unwrap()).collect::<Vec<_>>()
    };
    let mut dirs: Vec<RelPath> = entries.iter().flat_map(|entry| ancestors(&entry.path)).collect();
    dirs.extend(entries.iter().filter(|entry| directory(entry)).map(|entry| entry.path.clone()));
    let twice = (0..entries.len()).any(|b| (0..b).any(|a| entries[a].path == entries[b].path));
    let below = entries.iter().any(|entry| !directory(entry) && dirs.contains(&entry.path));
    twice || below
}

proptest! {
    #[test]
    fn any_entries_round_trip_or_collide(entries in prop::collection::vec(any_entry(), 0..12)) {
        match manifest(&entries) {
            Ok(manifest) => {
                prop_assert!(!collides(&entries));
                prop_assert_eq!(manifest.entries().map(|(_, entry)| entry).collect::<Vec<_>>(), entries);
            }
            Err(error) => prop_assert!(collides(&entries), "{:?}", error),
        }
    }

    #[test]
    fn accepted_page_bytes_re_encode_identically(
        mut bytes in prop::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..200),
        count in 0_u16..12,
    ) {
        if let Some(head) = bytes.first_chunk_mut() {
            *head = count.to_be_bytes();
        }
        let mut builder = builder();
        if builder.push_page(Page(bytes.clone().into())).is_ok() {
            // An accepted page has the canonical encoding: encoding the decoded entries gives the same bytes.
            let mut entries = codec::Entries::of_page(&bytes).unwrap();
            let (mut again, mut before, mut seconds) = (count.to_be_bytes().to_vec(), Vec::new(), 0);
            while let Some(raw) = entries.next().unwrap() {
                codec::encode(&raw, &before, seconds, &mut again);
                (before, seconds) = (raw.path.to_vec(), raw.seconds);
            }
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn changed_page_byte_is_refused_or_changes_digest(
        entries in prop::collection::vec(any_entry(), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let mut page = PageBuilder::new();
        for entry in &entries {
            page.push(entry).unwrap();
        }
        let Page(good) = page.finish();
        let mut bad = good.to_vec();
        *at.get_mut(&mut bad[..]) ^= 1_u8 << bit;
        let digest = |bytes: Vec<u8>| {
            let mut builder = builder();
            builder.push_page(Page(bytes.into())).ok()?;
            Some(*builder.finish().ok()?.digest())
        };
        let after = digest(bad);
        prop_assert!(after.is_none() || after != digest(good.to_vec()));
    }
}
