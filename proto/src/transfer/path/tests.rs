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
    assert_eq!(parse("..\\..\\x"), Err(PathError::Backslash));
    assert_eq!(parse("a\\..\\x"), Err(PathError::Backslash));
    assert_eq!(PathError::DotDot.to_string(), "\"..\" is not allowed");
    for name in ["..x", "x..y", "...x", "a/.x"] {
        assert!(parse(name).is_ok(), "{name}");
    }
}

#[test]
fn n02_absolute_drive_and_stream_names_are_refused() {
    for name in ["/etc/cron.d/x", "//x", "/", "\\x", "\\\\srv\\share\\x", "\\\\?\\C:\\x"] {
        assert_eq!(parse(name), Err(PathError::Absolute), "{name}");
    }
    for name in ["C:\\x", "C:x", "c:", "z:/x"] {
        assert_eq!(parse(name), Err(PathError::Drive), "{name}");
    }
    for name in ["file.txt:stream", "a/C:x", "x/y::$DATA", ":x", "1:x"] {
        assert_eq!(parse(name), Err(PathError::Stream), "{name}");
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
fn n05_unportable_names_get_portable_form() {
    let cases = [
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("COM1", "_COM1"),
        ("LPT9.log", "_LPT9.log"),
        ("AUX", "_AUX"),
        ("com²", "_com²"),
        ("con .txt", "_con .txt"),
        ("CONIN$", "_CONIN$"),
        ("x.", "x_"),
        ("x ", "x_"),
        ("x. .", "x___"),
        ("CON.", "_CON_"),
        ("...", "___"),
        (" ", "_"),
        ("a/PRN/b.", "a/_PRN/b_"),
        ("a\u{200b}b", "ab"),
        ("gpj.\u{202e}exe", "gpj.exe"),
        ("CO\u{200d}N", "_CON"),
        ("x.\u{feff}", "x_"),
        ("\u{200b}", "_"),
        ("a/\u{200b}\u{2060}/b", "a/_/b"),
        ("..\u{200b}", "__"),
    ];
    for (name, portable) in cases {
        let path = RelPath::parse(name).unwrap();
        assert_eq!(path.portable().map(|path| path.as_str().to_owned()).as_deref(), Some(portable), "{name:?}");
        assert_eq!(path.portable().unwrap().portable(), None, "{name:?}");
    }
    for name in [
        "CONSOLE",
        "xCON",
        "COM",
        "COM10",
        "LPT",
        "nulx.txt",
        "COM½",
        "日本語.txt",
        "a b",
        ".hidden",
        "❤\u{fe0f}.png",
        "COMx",
    ] {
        assert_eq!(RelPath::parse(name).unwrap().portable(), None, "{name:?}");
    }
}

#[test]
fn n05_name_at_length_limit_has_portable_form() {
    let name = format!("nul.{}", "x".repeat(MAX_COMPONENT - 4));
    let portable = RelPath::parse(&name).unwrap().portable().unwrap();
    assert_eq!(portable.as_str(), name.replacen('n', "_", 1));

    // 17 components that would each grow by a byte: no path of that length is left to write to.
    let name = vec![format!("nul.{}", "x".repeat(250)); 16].join("/") + "/aux.xxxxxxxxxxxx";
    assert_eq!(name.len(), MAX_PATH);
    assert_eq!(RelPath::parse(&name), Err(PathError::TooLong));
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
fn n07_equivalent_names_have_same_collision_key() {
    let key = |name: &str| RelPath::parse(name).unwrap().collision_key();
    let same = [
        ("README", "readme"),
        ("\u{e9}", "e\u{301}"),
        ("É", "e\u{301}"),
        ("straße", "STRASSE"),
        ("a\u{200b}b", "ab"),
        ("e\u{200d}\u{301}", "é"),
        ("x/ﬁ", "X/FI"),
        ("❤\u{fe0f}", "❤"),
        ("Σας", "ΣΑΣ"),
        ("\u{212b}", "å"),
        ("CON", "_con"),
    ];
    for (a, b) in same {
        assert_eq!(key(a), key(b), "{a} {b}");
    }
    for (a, b) in [("a", "b"), ("a/b", "ab"), ("ä", "a"), ("x.", "x"), ("ｆ", "f")] {
        assert_ne!(key(a), key(b), "{a} {b}");
    }
}

#[test]
fn device_name_at_limit_has_key_of_its_portable_form() {
    let full = |start: &str| RelPath::parse(&format!("{start}{}", "x".repeat(255 - start.len()))).unwrap();
    for (device, taken) in [("CON.", "_ON."), ("com1.", "_om1."), ("nul .", "_ul .")] {
        let (device, taken) = (full(device), full(taken));
        assert_eq!(device.portable(), Some(taken.clone()));
        assert_eq!(device.collision_key(), taken.collision_key());
    }
    // What stands beside it in the path changes nothing.
    let beside = RelPath::parse(&format!("CON/{}", full("CON.").as_str())).unwrap();
    assert!(beside.portable().unwrap().as_str().starts_with("_CON/_ON."));
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
fn a_path_whose_portable_form_is_too_long_is_refused() {
    let front = vec!["x".repeat(255); 15].join("/");
    let with_device = |rest: usize| format!("{front}/CON/{}", "y".repeat(rest));
    assert_eq!(with_device(252).len(), 4096);
    assert_eq!(parse(&with_device(252)), Err(PathError::TooLong));
    let fits = RelPath::parse(&with_device(251)).unwrap();
    assert_eq!(fits.portable().unwrap().as_str().len(), 4096);
}

#[test]
fn link_targets_stay_inside_root() {
    let at = |link: &str, target: &str| {
        LinkTarget::parse(target, &RelPath::parse(link).unwrap()).map(|target| target.as_str().to_owned())
    };
    for (link, target) in
        [("l", "x"), ("l", "x/y"), ("a/l", "../x"), ("a/b/l", "../../x/y"), ("l", "./x/"), ("a/l", ".."), ("l", "x//y")]
    {
        assert_eq!(at(link, target).as_deref(), Ok(target), "{link} {target}");
    }
    for (link, target) in [("l", ".."), ("l", "../x"), ("a/l", "../../x"), ("a/l", "./../../x"), ("a/b/l", "../../..")]
    {
        assert_eq!(at(link, target), Err(LinkError::Escapes), "{link} {target}");
    }
    // `s` may itself be a link to the top, so its `..` can't be counted.
    assert_eq!(at("a/b/l", "s/.."), Err(LinkError::ClimbsLate));
    assert_eq!(at("a/b/l", "../s/../x"), Err(LinkError::ClimbsLate));
    let text = [
        ("/etc/passwd", PathError::Absolute),
        ("", PathError::Empty),
        ("C:x", PathError::Drive),
        ("\\\\srv\\x", PathError::Absolute),
        ("x\\..\\y", PathError::Backslash),
        ("xx:y", PathError::Stream),
        ("a\nb", PathError::Control(1)),
    ];
    for (target, why) in text {
        assert_eq!(at("a/b/l", target), Err(LinkError::Text(why)), "{target}");
    }
    assert!(at("l", &vec!["d"; 64].join("/")).is_ok());
    assert_eq!(at("l", &vec!["d"; 65].join("/")), Err(LinkError::Text(PathError::TooDeep)));
    assert_eq!(at("l", &"x".repeat(256)), Err(LinkError::Text(PathError::ComponentTooLong)));
}

#[test]
fn d01_path_debug_output_escapes_control_characters() {
    let path = RelPath::parse("x\u{202e}gnp.\u{200b}exe").unwrap();
    assert_eq!(format!("{path:?}"), r#""x\\u{202e}gnp.\\u{200b}exe""#);
    assert_eq!(path.shown().escaped(100), r"x\u{202e}gnp.\u{200b}exe");
}

proptest! {
    /// Whatever is accepted stays below its root, by a walk that knows nothing of the parser.
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
    fn accepted_paths_have_valid_portable_form(name in any::<String>()) {
        if let Ok(path) = RelPath::parse(&name) {
            prop_assert_eq!(path.as_str(), &name);
            let portable = path.portable();
            let used = portable.clone().unwrap_or_else(|| path.clone());
            prop_assert!(RelPath::parse(used.as_str()).is_ok());
            prop_assert_eq!(used.portable(), None);
            prop_assert_eq!(used.collision_key(), path.collision_key());
            prop_assert_eq!(used.levels(), path.levels());
        }
    }

    /// Keys are stable under what they abstract from.
    #[test]
    fn keys_ignore_case_and_composition(name in "[a-zA-ZäöüßéÀ-ÿ가-힣]{1,12}") {
        let key = |name: &str| RelPath::parse(name).unwrap().collision_key();
        prop_assert_eq!(key(&name), key(&name.nfd().collect::<String>()));
        prop_assert_eq!(key(&name), key(&name.to_uppercase()));
    }
}
