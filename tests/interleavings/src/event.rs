//! Ports and what domains share with us about them. Cells, words, bits and pollers are the hypervisor's own; what calls them there needs
//! a machine with domains, so its order of calls is repeated here: a function says whose.

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::ids::{DomId, Port, VcpuId};

use crate::memory::PhysMem;

#[path = "../../../hypervisor/core/src/event/cell.rs"]
pub mod cell;
#[path = "fifo/form.rs"]
pub mod fifo;
#[path = "../../../hypervisor/core/src/event/pollers.rs"]
pub mod pollers;
#[path = "../../../hypervisor/core/src/event/two_level.rs"]
pub mod two_level;
#[path = "../../../hypervisor/core/src/event/word.rs"]
pub mod word;

use cell::{PortCell, PortId};
use pollers::Pollers;
use two_level::Raised;
use word::{Binding, PortState};

/// A domain with a few ports in one word of bits, and one vCPU.
pub struct Domain {
    /// Its number, which is that of its shared page too.
    pub id: DomId,
    ports: Vec<PortCell>,
    /// Who polls.
    pub pollers: Pollers,
    /// The shared page.
    pub mem: PhysMem,
}

const PENDING: usize = 2048;
const MASK: usize = 2560;
const SELECTOR: usize = 8;

impl Domain {
    /// One whose ports are all free.
    pub fn new(id: u16) -> Self {
        let shared = Mfn::new(id.into());
        Self {
            id: DomId::new(id),
            ports: (0..4).map(|_| PortCell::new()).collect(),
            pollers: Pollers::new(),
            mem: PhysMem::of([0, SELECTOR, PENDING, MASK].map(|at| shared.at(at))),
        }
    }

    fn shared(&self) -> Mfn {
        Mfn::new(self.id.get().into())
    }

    fn at(&self, offset: usize) -> Maddr {
        self.shared().at(offset)
    }

    /// A port.
    pub fn cell(&self, port: Port) -> &PortCell {
        &self.ports[port.get() as usize]
    }

    /// What a port is.
    pub fn state(&self, port: Port) -> PortState {
        self.cell(port).binding().state
    }

    /// Its name.
    pub fn name(&self, port: Port) -> PortId {
        PortId {
            domain: self.id,
            port,
        }
    }

    /// Whether it is pending.
    pub fn is_pending(&self, port: Port) -> bool {
        two_level::is_pending(&self.mem, self.shared(), port).unwrap()
    }

    /// Masks a port, as a guest does.
    pub fn mask(&self, port: Port) {
        let bit = 1 << port.get();
        self.mem.fetch_or_u64(self.at(MASK), bit).unwrap();
    }

    /// As `send::deliver`: how often its vCPU was told, and how many that poll were kicked.
    pub fn deliver(&self, port: Port) -> (usize, usize) {
        let (mut told, mut kicked) = (0, 0);
        self.deliver_and(port, || told += 1, |_| kicked += 1);
        (told, kicked)
    }

    /// The same; `told` and `polls` kick.
    pub fn deliver_and(&self, port: Port, told: impl FnOnce(), polls: impl FnMut(VcpuId)) {
        match two_level::raise(&self.mem, self.shared(), port).unwrap() {
            Raised::Before => return,
            Raised::New if self.tell(port) > 0 => told(),
            Raised::New | Raised::Masked => {}
        }
        if self.pollers.is_anybody() {
            self.pollers.for_each(polls);
        }
    }

    /// Whether its vCPU was told of something, and has not said since that it knows.
    pub fn is_told(&self) -> bool {
        self.mem.load_u64(self.at(0)).unwrap() != 0
    }

    /// As `send::unmask`.
    pub fn unmask(&self, port: Port) -> usize {
        match two_level::unmask(&self.mem, self.shared(), port).unwrap() {
            true => self.tell(port),
            false => 0,
        }
    }

    fn tell(&self, port: Port) -> usize {
        two_level::tell(&self.mem, self.at(0), port).unwrap().into()
    }

