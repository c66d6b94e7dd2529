//! Which listeners and TCP connections were woken. With the task's waker for all of them, each wake
//! would poll every TCP connection of a relay.
//!
//! Each has a [`Bell`] as its waker; one that rings puts its name on the list, once, and wakes the task. Bound of the
//! list: as many names as there are bells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use crate::net::{ListenerId, TcpId};

/// Whose bell it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    Listener(ListenerId),
    Tcp(TcpId),
}

/// The list, and whom to wake for it.
#[derive(Default)]
pub(super) struct Wakes(Mutex<List>);

#[derive(Default)]
struct List {
    rung: Vec<Name>,
    driver: Option<Waker>,
}

/// See the module's text.
pub(super) struct Bell {
    name: Name,
    rung: AtomicBool,
    wakes: Arc<Wakes>,
}

impl Bell {
    pub fn new(name: Name, wakes: &Arc<Wakes>) -> Arc<Self> {
        Arc::new(Self { name, rung: AtomicBool::new(false), wakes: wakes.clone() })
    }

    /// Before its owner is polled: what happens from now on rings again.
    pub fn rearm(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = {
            let mut list = self.wakes.0.lock().unwrap_or_else(PoisonError::into_inner);
            list.rung.push(self.name);
            list.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl Wakes {
    /// Moves the list into the empty `rung`, and notes whom to wake for more.
    pub fn collect(&self, cx: &Context<'_>, rung: &mut Vec<Name>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut list.rung, rung);
        let old = match &list.driver {
            Some(driver) if driver.will_wake(cx.waker()) => None,
            Some(_) | None => list.driver.replace(cx.waker().clone()),
        };
        drop(list);
        drop(old);
    }
}
