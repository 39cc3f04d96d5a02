//! Linux' system calls, those that are needed.

use core::arch::{asm, global_asm};
use core::fmt;
use core::ptr;

// The kernel leaves the number of arguments on the stack, which is aligned, and nothing to return to.
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, [rsp]",
    "xor ebp, ebp",
    "call {begin}",
    "ud2",
    begin = sym crate::begin,
);

/// Numbers of system calls.
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const PREAD: usize = 17;
    pub const PWRITE: usize = 18;
    pub const NANOSLEEP: usize = 35;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const MKDIR: usize = 83;
    pub const MOUNT: usize = 165;
    pub const REBOOT: usize = 169;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const FINIT_MODULE: usize = 313;
}

/// What went wrong.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// A system call failed: its number and the kernel's.
    Call(usize, isize),
    /// Something is not what it should be.
    Unexpected,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(number, error) => write!(f, "system call {number}: error {error}"),
            Self::Unexpected => f.write_str("not as expected"),
        }
    }
}

/// # Safety
///
/// What the kernel does with the arguments must be right: which memory it writes.
unsafe fn call(number: usize, arguments: [usize; 5]) -> Result<usize, Failure> {
    let [rdi, rsi, rdx, r10, r8] = arguments;
    let result: isize;
    // SAFETY: the kernel returns behind the instruction and keeps all registers but these; the rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") rdi,
            in("rsi") rsi,
            in("rdx") rdx,
            in("r10") r10,
            in("r8") r8,
            lateout("rcx") _,
            lateout("r11") _,
        )
    };
    match result {
        -4095..=-1 => Err(Failure::Call(number, -result)),
        value => Ok(value as usize),
    }
}

/// The address of a text that ends with a zero.
fn text(text: &'static [u8]) -> usize {
    assert!(text.ends_with(b"\0"));
    text.as_ptr() as usize
}

/// Standard output.
pub struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let arguments = [1, rest.as_ptr() as usize, rest.len(), 0, 0];
            // SAFETY: reads the text.
            let written = unsafe { call(number::WRITE, arguments) }.map_err(|_| fmt::Error)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: nothing is left of the process.
        let _ = unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

/// Makes a process like this one; `None` in that.
pub fn fork() -> Result<Option<usize>, Failure> {
    // SAFETY: there is one thread, which holds nothing that could be held twice.
    let child = unsafe { call(number::FORK, [0; 5]) }?;
    Ok((child != 0).then_some(child))
}

/// Waits for the end of a process, and returns what it left; -1 if it was killed.
pub fn wait(process: usize) -> Result<i32, Failure> {
    let mut status = 0_i32;
    let at = ptr::from_mut(&mut status) as usize;
    // SAFETY: writes the status.
    unsafe { call(number::WAIT4, [process, at, 0, 0, 0]) }?;
    Ok(match status & 0x7f {
        0 => status >> 8 & 0xff,
        _ => -1,
    })
}

/// Becomes another program, with one argument beside its name.
pub fn execute(program: &'static [u8], argument: &'static [u8]) -> Result<(), Failure> {
    let arguments = [text(program), text(argument), 0];
    let none = [0_usize];
    let (list, environment) = (arguments.as_ptr() as usize, none.as_ptr() as usize);
    // SAFETY: reads texts and lists; nothing is left of this program.
    unsafe { call(number::EXECVE, [text(program), list, environment, 0, 0]) }.map(drop)
}

/// A clock.
#[derive(Clone, Copy)]
pub enum Clock {
    /// What time it is.
    Real = 0,
    /// How long the machine runs.
    Monotonic = 1,
}

/// What a clock says, in ns.
pub fn time(clock: Clock) -> Result<u64, Failure> {
    let mut time = [0_u64; 2];
    let at = time.as_mut_ptr() as usize;
    // SAFETY: writes seconds and nanoseconds.
    unsafe { call(number::CLOCK_GETTIME, [clock as usize, at, 0, 0, 0]) }?;
    let [seconds, nanoseconds] = time;
    Ok(seconds * 1_000_000_000 + nanoseconds)
}

