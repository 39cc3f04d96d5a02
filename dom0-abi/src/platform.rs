//! Control of the platform by the control domain. ABI: `public/platform.h`.

use crate::handle::GuestHandle;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};

abi_constants! {
    /// Version of this interface.
    pub const INTERFACE_VERSION: u32 = 0x0300_0001 => "XENPF_INTERFACE_VERSION";
}

abi_enum! {
    /// A command of `platform_op`.
    pub enum PlatformCommand: u32 {
        /// Sets the wall clock: [`Settime32`].
        Settime32 = 17 => "XENPF_settime32",
        /// Sets a memory type range: [`AddMemtype`].
        AddMemtype = 31 => "XENPF_add_memtype",
        /// Clears a memory type range: [`DelMemtype`].
        DelMemtype = 32 => "XENPF_del_memtype",
        /// Reads a memory type range: [`ReadMemtype`].
        ReadMemtype = 33 => "XENPF_read_memtype",
        /// Loads microcode: [`MicrocodeUpdate`].
        MicrocodeUpdate = 35 => "XENPF_microcode_update",
        /// Names a defect of the chipset: [`PlatformQuirk`].
        PlatformQuirk = 39 => "XENPF_platform_quirk",
        /// Tells the model of a physical CPU: [`PcpuVersion`].
        GetCpuVersion = 48 => "XENPF_get_cpu_version",
        /// Calls firmware: [`EfiRuntimeCall`].
        EfiRuntimeCall = 49 => "XENPF_efi_runtime_call",
        /// Tells what firmware said at boot: [`FirmwareInfo`].
        FirmwareInfo = 50 => "XENPF_firmware_info",
        /// Puts the machine to sleep or switches it off: [`EnterAcpiSleep`].
        EnterAcpiSleep = 51 => "XENPF_enter_acpi_sleep",
        /// Tells of a change of frequency: [`ChangeFreq`].
        ChangeFreq = 52 => "XENPF_change_freq",
        /// Tells how long CPUs were idle: [`Getidletime`].
        Getidletime = 53 => "XENPF_getidletime",
        /// Passes on power management tables: [`SetProcessorPminfo`].
        SetProcessorPminfo = 54 => "XENPF_set_processor_pminfo",
        /// Tells the identifiers of a physical CPU: [`PcpuInfo`].
        GetCpuinfo = 55 => "XENPF_get_cpuinfo",
        /// Starts a physical CPU: [`CpuOnline`].
        CpuOnline = 56 => "XENPF_cpu_online",
        /// Stops a physical CPU: [`CpuOnline`].
        CpuOffline = 57 => "XENPF_cpu_offline",
        /// Adds a physical CPU: [`CpuHotadd`].
        CpuHotadd = 58 => "XENPF_cpu_hotadd",
        /// Adds memory: [`MemHotadd`].
        MemHotadd = 59 => "XENPF_mem_hotadd",
        /// Keeps CPUs idle to save power: [`CoreParking`].
        CoreParking = 60 => "XENPF_core_parking",
        /// Reads and writes registers of a physical CPU: [`ResourceOp`].
        ResourceOp = 61 => "XENPF_resource_op",
        /// Sets the wall clock: [`Settime64`].
        Settime64 = 62 => "XENPF_settime64",
        /// Names a symbol of the hypervisor: [`Symdata`].
        GetSymbol = 63 => "XENPF_get_symbol",
    }
}

abi_enum! {
    /// A kind of firmware information.
    pub enum FirmwareInfoType: u32 {
        /// Geometry of a disk: [`DiskInfo`].
        DiskInfo = 1 => "XEN_FW_DISK_INFO",
        /// Signature of a disk: [`DiskMbrSignature`].
        DiskMbrSignature = 2 => "XEN_FW_DISK_MBR_SIGNATURE",
        /// Description of the monitor: [`VbeddcInfo`].
        VbeddcInfo = 3 => "XEN_FW_VBEDDC_INFO",
        /// EFI: by [`EfiInfoIndex`].
        EfiInfo = 4 => "XEN_FW_EFI_INFO",
        /// State of the keyboard: one byte.
        KbdShiftFlags = 5 => "XEN_FW_KBD_SHIFT_FLAGS",
    }
}

