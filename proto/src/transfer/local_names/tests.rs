use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::transfer::manifest::{Entry, ManifestBuilder, Mtime, PageBuilder};
use crate::wire::peer::TransferKind;

fn seed() -> Seed {
    Seed::new([3; 32])
}

/// A name ends with `/` where it is a directory.
fn manifest(names: &[impl AsRef<str>]) -> Manifest {
    let mut builder = ManifestBuilder::new(TransferKind::Files, &seed());
    let mut page = PageBuilder::new();
    for name in names {
        let name = name.as_ref();
        let kind = if name.ends_with('/') { EntryKind::Dir } else { EntryKind::File { size: 1 } };
        let path = RelPath::parse(name.trim_end_matches('/')).unwrap();
        let entry = Entry { path, kind, mode: 0o644, mtime: Mtime::default() };
        if page.push(&entry).is_err() {
            builder.push_page(std::mem::take(&mut page).finish()).unwrap();
            page.push(&entry).unwrap();
        }
    }
    builder.push_page(page.finish()).unwrap();
    builder.finish().unwrap()
}

fn locals(names: &[impl AsRef<str>], rules: NameRules) -> Vec<String> {
    let manifest = manifest(names);
    let local = LocalNames::of(&manifest, rules, &seed()).unwrap();
    manifest.entries().map(|(_, entry)| local.local(&entry.path).into_owned()).collect()
}

fn folding() -> NameRules {
    NameRules { folds_case: true, normalizes: true, ..NameRules::EXACT }
}

#[test]
fn n07_an_exact_disk_keeps_names_side_by_side() {
    let names = ["README", "readme", "\u{e9}", "e\u{301}", "A/x", "a/x", "CON", "_con", "a:b", "x.", "m\u{200d}n"];
    assert_eq!(locals(&names, NameRules::EXACT), names);
}

#[test]
fn n07_the_first_keeps_its_name_and_another_gets_a_number() {
    let names = ["README", "Readme", "readme", "readme (1)", "x.tar.gz", "X.tar.gz", "\u{e9}", "e\u{301}"];
    let expected =
        ["README", "Readme (2)", "readme (3)", "readme (1)", "x.tar.gz", "X (1).tar.gz", "\u{e9}", "e\u{301} (1)"];
    assert_eq!(locals(&names, folding()), expected);
}

#[test]
fn n07_a_name_that_fits_is_kept_before_one_that_is_changed() {
    let portable = |names: &[&str]| locals(names, NameRules::PORTABLE);
    assert_eq!(portable(&["a:b", "a?b", "A_B"]), ["a_b (1)", "a_b (2)", "A_B"]);
    assert_eq!(portable(&["CON", "_con"]), ["_CON (1)", "_con"]);
    assert_eq!(locals(&["a\u{200b}b", "ab"], NameRules::EXACT), ["ab (1)", "ab"]);
}

#[test]
fn n07_directories_stay_apart_with_what_is_in_them() {
    let names = ["A/", "A/x", "A/X", "a/", "a/x", "a/b.c/y", "B/x", "b/x"];
    let expected = ["A", "A/x", "A/X (1)", "a (1)", "a (1)/x", "a (1)/b.c/y", "B/x", "b (1)/x"];
    assert_eq!(locals(&names, folding()), expected);
    assert_eq!(locals(&["d.d/x", "D.d/x", "D.D"], folding()), ["d.d/x", "D.d (1)/x", "D (2).D"]);
    assert_eq!(locals(&["c:/x", "c:/x:", "c?/x"], NameRules::PORTABLE), ["c_/x", "c_/x_", "c_ (1)/x"]);
}

#[test]
fn n07_a_link_and_a_directory_of_one_folded_name_stay_apart() {
    let mut builder = ManifestBuilder::new(TransferKind::Files, &seed());
    let mut page = PageBuilder::new();
    let entry =
        |name: &str, kind| Entry { path: RelPath::parse(name).unwrap(), kind, mode: 0o777, mtime: Mtime::default() };
    page.push(&entry("A", EntryKind::Symlink { target: LinkTarget::parse("/etc").unwrap() })).unwrap();
    page.push(&entry("a/passwd", EntryKind::File { size: 1 })).unwrap();
    builder.push_page(page.finish()).unwrap();
    let manifest = builder.finish().unwrap();
    let names = LocalNames::of(&manifest, folding(), &seed()).unwrap();
    assert_eq!(names.local(&RelPath::parse("a/passwd").unwrap()), "a (1)/passwd");
}

#[test]
fn each_changed_name_is_reported_once() {
    let manifest = manifest(&["c:/", "c:/x", "c:/y:", "plain"]);
    let names = LocalNames::of(&manifest, NameRules::PORTABLE, &seed()).unwrap();
    let list: Vec<_> = names.renamed().list().iter().map(|name| (name.offered.as_str(), name.here.as_str())).collect();
    assert_eq!((list, names.renamed().total()), (vec![("c:", "c_"), ("c:/y:", "c_/y_")], 2));
}

