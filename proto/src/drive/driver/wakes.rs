//! Which listeners and TCP connections were woken. If all of them used the task's waker, each wake-up would poll every
//! TCP connection of a relay.
//!
//! Each one has a [`WakeFlag`] as its waker. A flag that is woken adds its name to the list, once, and wakes the task.
//! Bound of the list: the number of flags.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use crate::net::{ListenerId, TcpId};

/// The listener or TCP connection to which a flag belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    Listener(ListenerId),
    Tcp(TcpId),
}

/// The names of woken flags, and the task to wake.
#[derive(Default)]
pub(super) struct Wakes(Mutex<List>);

#[derive(Default)]
struct List {
    woken: Vec<Name>,
    driver: Option<Waker>,
}

/// The waker of one listener or TCP connection; see the module documentation.
pub(super) struct WakeFlag {
    name: Name,
    woken: AtomicBool,
    wakes: Arc<Wakes>,
}

impl WakeFlag {
    pub fn new(name: Name, wakes: &Arc<Wakes>) -> Arc<Self> {
        Arc::new(Self { name, woken: AtomicBool::new(false), wakes: wakes.clone() })
    }

    /// Call this before polling the owner: later events wake the task again.
    pub fn rearm(&self) {
        self.woken.store(false, Ordering::Release);
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = {
            let mut list = self.wakes.0.lock().unwrap_or_else(PoisonError::into_inner);
            list.woken.push(self.name);
            list.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl Wakes {
    /// Moves the list into the empty `woken`, and stores the task's waker.
    pub fn collect(&self, cx: &Context<'_>, woken: &mut Vec<Name>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut list.woken, woken);
        let old = match &list.driver {
            Some(driver) if driver.will_wake(cx.waker()) => None,
            Some(_) | None => list.driver.replace(cx.waker().clone()),
        };
        drop(list);
        drop(old);
    }
}