abi_enum! {
    /// Which EFI information.
    pub enum EfiInfoIndex: u32 {
        /// Version of EFI: a `u32`.
        Version = 0 => "XEN_FW_EFI_VERSION",
        /// Its tables: [`EfiConfigTable`].
        ConfigTable = 1 => "XEN_FW_EFI_CONFIG_TABLE",
        /// Its vendor: [`EfiVendor`].
        Vendor = 2 => "XEN_FW_EFI_VENDOR",
        /// Memory: [`EfiMemInfo`].
        MemInfo = 3 => "XEN_FW_EFI_MEM_INFO",
        /// Version of the runtime services: a `u32`.
        RtVersion = 4 => "XEN_FW_EFI_RT_VERSION",
        /// Option ROM of a PCI function.
        PciRom = 5 => "XEN_FW_EFI_PCI_ROM",
        /// Properties of an Apple machine.
        AppleProperties = 6 => "XEN_FW_EFI_APPLE_PROPERTIES",
    }
}

abi_enum! {
    /// An EFI runtime service.
    pub enum EfiFunction: u32 {
        /// Reads the clock: [`EfiGetTime`].
        GetTime = 1 => "XEN_EFI_get_time",
        /// Sets the clock: [`EfiTime`].
        SetTime = 2 => "XEN_EFI_set_time",
        /// Reads the alarm: [`EfiTime`].
        GetWakeupTime = 3 => "XEN_EFI_get_wakeup_time",
        /// Sets the alarm: [`EfiTime`].
        SetWakeupTime = 4 => "XEN_EFI_set_wakeup_time",
        /// Reads the counter.
        GetNextHighMonotonicCount = 5 => "XEN_EFI_get_next_high_monotonic_count",
        /// Reads a variable: [`EfiVariable`].
        GetVariable = 6 => "XEN_EFI_get_variable",
        /// Writes a variable: [`EfiVariable`].
        SetVariable = 7 => "XEN_EFI_set_variable",
        /// Names the next variable: [`EfiNextVariableName`].
        GetNextVariableName = 8 => "XEN_EFI_get_next_variable_name",
        /// Tells the room for variables: [`EfiVariableInfo`].
        QueryVariableInfo = 9 => "XEN_EFI_query_variable_info",
        /// Tells what capsules are possible.
        QueryCapsuleCapabilities = 10 => "XEN_EFI_query_capsule_capabilities",
        /// Passes capsules on.
        UpdateCapsule = 11 => "XEN_EFI_update_capsule",
    }
}

abi_enum! {
    /// A kind of power management table.
    pub enum PmType: u32 {
        /// Idle states.
        Cx = 0 => "XEN_PM_CX",
        /// Frequencies.
        Px = 1 => "XEN_PM_PX",
        /// Throttling.
        Tx = 2 => "XEN_PM_TX",
        /// What the kernel supports.
        Pdc = 3 => "XEN_PM_PDC",
    }
}

abi_flags! {
    /// What is to be known of a physical CPU.
    pub struct PcpuFlags: u32 {
        /// It runs.
        const ONLINE = 1 => "XEN_PCPU_FLAGS_ONLINE",
        /// There is none of that number.
        const INVALID = 2 => "XEN_PCPU_FLAGS_INVALID",
    }
}

abi_flags! {
    /// How to sleep.
    pub struct AcpiSleepFlags: u32 {
        /// Through the extended registers.
        const EXTENDED = 1 => "XENPF_ACPI_SLEEP_EXTENDED",
    }
}

