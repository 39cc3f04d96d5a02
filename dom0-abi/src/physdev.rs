//! Physical devices and their interrupts. ABI: `public/physdev.h`.

use crate::handle::GuestHandle;
use crate::ids::DomId;
use crate::record::{Group, abi_enum, abi_flags, abi_structs, union_bytes};

abi_enum! {
    /// A command of `physdev_op`.
    pub enum PhysdevCommand: u32 {
        /// Unmask notification, a no-op kept for old kernels.
        IrqUnmaskNotify = 4 => "PHYSDEVOP_IRQ_UNMASK_NOTIFY",
        /// Tells whether an interrupt needs an end: [`IrqStatusQuery`].
        IrqStatusQuery = 5 => "PHYSDEVOP_irq_status_query",
        /// Sets the calling vCPU's I/O privilege level: [`SetIopl`].
        SetIopl = 6 => "PHYSDEVOP_set_iopl",
        /// Sets the calling vCPU's port permissions: [`SetIobitmap`].
        SetIobitmap = 7 => "PHYSDEVOP_set_iobitmap",
        /// Reads an I/O APIC register: [`ApicAccess`].
        ApicRead = 8 => "PHYSDEVOP_apic_read",
        /// Writes an I/O APIC register: [`ApicAccess`].
        ApicWrite = 9 => "PHYSDEVOP_apic_write",
        /// Allocates a vector: [`IrqVector`].
        AllocIrqVector = 10 => "PHYSDEVOP_alloc_irq_vector",
        /// Frees a vector: [`IrqVector`].
        FreeIrqVector = 11 => "PHYSDEVOP_free_irq_vector",
        /// Says that an interrupt was handled: [`Eoi`].
        Eoi = 12 => "PHYSDEVOP_eoi",
        /// Gives an interrupt a number in the domain: [`MapPirq`].
        MapPirq = 13 => "PHYSDEVOP_map_pirq",
        /// Takes it back: [`UnmapPirq`].
        UnmapPirq = 14 => "PHYSDEVOP_unmap_pirq",
        /// Announces a PCI function: [`ManagePci`].
        ManagePciAdd = 15 => "PHYSDEVOP_manage_pci_add",
        /// Takes that back: [`ManagePci`].
        ManagePciRemove = 16 => "PHYSDEVOP_manage_pci_remove",
        /// Names the page of "needs an end" bits, implying unmasking: [`PirqEoiGmfn`].
        PirqEoiGmfnV1 = 17 => "PHYSDEVOP_pirq_eoi_gmfn_v1",
        /// Writes a function's message interrupts again: [`ManagePci`].
        RestoreMsi = 19 => "PHYSDEVOP_restore_msi",
        /// Announces a PCI function: [`ManagePciExt`].
        ManagePciAddExt = 20 => "PHYSDEVOP_manage_pci_add_ext",
        /// Sets trigger and polarity of a line: [`SetupGsi`].
        SetupGsi = 21 => "PHYSDEVOP_setup_gsi",
        /// Finds a free number: [`GetFreePirq`].
        GetFreePirq = 23 => "PHYSDEVOP_get_free_pirq",
        /// Announces memory-mapped configuration space: [`PciMmcfgReserved`].
        PciMmcfgReserved = 24 => "PHYSDEVOP_pci_mmcfg_reserved",
        /// Announces a PCI function: [`PciDeviceAdd`].
        PciDeviceAdd = 25 => "PHYSDEVOP_pci_device_add",
        /// Takes that back: [`PciDevice`].
        PciDeviceRemove = 26 => "PHYSDEVOP_pci_device_remove",
        /// Writes a function's message interrupts again: [`PciDevice`].
        RestoreMsiExt = 27 => "PHYSDEVOP_restore_msi_ext",
        /// Names the page of "needs an end" bits: [`PirqEoiGmfn`].
        PirqEoiGmfnV2 = 28 => "PHYSDEVOP_pirq_eoi_gmfn_v2",
        /// Debug port.
        DbgpOp = 29 => "PHYSDEVOP_dbgp_op",
        /// Makes a function's MSI-X table ready for another domain: [`PciDevice`].
        PrepareMsix = 30 => "PHYSDEVOP_prepare_msix",
        /// Takes that back: [`PciDevice`].
        ReleaseMsix = 31 => "PHYSDEVOP_release_msix",
    }
}

