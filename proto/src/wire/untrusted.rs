//! Text that came from outside: it has no `Display`, only [`Untrusted::escaped`] shows it.

use serde::{Deserialize, Serialize};

/// Text of the other side, or of a relay. Nothing but its escaped form may reach a terminal or a log.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Untrusted(String);

impl Untrusted {
    /// Marks the text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// At most `limit` characters, with everything that a terminal could obey or that could mislead a reader made visible:
    /// controls (C0, DEL, C1), line and paragraph separators, bidirectional controls and other invisible format characters.
    #[must_use]
    pub fn escaped(&self, limit: usize) -> String {
        let mut shown = String::new();
        for (count, c) in self.0.chars().enumerate() {
            if count == limit {
                shown.push('…');
                break;
            }
            if is_harmless(c) { shown.push(c) } else { shown.extend(c.escape_default()) }
        }
        shown
    }

    /// The text itself, for comparing and parsing, never for showing.
    #[must_use]
    pub fn as_raw(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.escaped(200))
    }
}

/// Whether a terminal shows the character as itself and does nothing else.
#[must_use]
pub fn is_harmless(c: char) -> bool {
    !(c.is_control() || is_invisible(c))
}

/// Format characters that change or hide what is shown: bidirectional controls, zero-width ones, separators, tags.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_controls_of_shorthand_and_music_are_shown() {
        for c in ['\u{1bca0}', '\u{1bca3}', '\u{1d173}', '\u{1d17a}'] {
            assert_eq!(Untrusted::new(format!("a{c}b")).escaped(200), format!("a{}b", c.escape_unicode()));
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        let shown =
            Untrusted::new("\x1b[2J\x1b[1A\rharmless\u{9b}31m\u{202e}gnp.exe\u{200b}\n%s%n".into()).escaped(200);
        assert!(shown.chars().all(is_harmless), "{shown}");
        assert!(shown.contains("\\u{1b}[2J") && shown.ends_with("%s%n"), "{shown}");
        assert_eq!(Untrusted::new("日本語 é.txt".into()).escaped(200), "日本語 é.txt");
        assert_eq!(Untrusted::new("x".repeat(300)).escaped(200).chars().count(), 201);
    }
}
