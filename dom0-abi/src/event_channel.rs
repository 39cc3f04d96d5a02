//! Event channels. ABI: `public/event_channel.h`.

use crate::ids::{DomId, Port, VcpuId};
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};

abi_constants! {
    /// Ports of the two-level form.
    pub const TWO_LEVEL_NR_CHANNELS: usize = 4096 => "EVTCHN_2L_NR_CHANNELS";
    /// Most urgent queue of the FIFO form.
    pub const FIFO_PRIORITY_MAX: u32 = 0 => "EVTCHN_FIFO_PRIORITY_MAX";
    /// Queue of a new port.
    pub const FIFO_PRIORITY_DEFAULT: u32 = 7 => "EVTCHN_FIFO_PRIORITY_DEFAULT";
    /// Least urgent queue.
    pub const FIFO_PRIORITY_MIN: u32 = 15 => "EVTCHN_FIFO_PRIORITY_MIN";
    /// Queues.
    pub const FIFO_MAX_QUEUES: usize = 16 => "EVTCHN_FIFO_MAX_QUEUES";
    /// Bit number in an event word: pending.
    pub const FIFO_PENDING: u32 = 31 => "EVTCHN_FIFO_PENDING";
    /// Bit number in an event word: masked.
    pub const FIFO_MASKED: u32 = 30 => "EVTCHN_FIFO_MASKED";
    /// Bit number in an event word: in a queue.
    pub const FIFO_LINKED: u32 = 29 => "EVTCHN_FIFO_LINKED";
    /// Bit number in an event word: being unmasked by the guest.
    pub const FIFO_BUSY: u32 = 28 => "EVTCHN_FIFO_BUSY";
    /// Bits of an event word that name the next port in its queue.
    pub const FIFO_LINK_BITS: u32 = 17 => "EVTCHN_FIFO_LINK_BITS";
    /// Those bits.
    pub const FIFO_LINK_MASK: u32 = (1 << FIFO_LINK_BITS) - 1 => "EVTCHN_FIFO_LINK_MASK";
    /// Ports of the FIFO form.
    pub const FIFO_NR_CHANNELS: u32 = 1 << FIFO_LINK_BITS => "EVTCHN_FIFO_NR_CHANNELS";
}

abi_enum! {
    /// A command of `event_channel_op`.
    #[doc(alias = "event_channel_op")]
    pub enum EventChannelCommand: u32 {
        /// Connects to a port that another domain offers: [`BindInterdomain`].
        BindInterdomain = 0 => "EVTCHNOP_bind_interdomain",
        /// Binds a virtual interrupt: [`BindVirq`].
        BindVirq = 1 => "EVTCHNOP_bind_virq",
        /// Binds a physical interrupt: [`BindPirq`].
        BindPirq = 2 => "EVTCHNOP_bind_pirq",
        /// Gives a port back: [`Close`].
        Close = 3 => "EVTCHNOP_close",
        /// Raises an event at the other end: [`Send`].
        Send = 4 => "EVTCHNOP_send",
        /// Describes a port: [`Status`].
        Status = 5 => "EVTCHNOP_status",
        /// Offers a port to another domain: [`AllocUnbound`].
        AllocUnbound = 6 => "EVTCHNOP_alloc_unbound",
        /// Makes a port for events between vCPUs: [`BindIpi`].
        BindIpi = 7 => "EVTCHNOP_bind_ipi",
        /// Moves a port to another vCPU: [`BindVcpu`].
        BindVcpu = 8 => "EVTCHNOP_bind_vcpu",
        /// Unmasks a port, and raises it if it is pending: [`Unmask`].
        Unmask = 9 => "EVTCHNOP_unmask",
        /// Closes all ports of a domain: [`Reset`].
        Reset = 10 => "EVTCHNOP_reset",
        /// FIFO form: names a vCPU's control block: [`InitControl`].
        InitControl = 11 => "EVTCHNOP_init_control",
        /// FIFO form: adds a page of event words: [`ExpandArray`].
        ExpandArray = 12 => "EVTCHNOP_expand_array",
        /// FIFO form: chooses a port's queue: [`SetPriority`].
        SetPriority = 13 => "EVTCHNOP_set_priority",
    }
}

abi_enum! {
    /// What a port is.
    pub enum PortStatus: u32 {
        /// Free.
        Closed = 0 => "EVTCHNSTAT_closed",
        /// Offered.
        Unbound = 1 => "EVTCHNSTAT_unbound",
        /// Connected.
        Interdomain = 2 => "EVTCHNSTAT_interdomain",
        /// A physical interrupt.
        Pirq = 3 => "EVTCHNSTAT_pirq",
        /// A virtual interrupt.
        Virq = 4 => "EVTCHNSTAT_virq",
        /// Between vCPUs.
        Ipi = 5 => "EVTCHNSTAT_ipi",
    }
}

abi_flags! {
    /// How to bind a physical interrupt.
    pub struct BindPirqFlags: u32 {
        /// Other domains may bind it too.
        const WILL_SHARE = 1 => "BIND_PIRQ__WILL_SHARE",
    }
}