    /// Forgets that a port was pending, as `close::free` does.
    fn forget(&self, port: Port) {
        two_level::forget(&self.mem, self.shared(), port).unwrap();
    }

    /// What a kernel does when it is called, and what it finds: the bits.
    pub fn take(&self) -> u64 {
        self.mem.swap_u64(self.at(0), 0).unwrap();
        match self.mem.swap_u64(self.at(SELECTOR), 0).unwrap() {
            0 => 0,
            _ => self.mem.swap_u64(self.at(PENDING), 0).unwrap(),
        }
    }

    /// Bits that are pending and not masked, and whether the vCPU is told of them.
    pub fn left(&self) -> (u64, bool) {
        let load = |offset| self.mem.load_u64(self.at(offset)).unwrap();
        let bits = load(PENDING) & !load(MASK);
        (bits, load(0) == 1 && load(SELECTOR) & 1 == 1)
    }

    /// As `SCHEDOP_poll` and the look of the way back: whether the vCPU sleeps.
    pub fn poll(&self, port: Port) -> bool {
        self.pollers.enter(VcpuId::new(0));
        !self.is_pending(port)
    }
}

/// Connected ports.
pub fn connect(a: (&Domain, Port), b: (&Domain, Port)) {
    for ((near, port), (far, other)) in [(a, b), (b, a)] {
        near.cell(port)
            .publish(Binding::first(connected(far.name(other))));
    }
}

const fn connected(to: PortId) -> PortState {
    PortState::Interdomain {
        remote: to.domain,
        port: to.port,
    }
}

/// Two domains.
pub struct Pair(pub [Domain; 2]);

impl Pair {
    fn domain(&self, id: DomId) -> &Domain {
        self.0.iter().find(|domain| domain.id == id).unwrap()
    }

    /// As `send::send`: whether the event arrived.
    pub fn send(&self, domain: &Domain, port: Port) -> bool {
        let Ok(held) = domain.cell(port).hold() else {
            return false;
        };
        self.arrive(held.binding().state)
    }

    /// The same without the hold: what must not be.
    pub fn send_unheld(&self, domain: &Domain, port: Port) -> bool {
        self.arrive(domain.state(port))
    }

    fn arrive(&self, state: PortState) -> bool {
        let PortState::Interdomain { remote, port } = state else {
            return false;
        };
        self.domain(remote).deliver(port);
        true
    }

    /// As `close::close`: whether there was a port to close.
    pub fn close(&self, domain: &Domain, port: Port) -> bool {
        let cell = domain.cell(port);
        loop {
            match cell.binding().state {
                PortState::Free => return false,
                PortState::Interdomain { remote, port: far } => {
                    let other = self.domain(remote);
                    let (near_id, far_id) = (domain.name(port), other.name(far));
                    let (mut near, mut theirs) =
                        PortCell::lock_both((near_id, cell), (far_id, other.cell(far)));
                    if near.state() == connected(far_id) && theirs.state() == connected(near_id) {
                        theirs.set(PortState::Unbound { remote: domain.id });
                        domain.forget(port);
                        near.set(PortState::Free);
                        return true;
                    }
                }
                state => {
                    let mut locked = cell.lock();
                    if locked.state() == state {
                        domain.forget(port);
                        locked.set(PortState::Free);
                        return true;
                    }
                }
            }
        }
    }

    /// As `bind::bind_interdomain`, for a number that is the caller's: whether they are connected.
    pub fn bind(&self, domain: &Domain, port: Port, far: (&Domain, Port)) -> bool {
        let offered = PortState::Unbound { remote: domain.id };
        let mut theirs = far.0.cell(far.1).lock();
        if theirs.state() != offered {
            return false;
        }
        let state = connected(far.0.name(far.1));
        domain.cell(port).publish(Binding::first(state));
        theirs.set(connected(domain.name(port)));
        domain.deliver(port);
        true
    }
}