/// Sleeps so many ns.
pub fn sleep(time: u64) -> Result<(), Failure> {
    let time = [time / 1_000_000_000, time % 1_000_000_000];
    // SAFETY: reads seconds and nanoseconds.
    unsafe { call(number::NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Makes a folder, if it is not there.
pub fn make_folder(path: &'static [u8]) -> Result<(), Failure> {
    const EXISTS: isize = 17;
    // SAFETY: reads the path.
    match unsafe { call(number::MKDIR, [text(path), 0o755, 0, 0, 0]) } {
        Ok(_) | Err(Failure::Call(_, EXISTS)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Mounts a file system that has no device.
pub fn mount(kind: &'static [u8], at: &'static [u8]) -> Result<(), Failure> {
    // SAFETY: reads texts.
    unsafe { call(number::MOUNT, [text(kind), text(at), text(kind), 0, 0]) }.map(drop)
}

/// Reads the beginning of a file, and returns how long that is.
pub fn read_file(path: &'static [u8], into: &mut [u8]) -> Result<usize, Failure> {
    // SAFETY: reads the path; the second writes to what it is given.
    unsafe {
        let file = call(number::OPEN, [text(path), 0, 0, 0, 0])?;
        let buffer = into.as_mut_ptr() as usize;
        let length = call(number::READ, [file, buffer, into.len(), 0, 0]);
        call(number::CLOSE, [file, 0, 0, 0, 0])?;
        length
    }
}

/// Loads a module of the kernel.
pub fn load_module(path: &'static [u8]) -> Result<(), Failure> {
    // SAFETY: reads the path and no options; the module is the kernel's own.
    unsafe {
        let file = call(number::OPEN, [text(path), 0, 0, 0, 0])?;
        let loaded = call(number::FINIT_MODULE, [file, text(b"\0"), 0, 0, 0]);
        call(number::CLOSE, [file, 0, 0, 0, 0])?;
        loaded.map(drop)
    }
}

/// Bytes of a disk, where the device can reach them.
#[repr(C, align(4096))]
pub struct Block(pub [u64; Block::SIZE / 8]);

impl Block {
    /// How many bytes there are.
    pub const SIZE: usize = 64 << 10;
}

/// A disk, past all that the kernel keeps of it.
pub struct Disk(usize);

impl Disk {
    /// Opens it.
    pub fn open(path: &'static [u8]) -> Result<Self, Failure> {
        const READ_AND_WRITE: usize = 2;
        const DIRECT: usize = 0o40_000;
        // SAFETY: reads the path.
        unsafe { call(number::OPEN, [text(path), READ_AND_WRITE | DIRECT, 0, 0, 0]) }.map(Self)
    }

    /// Reads a block.
    pub fn read(&self, number: usize, block: &mut Block) -> Result<(), Failure> {
        let at = block.0.as_mut_ptr() as usize;
        // SAFETY: writes the block.
        let length = unsafe { call(number::PREAD, self.range(number, at)) }?;
        whole(length)
    }

    /// Writes one.
    pub fn write(&self, number: usize, block: &Block) -> Result<(), Failure> {
        // SAFETY: reads the block.
        let length = unsafe {
            call(
                number::PWRITE,
                self.range(number, block.0.as_ptr() as usize),
            )
        }?;
        whole(length)
    }

    fn range(&self, number: usize, at: usize) -> [usize; 5] {
        [self.0, at, Block::SIZE, number * Block::SIZE, 0]
    }
}

fn whole(length: usize) -> Result<(), Failure> {
    match length {
        Block::SIZE => Ok(()),
        _ => Err(Failure::Unexpected),
    }
}

/// Switches the machine off. ABI: Linux, `reboot(2)`.
pub fn power_off() -> ! {
    const MAGIC: [usize; 2] = [0xfee1_dead, 0x2812_1969];
    const POWER_OFF: usize = 0x4321_fedc;
    // SAFETY: nobody has anything that could be lost.
    let _ = unsafe { call(number::REBOOT, [MAGIC[0], MAGIC[1], POWER_OFF, 0, 0]) };
    exit(1)
}