abi_enum! {
    /// A kind of physical interrupt.
    pub enum MapPirqType: i32 {
        /// Message.
        Msi = 0 => "MAP_PIRQ_TYPE_MSI",
        /// Line of an I/O APIC.
        Gsi = 1 => "MAP_PIRQ_TYPE_GSI",
        /// Unknown.
        Unknown = 2 => "MAP_PIRQ_TYPE_UNKNOWN",
        /// Message of a function on a bus with a segment.
        MsiSeg = 3 => "MAP_PIRQ_TYPE_MSI_SEG",
        /// Several messages.
        MultiMsi = 4 => "MAP_PIRQ_TYPE_MULTI_MSI",
    }
}

abi_flags! {
    /// What is to be known of an interrupt.
    pub struct IrqStatusFlags: u32 {
        /// It needs an end.
        const NEEDS_EOI = 1 << 0 => "XENIRQSTAT_needs_eoi",
        /// Several domains have it.
        const SHARED = 1 << 1 => "XENIRQSTAT_shared",
    }
}

abi_flags! {
    /// What is to be known of a PCI function.
    pub struct PciDeviceFlags: u32 {
        /// Beyond the first eight functions of its device.
        const EXTFN = 1 => "XEN_PCI_DEV_EXTFN",
        /// Virtual.
        const VIRTFN = 2 => "XEN_PCI_DEV_VIRTFN",
        /// Its proximity domain follows.
        const PXM = 4 => "XEN_PCI_DEV_PXM",
    }
}

abi_flags! {
    /// What is to be known of memory-mapped configuration space.
    pub struct MmcfgFlags: u32 {
        /// Firmware reserves it.
        const RESERVED = 1 => "XEN_PCI_MMCFG_RESERVED",
    }
}

