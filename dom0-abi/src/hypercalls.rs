//! The table of hypercalls: number, name, arguments. The only place that lists them.
//!
//! [`for_each_hypercall!`](crate::for_each_hypercall) hands the rows to a macro of the caller's choice; the enum here,
//! the hypervisor's dispatch table, its coverage page and the guest's stubs are all expansions of it.

use crate::record::{Constant, Group, Unknown};

/// Expands `$callback! { rows }` with one row for each hypercall number that the ABI assigns, ascending:
///
/// ```text
/// /// One line of meaning.
/// Variant c_name = number => "C macro" { args: [name: Type, ...], header: "public/file.h", callers: Any }
/// ```
///
/// `args` are in the order of rdi, rsi, rdx, r10, r8. Their types are items of this crate or primitives, to be read as
/// what the ABI defines, narrower than the register that carries them where the ABI says so. `callers` is a variant of
/// [`Callers`](crate::hypercalls::Callers).
#[macro_export]
macro_rules! for_each_hypercall {
    ($callback:path) => {
        $callback! {
            /// Sets entries of the calling vCPU's virtual interrupt table.
            SetTrapTable set_trap_table = 0 => "__HYPERVISOR_set_trap_table" {
                args: [traps: GuestHandle<TrapInfo>],
                header: "public/xen.h", callers: Any
            }
            /// Writes page-table entries and machine-to-physical entries.
            MmuUpdate mmu_update = 1 => "__HYPERVISOR_mmu_update" {
                args: [requests: GuestHandle<MmuUpdate>, count: u32, done: GuestHandle<u32>, foreign: u32],
                header: "public/xen.h", callers: Any
            }
            /// Replaces the frames of the calling vCPU's global descriptor table.
            SetGdt set_gdt = 2 => "__HYPERVISOR_set_gdt" {
                args: [frames: GuestHandle<u64>, entries: u32],
                header: "public/xen.h", callers: Any
            }
            /// Sets the stack on which the guest kernel is entered from its user mode.
            StackSwitch stack_switch = 3 => "__HYPERVISOR_stack_switch" {
                args: [ss: u64, sp: u64],
                header: "public/xen.h", callers: Any
            }
            /// Sets the event, failsafe and syscall entry points (superseded by `callback_op`).
            SetCallbacks set_callbacks = 4 => "__HYPERVISOR_set_callbacks" {
                args: [event: u64, failsafe: u64, syscall: u64],
                header: "public/xen.h", callers: Any
            }
            /// Sets or clears the calling vCPU's task-switched flag.
            FpuTaskswitch fpu_taskswitch = 5 => "__HYPERVISOR_fpu_taskswitch" {
                args: [set: i32],
                header: "public/xen.h", callers: Any
            }
            /// The older form of `sched_op`: command and one number.
            SchedOpCompat sched_op_compat = 6 => "__HYPERVISOR_sched_op_compat" {
                args: [command: i32, arg: u64],
                header: "public/sched.h", callers: Any
            }
            /// Controls the platform: clock, firmware, power, physical CPUs.
            PlatformOp platform_op = 7 => "__HYPERVISOR_platform_op" {
                args: [op: GuestHandle<PlatformOp>],
                header: "public/platform.h", callers: Control
            }
            /// Writes a debug register of the calling vCPU.
            SetDebugreg set_debugreg = 8 => "__HYPERVISOR_set_debugreg" {
                args: [register: i32, value: u64],
                header: "public/xen.h", callers: Any
            }
            /// Reads a debug register of the calling vCPU.
            GetDebugreg get_debugreg = 9 => "__HYPERVISOR_get_debugreg" {
                args: [register: i32],
                header: "public/xen.h", callers: Any
            }
            /// Writes one segment descriptor into a descriptor page.
            UpdateDescriptor update_descriptor = 10 => "__HYPERVISOR_update_descriptor" {
                args: [maddr: u64, descriptor: u64],
                header: "public/xen.h", callers: Any
            }
            /// Asks for, gives back, exchanges and describes memory.
            MemoryOp memory_op = 12 => "__HYPERVISOR_memory_op" {
                args: [command: u64, arg: GuestAddr],
                header: "public/memory.h", callers: Any
            }
            /// Makes several hypercalls in one.
            Multicall multicall = 13 => "__HYPERVISOR_multicall" {
                args: [calls: GuestHandle<MulticallEntry>, count: u32],
                header: "public/xen.h", callers: Any
            }
            /// Writes the level-1 entry that maps an address of the loaded address space.
            UpdateVaMapping update_va_mapping = 14 => "__HYPERVISOR_update_va_mapping" {
                args: [va: GuestAddr, entry: u64, flags: u64],
                header: "public/xen.h", callers: Any
            }
            /// Sets or cancels the calling vCPU's one-shot timer.
            SetTimerOp set_timer_op = 15 => "__HYPERVISOR_set_timer_op" {
                args: [deadline_ns: u64],
                header: "public/xen.h", callers: Any
            }
            /// The older form of `event_channel_op`: command and argument in one structure.
            EventChannelOpCompat event_channel_op_compat = 16 => "__HYPERVISOR_event_channel_op_compat" {
                args: [op: GuestAddr],
                header: "public/event_channel.h", callers: Any
            }
            /// Tells version, features, capabilities and command line.
            XenVersion xen_version = 17 => "__HYPERVISOR_xen_version" {
                args: [command: i32, arg: GuestAddr],
                header: "public/version.h", callers: Any
            }
            /// Writes to and reads from the hypervisor's console.
            ConsoleIo console_io = 18 => "__HYPERVISOR_console_io" {
                args: [command: u32, count: u32, buffer: GuestHandle<u8>],
                header: "public/xen.h", callers: Any
            }
            /// The older form of `physdev_op`: command and argument in one structure.
            PhysdevOpCompat physdev_op_compat = 19 => "__HYPERVISOR_physdev_op_compat" {
                args: [op: GuestAddr],
                header: "public/physdev.h", callers: Any
            }
            /// Maps, copies and administers granted pages.
            GrantTableOp grant_table_op = 20 => "__HYPERVISOR_grant_table_op" {
                args: [command: u32, ops: GuestAddr, count: u32],
                header: "public/grant_table.h", callers: Any
            }
            /// Switches a behaviour that helps the guest on or off.
            VmAssist vm_assist = 21 => "__HYPERVISOR_vm_assist" {
                args: [command: u32, kind: u32],
                header: "public/xen.h", callers: Any
            }
            /// Like `update_va_mapping`, with a frame of another domain.
            UpdateVaMappingOtherdomain update_va_mapping_otherdomain = 22 => "__HYPERVISOR_update_va_mapping_otherdomain" {
                args: [va: GuestAddr, entry: u64, flags: u64, owner: DomId],
                header: "public/xen.h", callers: Any
            }
            /// Returns from a trap: loads the frame on the guest kernel's stack.
            Iret iret = 23 => "__HYPERVISOR_iret" {
                args: [],
                header: "public/arch-x86/xen-x86_64.h", callers: Any
            }
            /// Starts, stops and configures a vCPU of the calling domain.
            VcpuOp vcpu_op = 24 => "__HYPERVISOR_vcpu_op" {
                args: [command: i32, vcpu: VcpuId, arg: GuestAddr],
                header: "public/vcpu.h", callers: Any
            }
            /// Sets an FS or GS base of the calling vCPU.
            SetSegmentBase set_segment_base = 25 => "__HYPERVISOR_set_segment_base" {
                args: [which: u32, base: u64],
                header: "public/xen.h", callers: Any
            }
            /// Pins tables, loads roots, flushes translations, clears and copies pages.
            MmuextOp mmuext_op = 26 => "__HYPERVISOR_mmuext_op" {
                args: [ops: GuestHandle<MmuextOp>, count: u32, done: GuestHandle<u32>, foreign: u32],
                header: "public/xen.h", callers: Any
            }
            /// Speaks to the security module.
            XsmOp xsm_op = 27 => "__HYPERVISOR_xsm_op" {
                args: [op: GuestAddr],
                header: "public/xsm/flask_op.h", callers: Any
            }
            /// Sets the entry point for non-maskable interrupts (superseded by `callback_op`).
            NmiOp nmi_op = 28 => "__HYPERVISOR_nmi_op" {
                args: [command: u32, arg: GuestAddr],
                header: "public/nmi.h", callers: Any
            }
            /// Yields, blocks, polls, shuts down.
            SchedOp sched_op = 29 => "__HYPERVISOR_sched_op" {
                args: [command: i32, arg: GuestAddr],
                header: "public/sched.h", callers: Any
            }
            /// Registers the entry points of the guest kernel.
            CallbackOp callback_op = 30 => "__HYPERVISOR_callback_op" {
                args: [command: i32, arg: GuestAddr],
                header: "public/callback.h", callers: Any
            }
            /// Profiles the host.
            XenoprofOp xenoprof_op = 31 => "__HYPERVISOR_xenoprof_op" {
                args: [command: i32, arg: GuestAddr],
                header: "public/xenoprof.h", callers: Any
            }
            /// Binds, sends on and closes event channel ports.
            EventChannelOp event_channel_op = 32 => "__HYPERVISOR_event_channel_op" {
                args: [command: i32, arg: GuestAddr],
                header: "public/event_channel.h", callers: Any
            }
            /// Announces and wires up physical devices and their interrupts.
            PhysdevOp physdev_op = 33 => "__HYPERVISOR_physdev_op" {
                args: [command: i32, arg: GuestAddr],
                header: "public/physdev.h", callers: Any
            }
            /// Parameters of guests in hardware containers; no such guests run here.
            HvmOp hvm_op = 34 => "__HYPERVISOR_hvm_op" {
                args: [command: i32, arg: GuestAddr],
                header: "public/hvm/hvm_op.h", callers: Any
            }
            /// Reads and controls the host.
            Sysctl sysctl = 35 => "__HYPERVISOR_sysctl" {
                args: [op: GuestHandle<Sysctl>],
                header: "public/sysctl.h", callers: Control
            }
            /// Makes, controls and removes domains.
            Domctl domctl = 36 => "__HYPERVISOR_domctl" {
                args: [op: GuestHandle<Domctl>],
                header: "public/domctl.h", callers: Control
            }
            /// Loads a kernel to be started when the host crashes.
            KexecOp kexec_op = 37 => "__HYPERVISOR_kexec_op" {
                args: [command: u64, arg: GuestAddr],
                header: "public/kexec.h", callers: Control
            }
            /// Transcendent memory, removed from the ABI; the number stays taken.
            TmemOp tmem_op = 38 => "__HYPERVISOR_tmem_op" {
                args: [op: GuestAddr],
                header: "public/tmem.h", callers: Retired
            }
            /// Sends messages between domains.
            ArgoOp argo_op = 39 => "__HYPERVISOR_argo_op" {
                args: [command: u32, arg1: GuestAddr, arg2: GuestAddr, arg3: u64, arg4: u64],
                header: "public/argo.h", callers: Any
            }
            /// Configures the virtual performance counters.
            XenpmuOp xenpmu_op = 40 => "__HYPERVISOR_xenpmu_op" {
                args: [command: u32, arg: GuestAddr],
                header: "public/pmu.h", callers: Any
            }
            /// Calls of device models for guests in hardware containers.
            DmOp dm_op = 41 => "__HYPERVISOR_dm_op" {
                args: [domain: DomId, nr_buffers: u32, buffers: GuestAddr],
                header: "public/hvm/dm_op.h", callers: Control
            }
            /// Reads and writes the hypervisor's own file system of settings.
            HypfsOp hypfs_op = 42 => "__HYPERVISOR_hypfs_op" {
                args: [command: u32, arg1: GuestAddr, arg2: u64, arg3: GuestAddr, arg4: u64],
                header: "public/hypfs.h", callers: Control
            }
            /// Machine check logs and injection.
            Mca mca = 48 => "__HYPERVISOR_mca" {
                args: [op: GuestAddr],
                header: "public/arch-x86/xen-mca.h", callers: Control
            }
        }
    };
}

