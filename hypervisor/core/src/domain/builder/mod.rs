//! Builds dom0: from what the boot loader brought to a domain that can be entered.
//!
//! | file | what |
//! |---|---|
//! | [`bzimage`] | what the module is: ELF, a bzImage, or neither |
//! | [`unpack`] | gzip and xz |
//! | [`notes`], [`kernel`] | what a PV kernel says and wants, checked |
//! | [`layout`] | where everything goes: arithmetic only |
//! | `tables`, [`start_info`], [`hypercall_page`] | what the pages hold |
//! | `place` | machine memory for all of it |
//! | [`error`] | what can be wrong, in words |
//!
//! The modules come from whoever may write to the boot medium, so nothing in them is believed: what is wrong with one is
//! an error that names it, never a fault. After an error all memory is free again.

pub mod bzimage;
pub mod error;
pub mod hypercall_page;
pub mod kernel;
pub mod layout;
pub mod notes;
mod place;
pub mod start_info;
mod tables;
pub mod unpack;

#[cfg(test)]
mod packed_samples;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use core::fmt::Write;

use arrayvec::ArrayString;
use dom0_abi::addr::{Mfn, PAGE_SIZE};
use dom0_abi::arch::{CpuUserRegs, FLAT_CS64, FLAT_SS};
use dom0_abi::ids::DomId;
use dom0_abi::xen::Dom0VgaConsoleInfo;
use oxen_arch::boot::{BootModule, MfnRange, Screen};
use oxen_arch::memory::FrameBuf;

use crate::frame::{Frames, Memory, OwnedFrames, Placement};
use bzimage::KernelModule;
use error::{BuildError, KernelError, Purpose};
use kernel::Kernel;
use layout::{Layout, Needs};
use place::Plan;
use start_info::Firmware;
use unpack::Unpacking;

/// What to build dom0 from.
pub struct Request<'m> {
    /// Module 0. Its command line is the first part of the guest's. Taken, whatever comes of it; a module holds 2 KiB of command line
    /// and is not moved over the stack without need.
    pub kernel: &'m mut Option<BootModule>,
    /// The initrd, if there is one. Taken, too.
    pub initrd: &'m mut Option<BootModule>,
    /// Pages that the domain gets. Comes out exactly, or not at all.
    pub nr_pages: u64,
    /// Who owns the frames.
    pub owner: DomId,
    /// What the guest is told about the screen.
    pub screen: Option<Screen>,
    /// Who set the screen up.
    pub firmware: Firmware,
    /// What the hypervisor's command line has for the guest's, which it comes behind.
    pub arguments: &'m str,
}

/// A domain's memory, ready to be entered on one vCPU.
///
/// All `nr_pages` frames and `shared_info` belong to the owner, with one general reference each, that of being
/// allocated; none has a page type yet. The M2P names each frame's pfn; `shared_info` has none and is not counted.
#[derive(Debug)]
pub struct Built {
    /// The initial L4: CR3 of the first vCPU. The guest expects it, and no other table, to be pinned. Its slots
    /// 256..=271 are the hypervisor's, all others map nothing but what `layout` says.
    pub root: Mfn,
    /// The page that the domain shares with the hypervisor: zero, but for the masks of the 32 vCPUs in it. The wall clock
    /// is still to be written.
    pub shared_info: Mfn,
    /// What the first vCPU starts with. In kernel mode, events masked, no GDT, LDT or trap table, FS and GS base 0.
    pub start: CpuUserRegs,
    /// Pages of the domain.
    pub nr_pages: u64,
    /// What is where, by pfn and guest address.
    pub layout: Layout,
    /// The frames of `layout.mapped`, in order: there, mfn = `mapped.start` + pfn. The tables of the initial mapping are
    /// those of `layout.tables`; each is mapped once, read-only.
    pub mapped: MfnRange,
    /// The frames of the p2m list, 512 entries each, zero behind the last entry.
    pub p2m_list: MfnRange,
    /// The tables that map the list, if it lies apart; none of them is mapped anywhere. Else empty.
    pub p2m_tables: MfnRange,
    /// What the kernel calls itself: system and version.
    pub kernel_name: ArrayString<64>,
    /// The kernel wants the assist for roots above 4 GiB to be on: its note PAE_MODE says "yes". 64-bit kernels need none,
    /// but are told what they asked for.
    pub has_extended_cr3: bool,
    /// The kernel's command line was longer than start_info holds, and its end is missing.
    pub is_command_line_cut: bool,
}

/// Builds dom0. Consumes the modules: the kernel's frames become free, the initrd's become the
/// domain's, or free if it had to be copied or after an error.
///
/// After an error no frame has changed hands but those of the modules, which are free. Needs no scrubbed memory and does
/// not scrub: what is not written here may hold anything that was in memory at boot. Uses less than 8 KiB of stack.
pub fn build(memory: Memory<'_>, request: Request) -> Result<Built, BuildError> {
    let Request { kernel, initrd, .. } = request;
    let built = match &*kernel {
        Some(kernel) => Build {
            memory,
            nr_pages: request.nr_pages,
            owner: request.owner,
            screen: request
                .screen
                .and_then(|screen| start_info::screen_record(&screen, request.firmware)),
            command_line: CommandLine::new(kernel.command_line(), request.arguments),
        }
        .build_module(kernel.bytes(), initrd),
        None => Err(KernelError::Missing.into()),
    };
    for module in [kernel, initrd] {
        drop(adopt(memory.frames, module));
    }
    built
}

