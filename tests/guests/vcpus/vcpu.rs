//! vCPUs: what each has of its own, starting them, their handlers of events and NMIs.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use dom0_abi::addr::{PAGE_SHIFT, PAGE_SIZE};
use dom0_abi::arch::{FLAT_CS64, FLAT_SS, TRAP_MASKS_EVENTS, VcpuGuestContext, VgcfFlags};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::Port;
use dom0_abi::sched::SchedCommand;
use dom0_abi::vcpu::VcpuCommand;
use dom0_abi::xen::{SharedInfo, VcpuInfo};
use guest_pv_drivers::hypercall;
use kit::{memory, start_info};

/// The most that a guest here has.
pub const MOST: usize = 8;
const STACK: usize = 32 * 1024;

/// What a vCPU has of its own; its GS leads here.
#[repr(C, align(64))]
pub struct Vcpu {
    id: AtomicU64,
    /// It has come to its first instruction.
    pub started: AtomicU32,
    /// How often it was told of events.
    pub upcalls: AtomicU64,
    /// How many NMIs it had.
    pub nmis: AtomicU64,
    /// How many messages each other one has sent it, and how many of all it has seen.
    pub mail: [AtomicU64; MOST],
    pub seen: AtomicU64,
    /// The port by which it is called.
    pub port: AtomicU32,
    /// The last order that it has carried out, and what came of it.
    pub done: AtomicU64,
    pub result: AtomicU64,
}

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK]>);
// SAFETY: each is used by one vCPU, as its stack.
unsafe impl Sync for Stack {}

pub static VCPUS: [Vcpu; MOST] = [const { Vcpu::new() }; MOST];
static STACKS: [Stack; MOST] = [const { Stack(core::cell::UnsafeCell::new([0; STACK])) }; MOST];
/// Where `shared_info` is mapped.
static SHARED: AtomicU64 = AtomicU64::new(0);

impl Vcpu {
    const fn new() -> Self {
        Self {
            id: AtomicU64::new(0),
            started: AtomicU32::new(0),
            upcalls: AtomicU64::new(0),
            nmis: AtomicU64::new(0),
            mail: [const { AtomicU64::new(0) }; MOST],
            seen: AtomicU64::new(0),
            port: AtomicU32::new(0),
            done: AtomicU64::new(0),
            result: AtomicU64::new(0),
        }
    }

    /// The one that runs this.
    pub fn current() -> &'static Self {
        let id: u64;
        // SAFETY: GS leads to what is the vCPU's own, which begins with its number.
        unsafe { asm!("mov {}, gs:[0]", out(reg) id, options(nostack, readonly)) };
        &VCPUS[id as usize]
    }

    pub fn number(&self) -> usize {
        self.id.load(Ordering::Relaxed) as usize
    }

    pub fn port(&self) -> Port {
        Port::new(self.port.load(Ordering::Relaxed))
    }

    /// Its `vcpu_info`.
    pub fn info(&self) -> u64 {
        SHARED.load(Ordering::Relaxed) + (self.number() * size_of::<VcpuInfo>()) as u64
    }

    fn byte(&self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: the page stays mapped; whoever writes to it does so by atomic accesses.
        unsafe { &*((self.info() as usize + offset) as *const AtomicU8) }
    }

    pub fn upcall(&self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_pending))
    }

    pub fn mask(&self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask))
    }

    fn selector(&self) -> &'static AtomicU64 {
        // SAFETY: as above.
        unsafe {
            let at = self.info() as usize + offset_of!(VcpuInfo, evtchn_pending_sel);
            &*(at as *const AtomicU64)
        }
    }

    /// Takes what it was told, and whatever messages have come.
    pub fn take(&self) {
        self.upcall().swap(0, Ordering::SeqCst);
        self.selector().swap(0, Ordering::SeqCst);
        take_pending(self.port());
        let all = self.mail.iter().map(|mail| mail.load(Ordering::SeqCst));
        self.seen.store(all.sum(), Ordering::SeqCst);
    }
}

/// Where a port is in one of the rows of `shared_info`.
fn place(row: usize, port: Port) -> (&'static AtomicU64, u64) {
    let index = port.get() as usize;
    let at = SHARED.load(Ordering::Relaxed) as usize + row + index / 64 * 8;
    // SAFETY: as above.
    (unsafe { &*(at as *const AtomicU64) }, 1 << (index % 64))
}

/// Makes a port not pending; whether it was.
pub fn take_pending(port: Port) -> bool {
    let (word, bit) = place(offset_of!(SharedInfo, evtchn_pending), port);
    word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
}