/// Which domains a hypercall is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Every domain; single commands may still ask for more.
    Any,
    /// Domains that control others or the host.
    Control,
    /// None: the number is taken, the call is gone.
    Retired,
}

macro_rules! define_hypercalls {
    ($(
        $(#[$meta:meta])*
        $variant:ident $name:ident = $number:literal => $c:literal {
            args: [$($arg:ident: $ty:ty),*], header: $header:literal, callers: $callers:ident
        }
    )+) => {
        /// A hypercall, by its number in eax.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Hypercall {
            $(
                $(#[$meta])*
                #[doc = concat!("\n\nABI: `", $header, "`, `", $c, "`.")]
                #[doc(alias = $c)]
                $variant = $number,
            )+
        }

        impl Hypercall {
            /// Every hypercall, ascending by number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The record of the numbers.
            pub const CONSTANTS: Group = Group {
                rust: concat!(module_path!(), "::Hypercall"),
                constants: &[$(Constant { c: $c, value: $number, width: size_of::<u64>() },)+],
            };

            /// The number, as the ABI carries it.
            pub const fn number(self) -> u64 {
                self as u64
            }

            /// The ABI's name of the call, without prefix.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)+
                }
            }

            /// Names and types of the arguments, in the order of their registers.
            pub const fn args(self) -> &'static [(&'static str, &'static str)] {
                match self {
                    $(Self::$variant => &[$((stringify!($arg), stringify!($ty))),*],)+
                }
            }

            /// The public header that documents the call.
            pub const fn header(self) -> &'static str {
                match self {
                    $(Self::$variant => $header,)+
                }
            }

            /// Which domains the call is for.
            pub const fn callers(self) -> Callers {
                match self {
                    $(Self::$variant => Callers::$callers,)+
                }
            }
        }

        impl TryFrom<u64> for Hypercall {
            type Error = Unknown;

            // Inlined, so that one decision over the number leads to what a caller does with the call.
            #[inline(always)]
            fn try_from(number: u64) -> Result<Self, Unknown> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Unknown),
                }
            }
        }
    };
}