/// Takes a module and holds its frames, which are ordinary memory from then on.
#[inline(never)]
fn adopt<'f>(frames: &'f Frames, module: &mut Option<BootModule>) -> Option<OwnedFrames<'f>> {
    let range = module.take()?.into_frames();
    Some(frames.adopt(range))
}

/// A build under way.
struct Build<'a> {
    memory: Memory<'a>,
    nr_pages: u64,
    owner: DomId,
    screen: Option<Dom0VgaConsoleInfo>,
    command_line: CommandLine,
}

/// The command line of a guest.
struct CommandLine {
    text: ArrayString<{ start_info::LONGEST_COMMAND_LINE }>,
    is_cut: bool,
}

impl CommandLine {
    /// The words of the kernel's module and those behind them, as much as there is room for.
    fn new(module: &str, arguments: &str) -> Self {
        let space = if module.is_empty() || arguments.is_empty() {
            ""
        } else {
            " "
        };
        let mut text = ArrayString::new();
        let all = [module, space, arguments];
        let is_cut = all
            .into_iter()
            .flat_map(str::chars)
            .any(|character| text.try_push(character).is_err());
        Self { text, is_cut }
    }
}

impl Build<'_> {
    /// Builds from a kernel module as it is, unpacking it if need be.
    fn build_module(
        &self,
        file: &[u8],
        initrd: &mut Option<BootModule>,
    ) -> Result<Built, BuildError> {
        match KernelModule::recognise(file)? {
            KernelModule::Elf(elf) => self.build_elf(elf, initrd),
            KernelModule::Packed { packing, payload } => {
                let unpacking = Unpacking::prepare(packing, payload).map_err(unpack_error)?;
                let size = unpacking.unpacked_size();
                self.with_buffer(size, |output| {
                    self.with_buffer(unpacking.scratch_size(), |scratch| {
                        unpacking.unpack(output, scratch).map_err(unpack_error)
                    })?;
                    self.build_elf(output.get(..size).unwrap_or_default(), initrd)
                })
            }
        }
    }

    /// Builds from an ELF file.
    #[inline(never)]
    fn build_elf(&self, elf: &[u8], initrd: &mut Option<BootModule>) -> Result<Built, BuildError> {
        let kernel = Kernel::parse(elf)?;
        let layout = Layout::new(&needs(&kernel, initrd.as_ref(), self.nr_pages))?;
        let plan = Plan {
            memory: self.memory,
            owner: self.owner,
            kernel: &kernel,
            layout: &layout,
            command_line: &self.command_line.text,
            screen: self.screen,
        };
        let placed = plan.place(initrd)?;
        Ok(Built {
            root: placed.root,
            shared_info: placed.shared_info,
            start: start(&kernel, &layout),
            nr_pages: self.nr_pages,
            layout,
            mapped: placed.mapped,
            p2m_list: placed.p2m_list,
            p2m_tables: placed.p2m_tables,
            kernel_name: name(&kernel),
            has_extended_cr3: kernel
                .notes()
                .pae_mode
                .is_some_and(|mode| mode.bytes() == b"yes"),
            is_command_line_cut: self.command_line.is_cut,
        })
    }

    /// Runs `work` with a buffer of at least `len` bytes in frames that are free again afterwards.
    fn with_buffer<T>(
        &self,
        len: usize,
        work: impl FnOnce(&mut [u8]) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let nr_frames = len.div_ceil(PAGE_SIZE).max(1) as u64;
        let no_memory = || BuildError::NoMemory(Purpose::Unpacking, nr_frames);
        let held = self
            .memory
            .alloc_contiguous(nr_frames, Placement::Anywhere)
            .map_err(|_| no_memory())?;
        let buffer = FrameBuf::new(self.memory.mem(), held.range());
        let mut buffer = buffer.ok_or_else(no_memory)?;
        let result = work(&mut buffer);
        // The frames are ordinary again before the handle frees them.
        buffer.into_frames();
        result
    }
}

/// What a layout for this kernel and this initrd follows from.
fn needs(kernel: &Kernel, initrd: Option<&BootModule>, nr_pages: u64) -> Needs {
    let notes = kernel.notes();
    let initrd = initrd.map(|module| module.bytes().len() as u64);
    Needs {
        virt_base: notes.virt_base,
        kernel_end: kernel.end(),
        nr_pages,
        init_p2m: notes.init_p2m,
        initrd: initrd.filter(|len| *len > 0),
        initrd_mapped: !notes.mod_start_pfn,
    }
}

/// The registers of the first vCPU. What the ABI does not name is zero.
fn start(kernel: &Kernel, layout: &Layout) -> CpuUserRegs {
    const ALWAYS_SET: u64 = 1 << 1;
    const INTERRUPTS: u64 = 1 << 9;
    let mut regs = CpuUserRegs::zeroed();
    regs.rip = kernel.entry();
    regs.cs = FLAT_CS64;
    // The stack begins at the end of its page.
    regs.rsp = layout.va(layout.stack).wrapping_add(PAGE_SIZE as u64);
    regs.ss = FLAT_SS;
    regs.rsi = layout.va(layout.start_info);
    regs.rflags = INTERRUPTS | ALWAYS_SET;
    regs.saved_upcall_mask = 1;
    regs
}

fn name(kernel: &Kernel) -> ArrayString<64> {
    let notes = kernel.notes();
    let mut name = ArrayString::new();
    // What does not fit is not missed.
    let _ = write!(name, "{} {}", notes.guest_os, notes.guest_version);
    name
}

fn unpack_error(error: unpack::UnpackError) -> BuildError {
    KernelError::Unpack(error).into()
}