#[test]
fn a_links_target_gets_the_local_names() {
    let manifest = manifest(&["d/aux", "d/X.y", "d/x.y", "e/", "e:/f"]);
    let names = LocalNames::of(&manifest, NameRules::PORTABLE, &seed()).unwrap();
    let target = |link: &str, target: &str| {
        names.link_target(&RelPath::parse(link).unwrap(), &LinkTarget::parse(target).unwrap()).into_owned()
    };
    assert_eq!(target("d/l", "aux"), "_aux");
    assert_eq!(target("d/l", "x.y"), "x (1).y");
    assert_eq!(target("d/l", "../e:/./f"), "../e_/./f");
    assert_eq!(target("q/l", "../d/x.y"), "../d/x (1).y");
    for outside in ["/d/aux", "../../aux", "d/../aux"] {
        assert_eq!(target("d/l", outside), outside);
    }
}

#[test]
fn a_local_path_that_is_too_long_is_refused() {
    let front = vec!["x".repeat(255); 15].join("/");
    let with_device = |rest: usize| format!("{front}/CON/{}", "y".repeat(rest));
    let of = |name: String| LocalNames::of(&manifest(&[name]), NameRules::PORTABLE, &seed()).map(drop);
    assert_eq!(with_device(252).len(), MAX_PATH);
    assert_eq!(of(with_device(252)).unwrap_err().why, Refusal::Name(PathError::TooLong));
    assert_eq!(of(with_device(251)), Ok(()));
}

#[test]
fn p03_names_that_all_collide_are_numbered_in_bounded_work() {
    // Every `a (n)` is taken, and each spelling of `a.` collides: one search must not begin again at 1.
    let mut names: Vec<String> = (1..3000).map(|number| format!("a ({number})")).collect();
    let invisible = |number: usize| "\u{200b}".repeat(number % 30 + 1) + &"\u{2060}".repeat(number / 30);
    names.extend((0..1500).map(|number| format!("a{}", invisible(number))));
    let manifest = manifest(&names);
    let mut local = LocalNames::of(&manifest, NameRules::EXACT, &seed()).unwrap();
    assert_eq!(local.local(&RelPath::parse("a\u{200b}").unwrap()), "a");
    assert_eq!(local.renamed().total(), 1500);
    let mut search = Search { tries: MOST_TRIES, ..Search::new() };
    for (name, expected) in [("b", Ok(())), ("b\u{200b}", Err(Refusal::TooManyCollisions))] {
        let path = RelPath::parse(name).unwrap();
        let pass = if name == "b" { Pass::Kept } else { Pass::Changed };
        assert_eq!(search.name(&mut local, &path, false, pass).map_err(|refused| refused.why), expected);
    }
}

#[test]
fn a_report_is_bounded_by_names_and_by_bytes() {
    let mut report = Reported::default();
    for number in 0..MOST_REPORTED + 5 {
        report.push(1, || number);
    }
    assert_eq!((report.list().len(), report.total()), (MOST_REPORTED, MOST_REPORTED as u64 + 5));
    let mut report = Reported::default();
    for _ in 0..20 {
        report.push(MOST_REPORTED_BYTES / 10, || ());
    }
    assert_eq!((report.list().len(), report.total()), (10, 20));
}

proptest! {
    /// On any disk: each entry has a place of its own, below the place of its directory, and the names are those of the
    /// next process.
    #[test]
    fn any_names_have_places_of_their_own(
        names in prop::collection::vec("[aA:.]{1,2}(/[bBéÉ ?]{1,2}){0,2}", 1..24),
        flags in any::<[bool; 6]>(),
        refuses in any::<bool>(),
    ) {
        let [no_trailing_dot, no_trailing_space, no_devices, folds_case, normalizes, ignores_invisible] = flags;
        let rules = NameRules {
            refused: [refuses; 8], no_trailing_dot, no_trailing_space, no_devices, folds_case, normalizes,
            ignores_invisible, ..NameRules::EXACT
        };
        let names: BTreeSet<_> = names.into_iter().filter(|name| RelPath::parse(name).is_ok()).collect();
        let is_leaf = |name: &&String| !names.iter().any(|other| other.starts_with(&format!("{name}/")));
        let leaves: Vec<_> = names.iter().filter(is_leaf).cloned().collect();
        prop_assume!(!leaves.is_empty());
        let manifest = manifest(&leaves);
        let local = LocalNames::of(&manifest, rules, &seed()).unwrap();
        let again = LocalNames::of(&manifest, rules, &Seed::new([9; 32])).unwrap();
        let mut keys = std::collections::BTreeMap::new();
        for (_, entry) in manifest.entries() {
            let here = local.local(&entry.path);
            prop_assert_eq!(&here, &again.local(&entry.path));
            prop_assert!(RelPath::parse(&here).is_ok(), "{:?}", here);
            prop_assert!(here.split('/').all(|part| rules.local(part).is_none()), "{:?}", here);
            // Each offered directory and file has one key, and no two have the same.
            let (mut offered, mut key) = (String::new(), String::new());
            for (part, own) in entry.path.components().zip(here.split('/')) {
                offered.push('/');
                offered.push_str(part);
                key.push('/');
                rules.push_key(own, &mut key);
                let before = keys.insert(key.clone(), offered.clone());
                prop_assert!(before.is_none_or(|before| before == offered), "{:?}", here);
            }
        }
    }
}