abi_structs! {
    /// Argument of `platform_op`.
    pub struct PlatformOp = "struct xen_platform_op", 136 {
        /// [`PlatformCommand`].
        pub cmd: u32,
        /// [`INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The command's structure. See [`Self::variant`].
        pub u: [u8; 128],
    }

    /// Argument of [`PlatformCommand::Settime32`].
    pub struct Settime32 = "struct xenpf_settime32", 16 {
        /// Seconds since 1970.
        pub secs: u32,
        /// ns of that second.
        pub nsecs: u32,
        /// System time in ns to which that belongs.
        pub system_time: u64,
    }

    /// Argument of [`PlatformCommand::Settime64`].
    pub struct Settime64 = "struct xenpf_settime64", 24 {
        /// Seconds since 1970.
        pub secs: u64,
        /// ns of that second.
        pub nsecs: u32,
        /// Zero.
        pub mbz: u32,
        /// System time in ns to which that belongs.
        pub system_time: u64,
    }

    /// Argument of [`PlatformCommand::AddMemtype`].
    pub struct AddMemtype = "struct xenpf_add_memtype", 32 {
        /// In: first frame.
        pub mfn: u64,
        /// In: frames.
        pub nr_mfns: u64,
        /// In: type.
        pub kind: u32 = "type",
        /// Out: name of the range.
        pub handle: u32,
        /// Out: register.
        pub reg: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`PlatformCommand::DelMemtype`].
    pub struct DelMemtype = "struct xenpf_del_memtype", 8 {
        /// Name of the range.
        pub handle: u32,
        /// Register.
        pub reg: u32,
    }

    /// Argument of [`PlatformCommand::ReadMemtype`].
    pub struct ReadMemtype = "struct xenpf_read_memtype", 32 {
        /// In: register.
        pub reg: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: first frame.
        pub mfn: u64,
        /// Out: frames.
        pub nr_mfns: u64,
        /// Out: type.
        pub kind: u32 = "type",
        /// Nothing.
        pub _pad1: u32,
    }

    /// Argument of [`PlatformCommand::MicrocodeUpdate`].
    pub struct MicrocodeUpdate = "struct xenpf_microcode_update", 16 {
        /// The file.
        pub data: GuestHandle<u8>,
        /// Bytes.
        pub length: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`PlatformCommand::PlatformQuirk`].
    pub struct PlatformQuirk = "struct xenpf_platform_quirk", 4 {
        /// Which.
        pub quirk_id: u32,
    }

    /// A point of time, as EFI has it.
    pub struct EfiTime = "struct xenpf_efi_time", 16 {
        /// Year.
        pub year: u16,
        /// 1-12.
        pub month: u8,
        /// 1-31.
        pub day: u8,
        /// 0-23.
        pub hour: u8,
        /// 0-59.
        pub min: u8,
        /// 0-59.
        pub sec: u8,
        /// Nothing.
        pub _pad0: u8,
        /// ns.
        pub ns: u32,
        /// Minutes from UTC.
        pub tz: i16,
        /// Daylight saving.
        pub daylight: u8,
        /// Nothing.
        pub _pad1: u8,
    }

    /// A name, as EFI has it.
    pub struct EfiGuid = "struct xenpf_efi_guid", 16 {
        /// First part.
        pub data1: u32,
        /// Second part.
        pub data2: u16,
        /// Third part.
        pub data3: u16,
        /// Rest.
        pub data4: [u8; 8],
    }

    /// Argument of [`PlatformCommand::EfiRuntimeCall`].
    pub struct EfiRuntimeCall = "struct xenpf_efi_runtime_call", 56 {
        /// In: [`EfiFunction`].
        pub function: u32,
        /// Flags of the function, or the counter.
        pub misc: u32,
        /// Out: what EFI returned.
        pub status: u64,
        /// The function's structure. See [`Self::variant`].
        pub u: [u8; 40],
    }

    /// Answer of [`EfiFunction::GetTime`].
    pub struct EfiGetTime = "struct xenpf_efi_runtime_call: u.get_time", 24 {
        /// Time.
        pub time: EfiTime,
        /// Counts in a second.
        pub resolution: u32,
        /// Millionths of a part per million.
        pub accuracy: u32,
    }

    /// Argument of [`EfiFunction::GetVariable`] and [`EfiFunction::SetVariable`].
    pub struct EfiVariable = "struct xenpf_efi_runtime_call: u.get_variable", 40 {
        /// Name.
        pub name: GuestHandle<u16>,
        /// Bytes of the value.
        pub size: u64,
        /// Value.
        pub data: GuestHandle<u8>,
        /// Vendor.
        pub vendor_guid: EfiGuid,
    }

    /// Argument of [`EfiFunction::GetNextVariableName`].
    pub struct EfiNextVariableName = "struct xenpf_efi_runtime_call: u.get_next_variable_name", 32 {
        /// Bytes of the name.
        pub size: u64,
        /// Name.
        pub name: GuestHandle<u16>,
        /// Vendor.
        pub vendor_guid: EfiGuid,
    }

    /// Answer of [`EfiFunction::QueryVariableInfo`].
    pub struct EfiVariableInfo = "struct xenpf_efi_runtime_call: u.query_variable_info", 32 {
        /// Kind of variables.
        pub attr: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Bytes of the store.
        pub max_store_size: u64,
        /// Bytes left.
        pub remain_store_size: u64,
        /// Bytes of one variable.
        pub max_size: u64,
    }

    /// Argument of [`PlatformCommand::FirmwareInfo`].
    pub struct FirmwareInfo = "struct xenpf_firmware_info", 40 {
        /// In: [`FirmwareInfoType`].
        pub kind: u32 = "type",
        /// In: which one of that type.
        pub index: u32,
        /// Out: the type's structure. See [`Self::variant`].
        pub u: [u8; 32],
    }

    /// Answer for [`FirmwareInfoType::DiskInfo`].
    pub struct DiskInfo = "struct xenpf_firmware_info: u.disk_info", 16 {
        /// The BIOS's number of the disk.
        pub device: u8,
        /// Version of the extensions.
        pub version: u8,
        /// What is supported.
        pub interface_support: u16,
        /// Cylinders.
        pub legacy_max_cylinder: u16,
        /// Heads.
        pub legacy_max_head: u8,
        /// Sectors.
        pub legacy_sectors_per_track: u8,
        /// The extended parameters; the first 16 bits say how many bytes fit.
        pub edd_params: GuestHandle<u16>,
    }

    /// Answer for [`FirmwareInfoType::DiskMbrSignature`].
    pub struct DiskMbrSignature = "struct xenpf_firmware_info: u.disk_mbr_signature", 8 {
        /// The BIOS's number of the disk.
        pub device: u8,
        /// Nothing.
        pub _pad0: [u8; 3],
        /// Signature.
        pub mbr_signature: u32,
    }

    /// Answer for [`FirmwareInfoType::VbeddcInfo`].
    pub struct VbeddcInfo = "struct xenpf_firmware_info: u.vbeddc_info", 16 {
        /// What the monitor's channel can do.
        pub capabilities: u8,
        /// Seconds for a block.
        pub edid_transfer_time: u8,
        /// Nothing.
        pub _pad0: [u8; 6],
        /// 128 bytes.
        pub edid: GuestHandle<u8>,
    }

    /// Answer for [`EfiInfoIndex::ConfigTable`].
    pub struct EfiConfigTable = "struct xenpf_firmware_info: u.efi_info.cfg", 16 {
        /// Machine address.
        pub addr: u64,
        /// Entries.
        pub nent: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Answer for [`EfiInfoIndex::Vendor`].
    pub struct EfiVendor = "struct xenpf_firmware_info: u.efi_info.vendor", 16 {
        /// Revision.
        pub revision: u32,
        /// In: bytes that fit.
        pub bufsz: u32,
        /// Name.
        pub name: GuestHandle<u16>,
    }

    /// Answer for [`EfiInfoIndex::MemInfo`].
    pub struct EfiMemInfo = "struct xenpf_firmware_info: u.efi_info.mem", 32 {
        /// In: machine address; out: first byte of its range.
        pub addr: u64,
        /// In: bytes; out: bytes.
        pub size: u64,
        /// Attributes.
        pub attr: u64,
        /// Type.
        pub kind: u32 = "type",
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`PlatformCommand::EnterAcpiSleep`].
    pub struct EnterAcpiSleep = "struct xenpf_enter_acpi_sleep", 12 {
        /// Value for the first control register.
        pub val_a: u16,
        /// Value for the second.
        pub val_b: u16,
        /// State, 1-5.
        pub sleep_state: u32,
        /// [`AcpiSleepFlags`].
        pub flags: u32,
    }

    /// Argument of [`PlatformCommand::ChangeFreq`].
    pub struct ChangeFreq = "struct xenpf_change_freq", 16 {
        /// Zero.
        pub flags: u32,
        /// Physical CPU.
        pub cpu: u32,
        /// Hz.
        pub freq: u64,
    }

    /// Argument of [`PlatformCommand::Getidletime`].
    pub struct Getidletime = "struct xenpf_getidletime", 32 {
        /// In: CPUs asked for; out: those that are present.
        pub cpumap_bitmap: GuestHandle<u8>,
        /// In: bits of that map.
        pub cpumap_nr_cpus: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: ns of each CPU.
        pub idletime: GuestHandle<u64>,
        /// Out: system time in ns.
        pub now: u64,
    }

    /// A register, as ACPI describes it.
    pub struct PowerRegister = "struct xen_power_register", 24 {
        /// Address space.
        pub space_id: u32,
        /// Bits.
        pub bit_width: u32,
        /// First bit.
        pub bit_offset: u32,
        /// Access size.
        pub access_size: u32,
        /// Address.
        pub address: u64,
    }

    /// A group of CPUs that depend on each other.
    pub struct ProcessorCsd = "struct xen_processor_csd", 12 {
        /// Group.
        pub domain: u32,
        /// Who coordinates.
        pub coord_type: u32,
        /// CPUs.
        pub num: u32,
    }

    /// An idle state.
    pub struct ProcessorCx = "struct xen_processor_cx", 48 {
        /// Register that enters it.
        pub reg: PowerRegister,
        /// State.
        pub kind: u8 = "type",
        /// Nothing.
        pub _pad0: [u8; 3],
        /// Worst latency.
        pub latency: u32,
        /// mW.
        pub power: u32,
        /// Groups.
        pub dpcnt: u32,
        /// The groups.
        pub dp: GuestHandle<ProcessorCsd>,
    }

    /// All idle states of a CPU: variant of [`PmType::Cx`].
    pub struct ProcessorPower = "struct xen_processor_power", 16 {
        /// States.
        pub count: u32,
        /// Bits 0-4: bus master control, bus master check, has table, set up, bus master reload.
        pub flags: u32,
        /// The states.
        pub states: GuestHandle<ProcessorCx>,
    }

    /// A register that changes the frequency.
    pub struct PctRegister = "struct xen_pct_register", 16 {
        /// Kind of description.
        pub descriptor: u8,
        /// Nothing.
        pub _pad0: u8,
        /// Its bytes.
        pub length: u16,
        /// Address space.
        pub space_id: u8,
        /// Bits.
        pub bit_width: u8,
        /// First bit.
        pub bit_offset: u8,
        /// Nothing.
        pub reserved: u8,
        /// Address.
        pub address: u64,
    }

    /// A frequency.
    pub struct ProcessorPx = "struct xen_processor_px", 48 {
        /// MHz.
        pub core_frequency: u64,
        /// mW.
        pub power: u64,
        /// us.
        pub transition_latency: u64,
        /// us.
        pub bus_master_latency: u64,
        /// Value that selects it.
        pub control: u64,
        /// Value that confirms it.
        pub status: u64,
    }

    /// A group of CPUs that share a frequency.
    pub struct PsdPackage = "struct xen_psd_package", 40 {
        /// Entries.
        pub num_entries: u64,
        /// Revision.
        pub revision: u64,
        /// Group.
        pub domain: u64,
        /// Who coordinates.
        pub coord_type: u64,
        /// CPUs.
        pub num_processors: u64,
    }

    /// All frequencies of a CPU: variant of [`PmType::Px`].
    pub struct ProcessorPerformance = "struct xen_processor_performance", 104 {
        /// Which parts are meant.
        pub flags: u32,
        /// First usable frequency.
        pub platform_limit: u32,
        /// Register to write.
        pub control_register: PctRegister,
        /// Register to read.
        pub status_register: PctRegister,
        /// Frequencies.
        pub state_count: u32,
        /// Nothing.
        pub _pad0: u32,
        /// The frequencies.
        pub states: GuestHandle<ProcessorPx>,
        /// Group.
        pub domain_info: PsdPackage,
        /// Who coordinates.
        pub shared_type: u32,
        /// Nothing.
        pub _pad1: u32,
    }

    /// Argument of [`PlatformCommand::SetProcessorPminfo`].
    pub struct SetProcessorPminfo = "struct xenpf_set_processor_pminfo", 112 {
        /// In: ACPI identifier of the CPU.
        pub id: u32,
        /// In: [`PmType`].
        pub kind: u32 = "type",
        /// In: [`ProcessorPower`], [`ProcessorPerformance`], or for [`PmType::Pdc`] the address of its words. See
        /// [`Self::variant`].
        pub u: [u8; 104],
    }

    /// Argument of [`PlatformCommand::GetCpuinfo`].
    pub struct PcpuInfo = "struct xenpf_pcpuinfo", 20 {
        /// In: physical CPU.
        pub xen_cpuid: u32,
        /// Out: highest physical CPU.
        pub max_present: u32,
        /// Out: [`PcpuFlags`].
        pub flags: u32,
        /// Out: APIC identifier.
        pub apic_id: u32,
        /// Out: ACPI identifier.
        pub acpi_id: u32,
    }

    /// Argument of [`PlatformCommand::GetCpuVersion`].
    pub struct PcpuVersion = "struct xenpf_pcpu_version", 32 {
        /// In: physical CPU.
        pub xen_cpuid: u32,
        /// Out: highest physical CPU.
        pub max_present: u32,
        /// Out: vendor, as CPUID has it.
        pub vendor_id: [u8; 12],
        /// Out: family.
        pub family: u32,
        /// Out: model.
        pub model: u32,
        /// Out: stepping.
        pub stepping: u32,
    }

    /// Argument of [`PlatformCommand::CpuOnline`] and [`PlatformCommand::CpuOffline`].
    pub struct CpuOnline = "struct xenpf_cpu_ol", 4 {
        /// Physical CPU.
        pub cpuid: u32,
    }

    /// Argument of [`PlatformCommand::CpuHotadd`].
    pub struct CpuHotadd = "struct xenpf_cpu_hotadd", 12 {
        /// APIC identifier.
        pub apic_id: u32,
        /// ACPI identifier.
        pub acpi_id: u32,
        /// Proximity domain.
        pub pxm: u32,
    }

    /// Argument of [`PlatformCommand::MemHotadd`].
    pub struct MemHotadd = "struct xenpf_mem_hotadd", 24 {
        /// First frame.
        pub spfn: u64,
        /// Frame behind the last.
        pub epfn: u64,
        /// Proximity domain.
        pub pxm: u32,
        /// Zero.
        pub flags: u32,
    }

    /// Argument of [`PlatformCommand::CoreParking`].
    pub struct CoreParking = "struct xenpf_core_parking", 8 {
        /// 1 sets, 2 reads.
        pub kind: u32 = "type",
        /// CPUs to be idle.
        pub idle_nums: u32,
    }

    /// One access of a [`ResourceOp`].
    pub struct ResourceEntry = "struct xenpf_resource_entry", 24 {
        /// In: 0 reads, 1 writes an MSR; out: negative error.
        pub cmd: u32 = "u.cmd",
        /// Zero.
        pub rsvd: u32,
        /// Register.
        pub idx: u64,
        /// Value.
        pub val: u64,
    }

    /// Argument of [`PlatformCommand::ResourceOp`].
    pub struct ResourceOp = "struct xenpf_resource_op", 16 {
        /// Accesses.
        pub nr_entries: u32,
        /// Physical CPU.
        pub cpu: u32,
        /// The accesses.
        pub entries: GuestHandle<ResourceEntry>,
    }

    /// Argument of [`PlatformCommand::GetSymbol`].
    pub struct Symdata = "struct xenpf_symdata", 32 {
        /// In: bytes that fit; out: bytes of the name.
        pub namelen: u32,
        /// In: which symbol; out: the next.
        pub symnum: u32,
        /// Out: name.
        pub name: GuestHandle<u8>,
        /// Out: address.
        pub address: u64,
        /// Out: kind, as `nm` has it.
        pub kind: u8 = "type",
        /// Nothing.
        pub _pad0: [u8; 7],
    }
}

union_bytes!(PlatformOp, 128);
union_bytes!(EfiRuntimeCall, 40);
union_bytes!(FirmwareInfo, 32);
union_bytes!(SetProcessorPminfo, 104);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    PlatformCommand::CONSTANTS,
    FirmwareInfoType::CONSTANTS,
    EfiInfoIndex::CONSTANTS,
    EfiFunction::CONSTANTS,
    PmType::CONSTANTS,
    PcpuFlags::CONSTANTS,
    AcpiSleepFlags::CONSTANTS,
];
