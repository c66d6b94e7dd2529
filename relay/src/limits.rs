//! The process's own limits.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of connections: standard streams, the runtime's, sockets that listen.
const SPARE: u64 = 32;

/// How many descriptors this process may have; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors(Option<u64>);

/// Raises the limit of open descriptors as far as the system lets this process.
pub fn raise_descriptors() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Refused: the old limit stays, and is told.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    Descriptors(getrlimit(Resource::Nofile).current)
}

impl Descriptors {
    /// A warning, where fewer TCP connections are possible than are allowed.
    pub fn too_few_for(self, connections: usize) -> Option<String> {
        let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(SPARE);
        let limit = self.0.filter(|limit| *limit < needed)?;
        let possible = limit.saturating_sub(SPARE);
        Some(format!(
            "the descriptor limit of {limit} leaves room for about {possible} TCP connections, fewer than the {connections} of \
             --max-connections; raise the limit (ulimit -n, LimitNOFILE=) or lower --max-connections"
        ))
    }
}

impl fmt::Display for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_is_warned_of_with_both_numbers() {
        let warning = Descriptors(Some(64)).too_few_for(20_000).unwrap();
        assert!(warning.contains("limit of 64 ") && warning.contains("the 20000 of"), "{warning}");
        assert!(Descriptors(Some(20_031)).too_few_for(20_000).is_some());
        assert_eq!(Descriptors(Some(20_032)).too_few_for(20_000), None);
        assert_eq!(Descriptors(None).too_few_for(usize::MAX), None);
    }
}
