use proptest::prelude::*;

use super::*;

fn portable(name: &str) -> Option<String> {
    NameRules::PORTABLE.local(name)
}

#[test]
fn n05_an_exact_disk_keeps_what_others_refuse() {
    for name in
        ["a:b", "x\\y", "a?*<>|\"", "x.", "x ", "...", "CON", "aux.c", "C:", "1:2,S", "Imager::ImageTypes.3pm.gz"]
    {
        assert_eq!(NameRules::EXACT.local(name), None, "{name}");
    }
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
        ("CON.", "CON_"),
        ("...", "___"),
        (" ", "_"),
        ("a:b", "a_b"),
        ("Screencast 10:22:33.webm", "Screencast 10_22_33.webm"),
        ("C:\\x", "C__x"),
        ("a?*<>|\"", "a______"),
        ("..\\x", ".._x"),
        ("a\u{200b}b", "ab"),
        ("gpj.\u{202e}exe", "gpj.exe"),
        ("x.\u{feff}", "x_"),
        ("\u{200b}", "_"),
        ("..\u{200b}", "__"),
    ];
    for (name, expected) in cases {
        assert_eq!(portable(name).as_deref(), Some(expected), "{name:?}");
        assert_eq!(portable(expected), None, "{name:?}");
    }
    for name in ["CONSOLE", "xCON", "COM", "COM10", "LPT", "nulx.txt", "COM½", "日本語.txt", "a b", ".hidden", "COMx"]
    {
        assert_eq!(portable(name), None, "{name:?}");
    }
}

#[test]
fn each_rule_is_applied_by_itself() {
    let mut rules = NameRules::EXACT;
    rules.refused[SPECIAL.iter().position(|c| *c == ':').unwrap()] = true;
    assert_eq!(rules.local("a:b?c. ").as_deref(), Some("a_b?c. "));
    let rules = NameRules { no_trailing_dot: true, ..NameRules::EXACT };
    assert_eq!((rules.local("x.."), rules.local("x. ")), (Some("x__".into()), None));
    let rules = NameRules { no_devices: true, ..NameRules::EXACT };
    assert_eq!((rules.local("aux"), rules.local("a:b")), (Some("_aux".into()), None));
    let rules = NameRules { longest: 20, ..NameRules::EXACT };
    assert_eq!(rules.local("a name that is too long.txt").as_deref(), Some("a name that is t.txt"));
    assert_eq!(rules.local(&"é".repeat(20)).as_deref(), Some("é".repeat(10).as_str()));
}

#[test]
fn what_goes_never_leaves_a_name_that_leads_out() {
    for name in [".\u{200b}", ".\u{200b}.", "\u{202e}..", "\u{200b}", ".\u{2060}.\u{feff}"] {
        let local = NameRules::EXACT.local(name).unwrap();
        assert!(!matches!(local.as_str(), "" | "." | ".."), "{name:?} {local:?}");
    }
}

#[test]
fn joiners_stay_between_letters_and_emoji() {
    for name in [
        "می\u{200c}خواهم.txt",
        "۳۰\u{200c}ساله",
        "क\u{94d}\u{200d}ष",
        "👨\u{200d}👩\u{200d}👧.png",
        "❤\u{fe0f}\u{200d}🔥",
        "👩🏽\u{200d}🚀",
        "❤\u{fe0f}.png",
        "Auf\u{200c}lage",
    ] {
        assert_eq!((portable(name), NameRules::EXACT.local(name)), (None, None), "{name:?}");
    }
    for (name, expected) in [
        ("\u{200d}a", "a"),
        ("a\u{200c}", "a"),
        ("a\u{200d}.exe", "a.exe"),
        ("a\u{200c}\u{200d}b", "ab"),
        ("a\u{200d} b", "a b"),
        ("a\u{202e}\u{200d}b", "ab"),
    ] {
        assert_eq!(NameRules::EXACT.local(name).as_deref(), Some(expected), "{name:?}");
    }
    let kept = NameRules { keeps_invisible: true, ..NameRules::EXACT };
    assert_eq!(kept.local("gpj.\u{202e}exe\u{200b}"), None);
}

#[test]
fn n05_name_at_length_limit_has_portable_form() {
    let name = format!("nul.{}", "x".repeat(MAX_COMPONENT - 4));
    assert_eq!(portable(&name), Some(name.replacen('n', "_", 1)));
}

