use proptest::prelude::*;

use super::*;

fn parse(name: &str) -> Result<String, PathError> {
    RelPath::parse(name).map(|path| path.as_str().to_owned())
}

#[test]
fn n01_dot_dot_is_refused() {
    for name in ["../x", "..", "a/../../x", "a/..", "a/../b"] {
        assert_eq!(parse(name), Err(PathError::DotDot), "{name}");
    }
    assert_eq!(parse("./../x"), Err(PathError::Dot));
    assert_eq!(PathError::DotDot.to_string(), "\"..\" is not allowed");
    for name in ["..x", "x..y", "...x", "a/.x"] {
        assert!(parse(name).is_ok(), "{name}");
    }
}

#[test]
fn n02_absolute_paths_and_what_only_another_system_takes_for_one() {
    for name in ["/etc/cron.d/x", "//x", "/"] {
        assert_eq!(parse(name), Err(PathError::Absolute), "{name}");
    }
    // One component each, for a disk that can hold it; on another one the receiver replaces what it can't hold.
    for name in ["\\x", "\\\\srv\\share\\x", "..\\..\\x", "C:\\x", "C:x", "c:", "file.txt:stream", ":x", "1:x"] {
        let path = RelPath::parse(name).unwrap();
        assert_eq!((path.as_str(), path.levels()), (name, 1));
        let portable = NameRules::PORTABLE.local(name).unwrap();
        assert!(!portable.contains(['\\', ':']), "{portable}");
    }
}

#[test]
fn n03_control_characters_are_refused_with_position() {
    let bad =
        ["ab\0", "ab\n", "ab\r", "ab\x1b[2J", "ab\x7f", "ab\u{85}", "ab\u{9b}31m", "ab\t", "ab\x1b]52;c;ZXZpbA==\x07"];
    for name in bad {
        assert_eq!(parse(name), Err(PathError::Control(2)), "{name:?}");
    }
    assert_eq!(parse("é\n"), Err(PathError::Control(2)));
    assert_eq!(parse("a/\n"), Err(PathError::Control(2)));
    assert_eq!(PathError::Control(7).to_string(), "control character at byte 7");
}

#[test]
fn n04_path_to_sibling_of_same_prefix_is_refused() {
    assert_eq!(parse("../target2/x"), Err(PathError::DotDot));
}

#[test]
fn n06_empty_long_and_deep_names_are_refused() {
    assert_eq!(parse(""), Err(PathError::Empty));
    assert_eq!(parse("."), Err(PathError::Dot));
    for name in ["a//b", "a/", "a//"] {
        assert_eq!(parse(name), Err(PathError::EmptyComponent), "{name}");
    }
    let component = |len: usize| "x".repeat(len);
    assert!(parse(&component(255)).is_ok());
    assert_eq!(parse(&component(256)), Err(PathError::ComponentTooLong));
    let levels = |count: usize| vec!["d"; count].join("/");
    assert!(parse(&levels(64)).is_ok());
    assert_eq!(parse(&levels(65)), Err(PathError::TooDeep));
    // 16 components of 255 bytes and their slashes are 4,095 bytes.
    let long = vec![component(255); 16].join("/");
    assert_eq!(long.len(), 4095);
    let exactly = format!("{}/{}/y", vec![component(255); 15].join("/"), component(254));
    assert_eq!((exactly.len(), parse(&exactly).is_ok()), (4096, true));
    assert_eq!(parse(&format!("{exactly}y")), Err(PathError::TooLong));
}

#[test]
fn staging_names_are_recognised_in_each_spelling() {
    let is_partial = |name: &str| RelPath::parse(name).unwrap().is_partial();
    for name in [
        ".tallow-0123456789abcdef",
        ".tallow-0123456789abcdef/journal",
        ".tallow-0123456789abcdef-2/tree/a",
        ".TALLOW-0123456789ABCDEF/moves",
        ".tal\u{200b}low-0123456789abcdef",
    ] {
        assert!(is_partial(name), "{name}");
    }
    for name in [
        ".tallow-0123456789abcde",
        ".tallow-0123456789abcdefg",
        ".tallow-0123456789abcdef-",
        ".tallow-0123456789abcdef-x",
        "a/.tallow-0123456789abcdef",
        "tallow-0123456789abcdef",
        ".tallow-0123456789abcdef.",
    ] {
        assert!(!is_partial(name), "{name}");
    }
}