abi_structs! {
    /// Argument of [`EventChannelCommand::AllocUnbound`].
    pub struct AllocUnbound = "struct evtchn_alloc_unbound", 8 {
        /// In: domain whose port it will be.
        pub dom: DomId,
        /// In: domain that may connect.
        pub remote_dom: DomId,
        /// Out: the port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::BindInterdomain`].
    pub struct BindInterdomain = "struct evtchn_bind_interdomain", 12 {
        /// In: domain that offers.
        pub remote_dom: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// In: its port.
        pub remote_port: Port,
        /// Out: the caller's port.
        pub local_port: Port,
    }

    /// Argument of [`EventChannelCommand::BindVirq`].
    pub struct BindVirq = "struct evtchn_bind_virq", 12 {
        /// In: [`Virq`](crate::xen::Virq).
        pub virq: u32,
        /// In: vCPU.
        pub vcpu: VcpuId,
        /// Out: the port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::BindPirq`].
    pub struct BindPirq = "struct evtchn_bind_pirq", 12 {
        /// In: physical interrupt.
        pub pirq: u32,
        /// In: [`BindPirqFlags`].
        pub flags: u32,
        /// Out: the port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::BindIpi`].
    pub struct BindIpi = "struct evtchn_bind_ipi", 8 {
        /// In: vCPU that gets the events.
        pub vcpu: VcpuId,
        /// Out: the port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::Close`].
    pub struct Close = "struct evtchn_close", 4 {
        /// In: the port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::Send`].
    pub struct Send = "struct evtchn_send", 4 {
        /// In: the port.
        pub port: Port,
    }

    /// Who may connect to an offered port.
    pub struct StatusUnbound = "struct evtchn_status: u.unbound", 2 {
        /// Domain.
        pub dom: DomId,
    }

    /// The other end of a connection.
    pub struct StatusInterdomain = "struct evtchn_status: u.interdomain", 8 {
        /// Domain.
        pub dom: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// Its port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::Status`].
    pub struct Status = "struct evtchn_status", 24 {
        /// In: domain.
        pub dom: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// In: its port.
        pub port: Port,
        /// Out: [`PortStatus`].
        pub status: u32,
        /// Out: vCPU that gets the events.
        pub vcpu: VcpuId,
        /// Out: [`StatusUnbound`], [`StatusInterdomain`], or a `u32` that names the interrupt. See [`Self::variant`].
        pub u: [u8; 8],
    }

    /// Argument of [`EventChannelCommand::BindVcpu`].
    pub struct BindVcpu = "struct evtchn_bind_vcpu", 8 {
        /// In: the port.
        pub port: Port,
        /// In: vCPU.
        pub vcpu: VcpuId,
    }

    /// Argument of [`EventChannelCommand::Unmask`].
    pub struct Unmask = "struct evtchn_unmask", 4 {
        /// In: the port.
        pub port: Port,
    }

    /// Argument of [`EventChannelCommand::Reset`].
    pub struct Reset = "struct evtchn_reset", 2 {
        /// In: domain.
        pub dom: DomId,
    }

    /// Argument of [`EventChannelCommand::InitControl`].
    pub struct InitControl = "struct evtchn_init_control", 24 {
        /// In: frame of the control block.
        pub control_gfn: u64,
        /// In: bytes from its start.
        pub offset: u32,
        /// In: vCPU.
        pub vcpu: VcpuId,
        /// Out: [`FIFO_LINK_BITS`].
        pub link_bits: u8,
        /// Nothing.
        pub _pad: [u8; 7],
    }

    /// Argument of [`EventChannelCommand::ExpandArray`].
    pub struct ExpandArray = "struct evtchn_expand_array", 8 {
        /// In: frame of the next 1024 event words.
        pub array_gfn: u64,
    }

    /// Argument of [`EventChannelCommand::SetPriority`].
    pub struct SetPriority = "struct evtchn_set_priority", 8 {
        /// In: the port.
        pub port: Port,
        /// In: queue, 0-15.
        pub priority: u32,
    }

    /// Argument of the older hypercall, `event_channel_op_compat`.
    pub struct EventChannelOp = "struct evtchn_op", 28 {
        /// In: [`EventChannelCommand`], up to [`EventChannelCommand::Unmask`].
        pub cmd: u32,
        /// The command's structure. See [`Self::variant`].
        pub u: [u8; 24],
    }

    /// FIFO form: what the hypervisor tells one vCPU.
    pub struct FifoControlBlock = "struct evtchn_fifo_control_block", 72 {
        /// One bit for each queue that is not empty.
        pub ready: u32,
        /// Nothing.
        pub _rsvd: u32,
        /// First port of each queue.
        pub head: [u32; 16],
    }
}

union_bytes!(Status, 8);
union_bytes!(EventChannelOp, 24);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    EventChannelCommand::CONSTANTS,
    PortStatus::CONSTANTS,
    BindPirqFlags::CONSTANTS,
];