#[test]
fn n07_one_key_for_what_one_disk_takes_for_one_name() {
    let key = |rules: NameRules, name: &str| {
        let mut key = String::new();
        rules.push_key(name, &mut key);
        key
    };
    let same = [
        ("README", "readme"),
        ("\u{e9}", "e\u{301}"),
        ("É", "e\u{301}"),
        ("straße", "STRASSE"),
        ("a\u{200b}b", "ab"),
        ("e\u{200d}\u{301}", "é"),
        ("ﬁ", "FI"),
        ("❤\u{fe0f}", "❤"),
        ("Σας", "ΣΑΣ"),
        ("\u{212b}", "å"),
    ];
    for (a, b) in same {
        assert_eq!(key(NameRules::PORTABLE, a), key(NameRules::PORTABLE, b), "{a} {b}");
        assert_ne!(key(NameRules::EXACT, a), key(NameRules::EXACT, b), "{a} {b}");
    }
    for (a, b) in [("a", "b"), ("ä", "a"), ("x.", "x"), ("ｆ", "f")] {
        assert_ne!(key(NameRules::PORTABLE, a), key(NameRules::PORTABLE, b), "{a} {b}");
    }
    let case = NameRules { folds_case: true, ..NameRules::EXACT };
    assert_eq!(key(case, "É"), key(case, "é"));
    assert_ne!(key(case, "é"), key(case, "e\u{301}"));
    let form = NameRules { normalizes: true, ..NameRules::EXACT };
    assert_eq!(key(form, "é"), key(form, "e\u{301}"));
    assert_ne!(key(form, "É"), key(form, "é"));
}

#[test]
fn number_is_inserted_before_extension_within_limit() {
    let numbered = |name: &str, number, is_dir| numbered(name, number, is_dir, MAX_COMPONENT);
    assert_eq!(numbered("photo.jpg", 1, false), "photo (1).jpg");
    assert_eq!(numbered("photo.jpg", 12, true), "photo.jpg (12)");
    assert_eq!(numbered("a.tar.gz", 2, false), "a (2).tar.gz");
    assert_eq!(numbered("notes.gz", 2, false), "notes (2).gz");
    assert_eq!(numbered(".profile", 1, false), ".profile (1)");
    assert_eq!(numbered("x.", 1, false), "x (1).");
    let long = numbered(&"é".repeat(127), 9999, false);
    assert!(long.len() <= MAX_COMPONENT && long.ends_with("é (9999)"), "{long}");
    let dots = numbered(&format!("a.{}", "b".repeat(252)), 1, false);
    assert!(dots.len() <= MAX_COMPONENT && dots.ends_with(" (1)"), "{dots}");
}

proptest! {
    /// Whatever a name is and whatever the disk holds, the local form is one component, and stays as it is.
    #[test]
    fn any_local_form_is_one_component(
        name in "[^/\\x00-\\x1f\\x7f-\\x9f]{1,40}|[.: \u{200b}\u{200d}aé]{1,8}",
        flags in any::<[bool; 8]>(),
        refused in any::<[bool; SPECIAL.len()]>(),
        longest in 16_usize..=MAX_COMPONENT,
    ) {
        prop_assume!(!matches!(name.as_str(), "." | ".."));
        let [no_trailing_dot, no_trailing_space, no_devices, folds_case, normalizes, ignores, keeps_invisible, _] =
            flags;
        let ignores_invisible = ignores;
        let rules = NameRules {
            refused, no_trailing_dot, no_trailing_space, no_devices, folds_case, normalizes, ignores_invisible, longest,
            keeps_invisible,
        };
        let local = rules.local(&name).unwrap_or_else(|| name.clone());
        prop_assert!(!matches!(local.as_str(), "" | "." | ".."), "{:?}", local);
        prop_assert!(!local.contains(['/', '\0']) && local.len() <= longest, "{:?}", local);
        prop_assert_eq!(rules.local(&local), None, "{:?}", local);
        let another = numbered(&local, 7, false, longest);
        prop_assert!(another.len() <= longest && !another.contains('/') && another != local);
    }

    /// Keys are stable under what they abstract from.
    #[test]
    fn keys_ignore_case_and_composition(name in "[a-zA-ZäöüßéÀ-ÿ가-힣]{1,12}") {
        let key = |name: &str| {
            let mut key = String::new();
            NameRules::PORTABLE.push_key(name, &mut key);
            key
        };
        prop_assert_eq!(key(&name), key(&name.nfd().collect::<String>()));
        prop_assert_eq!(key(&name), key(&name.to_uppercase()));
    }
}