#[test]
fn links_that_stay_inside_are_told_from_others() {
    let at = |link: &str, target: &str| LinkTarget::parse(target).unwrap().stays_inside(&RelPath::parse(link).unwrap());
    for (link, target) in [
        ("l", "x"),
        ("l", "x/y"),
        ("a/l", "../x"),
        ("a/b/l", "../../x/y"),
        ("l", "./x/"),
        ("a/l", ".."),
        ("l", "x//y"),
        ("l", "C:x"),
        ("l", "dev-disk\\x2duuid"),
    ] {
        assert_eq!(at(link, target), Ok(()), "{link} {target}");
    }
    for (link, target) in [("l", ".."), ("l", "../x"), ("a/l", "../../x"), ("a/l", "./../../x"), ("a/b/l", "../../..")]
    {
        assert_eq!(at(link, target), Err(LeadsOut::Escapes), "{link} {target}");
    }
    // `s` may itself be a link to the top, so its `..` can't be counted.
    assert_eq!(at("a/b/l", "s/.."), Err(LeadsOut::ClimbsLate));
    assert_eq!(at("a/b/l", "../s/../x"), Err(LeadsOut::ClimbsLate));
    assert_eq!(at("a/b/l", "/etc/passwd"), Err(LeadsOut::Absolute));
}

#[test]
fn a_target_is_any_path_that_a_terminal_does_not_obey() {
    for (target, why) in [("", PathError::Empty), ("a\nb", PathError::Control(1)), ("é\u{85}", PathError::Control(2))]
    {
        assert_eq!(LinkTarget::parse(target).map(drop), Err(why), "{target:?}");
    }
    assert!(LinkTarget::parse(&"x".repeat(MAX_TARGET)).is_ok());
    assert_eq!(LinkTarget::parse(&"x".repeat(MAX_TARGET + 1)).map(drop), Err(PathError::TooLong));
}

#[test]
fn d01_path_debug_output_escapes_control_characters() {
    let path = RelPath::parse("x\u{202e}gnp.\u{200b}exe").unwrap();
    assert_eq!(format!("{path:?}"), r#""x\\u{202e}gnp.\\u{200b}exe""#);
    assert_eq!(path.shown().escaped(100), r"x\u{202e}gnp.\u{200b}exe");
}

proptest! {
    /// An accepted path stays below its root, according to a walk that does not use the parser.
    #[test]
    fn accepted_paths_stay_inside_root(
        parts in prop::collection::vec(
            prop_oneof![
                Just("..".to_owned()),
                Just(".".to_owned()),
                Just(String::new()),
                Just("/".to_owned()),
                Just("\\".to_owned()),
                Just("C:".to_owned()),
                "\\PC{0,4}",
            ],
            1..6
        ),
        separator in prop_oneof![Just("/"), Just("\\"), Just("")],
    ) {
        if let Ok(path) = RelPath::parse(&parts.join(separator)) {
            let root = std::path::Path::new("/base/target");
            let mut depth = 0_i32;
            for component in root.join(path.as_str()).components().skip(3) {
                prop_assert!(matches!(component, std::path::Component::Normal(_)));
                depth += 1;
            }
            prop_assert!(depth >= 1);
            prop_assert!(root.join(path.as_str()).starts_with(root));
        }
    }

    #[test]
    fn parsed_path_keeps_its_text(name in any::<String>()) {
        if let Ok(path) = RelPath::parse(&name) {
            prop_assert_eq!(path.as_str(), &name);
        }
    }
}
