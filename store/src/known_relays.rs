//! The file `known_relays`: the relays that were used before, and how the certificate of each is verified.
//!
//! A line is a relay's name (`host:port`) and either the fingerprint of its certificate or `public-ca`. No states, no
//! timers.

use std::path::{Path, PathBuf};

use tallow_proto::link::{Fingerprint, Trust};

use crate::named_lines::NamedLines;
use crate::state::StoreError;

const FILE: &str = "known_relays";
const PUBLIC_CA: &str = "public-ca";

/// The known relays.
#[derive(Debug)]
pub struct KnownRelays {
    lines: NamedLines,
}

impl KnownRelays {
    /// Reads the file of a state directory, which need not exist.
    ///
    /// # Errors
    /// The file exists and can't be read.
    pub fn load(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { lines: NamedLines::load(dir, FILE)? })
    }

    /// How to verify the relay: by its known certificate, or as a first use if it is unknown.
    #[must_use]
    pub fn trust(&self, name: &str) -> Trust {
        self.lines.get(name, parse).unwrap_or(Trust::FirstUse)
    }

    fn remember(&mut self, name: &str, fingerprint: Fingerprint) -> Result<(), StoreError> {
        self.put(name, Some(&fingerprint.to_string()))
    }

    /// Stores how to verify the relay the next time, if it is to be verified at all.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn keep(&mut self, name: &str, trust: Trust) -> Result<(), StoreError> {
        match trust {
            Trust::Known(fingerprint) | Trust::Pin(fingerprint) => self.remember(name, fingerprint),
            Trust::PublicCa => self.put(name, Some(PUBLIC_CA)),
            _ => Ok(()),
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.lines.path()
    }

    /// Removes the relay, so that the next connection is a first use again.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn forget(&mut self, name: &str) -> Result<(), StoreError> {
        self.put(name, None)
    }

    fn put(&mut self, name: &str, value: Option<&str>) -> Result<(), StoreError> {
        self.lines.put(name, value, |value| parse(value).is_some())
    }
}

fn parse(value: &str) -> Option<Trust> {
    if value == PUBLIC_CA { Some(Trust::PublicCa) } else { value.parse().ok().map(Trust::Known) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::named_lines::MOST_LINES;

    fn print(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    fn certificate(known: &KnownRelays, name: &str) -> Option<Fingerprint> {
        match known.trust(name) {
            Trust::Known(fingerprint) => Some(fingerprint),
            _ => None,
        }
    }

    #[test]
    fn known_relays_are_stored_in_a_private_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state/tallow");
        let mut known = KnownRelays::load(&dir).unwrap();
        assert_eq!(known.trust("relay.example:4433"), Trust::FirstUse);
        known.remember("Relay.example:4433", print(1)).unwrap();
        known.keep("[::1]:4433", Trust::Pin(print(2))).unwrap();
        known.keep("kept.example:443", Trust::PublicCa).unwrap();
        known.keep("kept.example:444", Trust::Known(print(5))).unwrap();
        known.keep("kept.example:445", Trust::Any).unwrap();
        let known = KnownRelays::load(&dir).unwrap();
        assert_eq!(certificate(&known, "relay.example:4433"), Some(print(1)));
        assert_eq!(certificate(&known, "[::1]:4433"), Some(print(2)));
        assert_eq!(
            (known.trust("kept.example:443"), known.trust("kept.example:445")),
            (Trust::PublicCa, Trust::FirstUse)
        );
        assert_eq!((known.trust("kept.example:444"), known.path()), (Trust::Known(print(5)), dir.join(FILE)));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn changed_relay_is_replaced_and_forgotten_one_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = KnownRelays::load(dir.path()).unwrap();
        known.remember("a:1", print(1)).unwrap();
        known.remember("a:1", print(2)).unwrap();
        assert_eq!(certificate(&known, "a:1"), Some(print(2)));
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap().lines().count(), 1);
        known.forget("A:1").unwrap();
        assert_eq!(certificate(&KnownRelays::load(dir.path()).unwrap(), "a:1"), None);
    }

    #[test]
    fn invalid_lines_are_ignored_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = b"# a note\na:1 nothex\n\xff\xfe\x00\nb:2 ".to_vec();
        text.extend_from_slice(print(7).to_string().as_bytes());
        text.extend_from_slice(b" later-version-field\nc:3 ");
        text.extend_from_slice(print(8).to_string().as_bytes());
        std::fs::write(dir.path().join(FILE), &text).unwrap();
        let mut known = KnownRelays::load(dir.path()).unwrap();
        assert_eq!(
            (certificate(&known, "a:1"), certificate(&known, "b:2"), certificate(&known, "c:3")),
            (None, None, Some(print(8)))
        );
        known.remember("d:4", print(9)).unwrap();
        let lines = String::from_utf8_lossy(&std::fs::read(dir.path().join(FILE)).unwrap()).lines().count();
        assert_eq!(lines, 6);
        assert!(known.remember("e 5", print(9)).is_err() && known.remember("e\n5", print(9)).is_err());
    }

    #[test]
    fn two_concurrent_writers_keep_both_and_the_bound_holds() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = KnownRelays::load(dir.path()).unwrap();
        let mut other = KnownRelays::load(dir.path()).unwrap();
        one.remember("a:1", print(1)).unwrap();
        other.remember("b:2", print(2)).unwrap();
        assert_eq!(certificate(&KnownRelays::load(dir.path()).unwrap(), "a:1"), Some(print(1)));
        let many: String = (0..MOST_LINES + 5).map(|n| format!("relay{n}:1 {}\n", print(3))).collect();
        std::fs::write(dir.path().join(FILE), many).unwrap();
        one.remember("new:1", print(4)).unwrap();
        let known = KnownRelays::load(dir.path()).unwrap();
        let lines = std::fs::read_to_string(known.path()).unwrap().lines().count();
        assert_eq!(
            (lines, certificate(&known, "relay5:1"), certificate(&known, "new:1")),
            (MOST_LINES, None, Some(print(4)))
        );
    }
}
