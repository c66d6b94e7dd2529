//! How much memory attackers can make the real programs use, measured from outside: neither sender, receiver, relay
//! nor embedded relay grows by more than [`MOST`] under an attack over real sockets.
//!
//! | module | attacker | victim |
//! |---|---|---|
//! | `frames` | two clients of a relay send WebSocket frames of one byte to each other, and read nothing | relay |
//! | `pings` | a client of the embedded relay sends requests without end, and gives no credit for the answers |
//! sender |
//! | `flood` | a relay floods a pending link beside a direct one | receiver |
//! | `holes` | clients of a direct path's socket send all streams without their first byte | receiver |

#![cfg(target_os = "linux")]

mod flood;
mod frames;
mod holes;
mod pings;
#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "../program/stage.rs"]
mod stage;

use stage::Program;

/// How many bytes a program may grow by. No attack may cost 64 MiB; a debug build on a busy machine processes an
/// attack more slowly, so the limit here is half of that.
const MOST: u64 = 32 << 20;

/// A program whose memory is watched from now on.
struct Victim<'a> {
    program: &'a Program,
    before: u64,
}

impl<'a> Victim<'a> {
    fn new(program: &'a Program) -> Self {
        Self { program, before: program.peak().expect("a process") }
    }

    /// By how much its memory grew at most.
    fn growth(&self) -> u64 {
        self.program.peak().expect("it lives").saturating_sub(self.before)
    }

    /// Whether the program has exceeded the limit; the attack then need not continue.
    fn is_over_the_limit(&self) -> bool {
        self.growth() > MOST
    }

    #[track_caller]
    fn check(&self, attack: &str) {
        let growth = self.growth();
        println!("{attack}: it grew by {} KiB", growth >> 10);
        assert!(growth <= MOST, "{attack}: it grew by {} KiB, from {} KiB", growth >> 10, self.before >> 10);
    }
}

/// Whether this machine has an address besides loopback: without one there is no direct path.
fn has_network() -> bool {
    tallow_runtime::addresses().iter().any(|addr| !addr.is_loopback())
}