for_each_hypercall!(define_hypercalls);

/// Number of entry stubs in a hypercall page; the stub of call `n` is at byte `n * 32` of it.
pub const HYPERCALL_PAGE_STUBS: usize = 128;

/// Bytes of one stub in a hypercall page.
pub const HYPERCALL_STUB_SIZE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_decode_to_themselves_and_nothing_else_decodes() {
        for number in 0..=u64::from(u16::MAX) {
            match Hypercall::try_from(number) {
                Ok(call) => assert_eq!(call.number(), number),
                Err(Unknown) => assert!(Hypercall::ALL.iter().all(|call| call.number() != number)),
            }
        }
        assert_eq!(
            Hypercall::try_from(1 << 32),
            Err(Unknown),
            "only the low half matches"
        );
        assert_eq!(Hypercall::try_from(u64::MAX), Err(Unknown));
    }

    #[test]
    fn the_table_ascends_and_fits_the_hypercall_page() {
        assert!(Hypercall::ALL.is_sorted_by(|a, b| a.number() < b.number()));
        assert!(
            Hypercall::ALL
                .iter()
                .all(|call| call.number() < HYPERCALL_PAGE_STUBS as u64)
        );
        assert!(Hypercall::ALL.iter().all(|call| call.args().len() <= 5));
    }
}