abi_structs! {
    /// Argument of [`PhysdevCommand::Eoi`].
    pub struct Eoi = "struct physdev_eoi", 4 {
        /// Physical interrupt.
        pub irq: u32,
    }

    /// Argument of [`PhysdevCommand::PirqEoiGmfnV1`] and [`PhysdevCommand::PirqEoiGmfnV2`].
    pub struct PirqEoiGmfn = "struct physdev_pirq_eoi_gmfn", 8 {
        /// Frame.
        pub gmfn: u64,
    }

    /// Argument of [`PhysdevCommand::IrqStatusQuery`].
    pub struct IrqStatusQuery = "struct physdev_irq_status_query", 8 {
        /// In: physical interrupt.
        pub irq: u32,
        /// Out: [`IrqStatusFlags`].
        pub flags: u32,
    }

    /// Argument of [`PhysdevCommand::SetIopl`].
    pub struct SetIopl = "struct physdev_set_iopl", 4 {
        /// Level, 0-3.
        pub iopl: u32,
    }

    /// Argument of [`PhysdevCommand::SetIobitmap`].
    pub struct SetIobitmap = "struct physdev_set_iobitmap", 16 {
        /// One bit for each port; set to forbid.
        pub bitmap: GuestHandle<u8>,
        /// Ports, 0-65536.
        pub nr_ports: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`PhysdevCommand::ApicRead`] and [`PhysdevCommand::ApicWrite`].
    pub struct ApicAccess = "struct physdev_apic", 16 {
        /// Machine address of the I/O APIC.
        pub apic_physbase: u64,
        /// Register.
        pub reg: u32,
        /// Value.
        pub value: u32,
    }

    /// Argument of [`PhysdevCommand::AllocIrqVector`] and [`PhysdevCommand::FreeIrqVector`].
    pub struct IrqVector = "struct physdev_irq", 8 {
        /// Physical interrupt.
        pub irq: u32,
        /// Vector.
        pub vector: u32,
    }

    /// Argument of [`PhysdevCommand::MapPirq`].
    pub struct MapPirq = "struct physdev_map_pirq", 40 {
        /// In: domain.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// In: [`MapPirqType`].
        pub kind: i32 = "type",
        /// In: line.
        pub index: i32,
        /// In: number wanted, negative for any; out: number.
        pub pirq: i32,
        /// In: bus in bits 0-7, segment in bits 16-31.
        pub bus: i32,
        /// In: device in bits 3-7, function in bits 0-2.
        pub devfn: i32,
        /// In: entry of an MSI-X table, or number of messages.
        pub entry_nr: i32,
        /// Nothing.
        pub _pad1: u32,
        /// In: machine address of the MSI-X table's region; 0 for MSI.
        pub table_base: u64,
    }

    /// Argument of [`PhysdevCommand::UnmapPirq`].
    pub struct UnmapPirq = "struct physdev_unmap_pirq", 8 {
        /// Domain.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// Number.
        pub pirq: i32,
    }

    /// A PCI function on segment 0.
    pub struct ManagePci = "struct physdev_manage_pci", 2 {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }

    /// Argument of [`PhysdevCommand::ManagePciAddExt`].
    pub struct ManagePciExt = "struct physdev_manage_pci_ext", 16 {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// Nothing.
        pub _pad0: u16,
        /// Not 0: beyond the first eight functions of its device.
        pub is_extfn: u32,
        /// Not 0: virtual.
        pub is_virtfn: u32,
        /// Physical function of a virtual one.
        pub physfn: ManagePci,
        /// Nothing.
        pub _pad1: u16,
    }

    /// Argument of the older hypercall, `physdev_op_compat`.
    pub struct PhysdevOp = "struct physdev_op", 24 {
        /// In: [`PhysdevCommand`].
        pub cmd: u32,
        /// Nothing.
        pub _pad0: u32,
        /// The command's structure. See [`Self::variant`].
        pub u: [u8; 16],
    }

    /// Argument of [`PhysdevCommand::SetupGsi`].
    pub struct SetupGsi = "struct physdev_setup_gsi", 8 {
        /// Line.
        pub gsi: i32,
        /// 0 edge, 1 level.
        pub triggering: u8,
        /// 0 high, 1 low.
        pub polarity: u8,
        /// Nothing.
        pub _pad0: u16,
    }

    /// Argument of [`PhysdevCommand::GetFreePirq`].
    pub struct GetFreePirq = "struct physdev_get_free_pirq", 8 {
        /// In: [`MapPirqType`].
        pub kind: i32 = "type",
        /// Out: number.
        pub pirq: u32,
    }

    /// Argument of [`PhysdevCommand::PciMmcfgReserved`].
    pub struct PciMmcfgReserved = "struct physdev_pci_mmcfg_reserved", 16 {
        /// Machine address.
        pub address: u64,
        /// Segment.
        pub segment: u16,
        /// First bus.
        pub start_bus: u8,
        /// Last bus.
        pub end_bus: u8,
        /// [`MmcfgFlags`].
        pub flags: u32,
    }

    /// Argument of [`PhysdevCommand::PciDeviceAdd`]; the proximity domain follows as a `u32` if flagged.
    pub struct PciDeviceAdd = "struct physdev_pci_device_add", 12 {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// [`PciDeviceFlags`].
        pub flags: u32,
        /// Physical function of a virtual one.
        pub physfn: ManagePci,
        /// Nothing.
        pub _pad0: u16,
    }

    /// A PCI function.
    pub struct PciDevice = "struct physdev_pci_device", 4 {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
}

union_bytes!(PhysdevOp, 16);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    PhysdevCommand::CONSTANTS,
    MapPirqType::CONSTANTS,
    IrqStatusFlags::CONSTANTS,
    PciDeviceFlags::CONSTANTS,
    MmcfgFlags::CONSTANTS,
];
