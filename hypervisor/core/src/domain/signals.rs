//! What others cause for a vCPU, beside events: flags that they set and that the vCPU takes, and one that says to look at them.
//!
//! INVARIANT: who causes something that the way back to the guest has to see to, beside events, calls for attention behind it: then one
//! look is enough for all that seldom happens. What could be caused otherwise is private here, in `vcpu` and in `shutdown`.
//! ORDERING: each cause is an exchange with a fence behind it, and so is taking the attention. The call between them is a plain store, which may
//! end up under one of another CPU: the vCPU then takes the attention that the other one called, and sees both causes all the same. On the
//! machine neither fence is an instruction.

use oxen_arch::sync::atomic::{AtomicBool, Ordering};
use oxen_arch::sync::fence_behind_exchange;

/// What was caused for a vCPU and not seen to yet.
#[derive(Debug)]
pub struct Signals {
    attention: AtomicBool,
    nmi_pending: AtomicBool,
    poll_is_over: AtomicBool,
    has_new_event: AtomicBool,
}

impl Signals {
    /// Nothing.
    pub fn new() -> Self {
        Self {
            attention: AtomicBool::new(false),
            nmi_pending: AtomicBool::new(false),
            poll_is_over: AtomicBool::new(false),
            has_new_event: AtomicBool::new(false),
        }
    }

    /// Sends an NMI; one that was sent before and is not delivered yet is the same.
    pub fn send_nmi(&self) {
        self.cause(&self.nmi_pending);
    }

    /// Whether an NMI waits for delivery.
    pub fn has_nmi(&self) -> bool {
        self.nmi_pending.load(Ordering::Acquire)
    }

    /// Takes the waiting NMI for delivery.
    pub fn take_nmi(&self) -> bool {
        self.nmi_pending.swap(false, Ordering::AcqRel)
    }

    /// Says that the time of its poll is over.
    pub fn end_poll(&self) {
        self.cause(&self.poll_is_over);
    }

    /// Whether the time of its poll was over, which is forgotten.
    pub fn take_end_of_poll(&self) -> bool {
        self.poll_is_over.swap(false, Ordering::AcqRel)
    }

    /// Says that some port of its domain has become pending while it polled.
    pub fn note_event(&self) {
        self.cause(&self.has_new_event);
    }

    /// Whether one had, which is forgotten.
    pub fn take_new_event(&self) -> bool {
        self.has_new_event.swap(false, Ordering::AcqRel)
    }

    // ORDERING: who causes something kicks the vCPU behind it, which asks for the fence too.
    fn cause(&self, what: &AtomicBool) {
        what.swap(true, Ordering::SeqCst);
        self.call_attention();
    }

    /// Says that something was caused: behind an exchange, if another CPU is to see to it than this one.
    pub fn call_attention(&self) {
        fence_behind_exchange();
        self.attention.store(true, Ordering::Release);
    }

    /// Whether something was caused that nobody has looked at yet, or that still waits.
    #[inline(always)]
    pub fn has_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Forgets that something was caused: all that was is looked at from here on.
    pub fn take_attention(&self) {
        if self.has_attention() {
            self.attention.swap(false, Ordering::AcqRel);
            fence_behind_exchange();
        }
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}