/// Masks a port.
pub fn mask_port(port: Port) {
    let (word, bit) = place(offset_of!(SharedInfo, evtchn_mask), port);
    word.fetch_or(bit, Ordering::SeqCst);
}

/// Makes the vCPU that runs this the first one.
pub fn begin() -> Result<(), Errno> {
    SHARED.store(memory::shared_info()?, Ordering::Relaxed);
    for (number, vcpu) in (0..).zip(&VCPUS) {
        vcpu.id.store(number, Ordering::Relaxed);
    }
    // SAFETY: the kit uses neither GS nor events.
    unsafe {
        let first = ptr::from_ref(&VCPUS[0]) as u64;
        hypercall::decode(hypercall::raw(
            Hypercall::SetSegmentBase.number(),
            [2, first, 0, 0, 0],
        ))?;
        let callbacks = [on_event as *const () as u64, 0, 0, 0, 0];
        hypercall::decode(hypercall::raw(Hypercall::SetCallbacks.number(), callbacks))?;
    }
    Ok(())
}

/// `vcpu_op` with bare arguments.
pub fn op(command: VcpuCommand, vcpu: usize, at: u64) -> Result<u64, Errno> {
    // SAFETY: what is at the address is what the command takes, or it fails.
    hypercall::decode(unsafe {
        let arguments = [command.get().into(), vcpu as u64, at, 0, 0];
        hypercall::raw(Hypercall::VcpuOp.number(), arguments)
    })
}

/// Waits until there is an event, with events on.
pub fn block() {
    let block = u64::from(SchedCommand::Block.get());
    // SAFETY: touches no memory.
    unsafe { hypercall::raw(Hypercall::SchedOp.number(), [block, 0, 0, 0, 0]) };
}

/// What a vCPU begins with that is to run `main`.
pub fn context(number: usize, main: extern "C" fn(&'static Vcpu) -> !) -> VcpuGuestContext {
    // SAFETY: all fields are integers.
    let mut context: VcpuGuestContext = unsafe { core::mem::zeroed() };
    let vcpu = &VCPUS[number];
    let top = STACKS[number].0.get() as u64 + STACK as u64;
    context.flags = VgcfFlags::IN_KERNEL.bits();
    let regs = &mut context.user_regs;
    (regs.rip, regs.cs) = (main as *const () as u64, FLAT_CS64);
    // As behind a call.
    (regs.rsp, regs.ss) = (top - 8, FLAT_SS);
    (regs.rdi, regs.rflags) = (ptr::from_ref(vcpu) as u64, 1 << 9);
    context.gs_base_kernel = ptr::from_ref(vcpu) as u64;
    context.kernel_sp = top;
    context.kernel_ss = FLAT_SS.into();
    context.event_callback_eip = on_event as *const () as u64;
    let nmi = &mut context.trap_ctxt[2];
    (nmi.vector, nmi.cs, nmi.flags) = (2, FLAT_CS64, TRAP_MASKS_EVENTS);
    nmi.address = on_nmi as *const () as u64;
    let root = (start_info().pt_base - memory::VIRT_BASE) / PAGE_SIZE as u64;
    let root = memory::physical_to_machine(root).unwrap_or(0);
    context.ctrlreg[3] = root << PAGE_SHIFT;
    context
}

/// An entry of the hypervisor's into the guest: the rest of its frame is on the stack, behind rcx and r11.
macro_rules! entry {
    ($handler:path) => {
        naked_asm!(
            "push rax", "push rdi", "push rsi", "push rdx", "push r8", "push r9", "push r10", "push rbx",
            "mov rbx, rsp",
            "and rsp, -16",
            "call {handler}",
            "mov rsp, rbx",
            "pop rbx", "pop r10", "pop r9", "pop r8", "pop rdx", "pop rsi", "pop rdi",
            // rax, rcx, r11 and the frame become that of `iret`.
            "pop rax",
            "pop rcx",
            "pop r11",
            "push 0",
            "push rcx",
            "push r11",
            "push rax",
            "mov eax, {iret}",
            "syscall",
            handler = sym $handler,
            iret = const Hypercall::Iret.number(),
        )
    };
}

/// Where events arrive.
#[unsafe(naked)]
extern "C" fn on_event() {
    entry!(told)
}

/// Where NMIs arrive.
#[unsafe(naked)]
extern "C" fn on_nmi() {
    entry!(nmi)
}

extern "C" fn told() {
    let vcpu = Vcpu::current();
    vcpu.upcalls.fetch_add(1, Ordering::SeqCst);
    vcpu.take();
}

extern "C" fn nmi() {
    Vcpu::current().nmis.fetch_add(1, Ordering::SeqCst);
}
