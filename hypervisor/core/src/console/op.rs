//! The hypercall `console_io`. ABI: public/xen.h, `HYPERVISOR_console_io`.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use oxen_arch::Cpu;

use super::Out;

/// Writes to the console.
#[doc(alias = "CONSOLEIO_write")]
pub const CONSOLEIO_WRITE: u32 = 0;
/// Reads what was typed.
#[doc(alias = "CONSOLEIO_read")]
pub const CONSOLEIO_READ: u32 = 1;

/// Bytes that are copied from or to the guest at once.
const CHUNK: usize = 128;
/// Bytes that one step writes. A serial line at 115200 baud takes 22 ms for them, and dom0 waits for it.
const STEP: u32 = 256;

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done; what it returns.
    Done(u64),
    /// There is more to write: the same command once more, with these arguments.
    Continue {
        /// Bytes that are left.
        count: u32,
        /// Where they are.
        buffer: GuestAddr,
    },
}

/// Writes to the console for the control domain, or reads what was typed for it. One call writes a bounded number of
/// bytes.
///
/// A write returns 0, a read the number of bytes. `EPERM`: the caller is not the control domain. `ENOSYS`: no such
/// command. `E2BIG`: a read of more bytes than the result can tell. `EFAULT`: the buffer is not all there; what was
/// before the fault has been written, or read.
pub fn console_io(
    out: Out<'_>,
    cpu: &Cpu,
    is_control_domain: bool,
    command: u32,
    count: u32,
    buffer: GuestAddr,
) -> Result<Progress, Errno> {
    if !is_control_domain {
        return Err(Errno::EPERM);
    }
    match command {
        CONSOLEIO_WRITE => write(out, cpu, count, buffer),
        CONSOLEIO_READ => read(out, cpu, count, buffer),
        _ => Err(Errno::ENOSYS),
    }
}

fn write(
    out: Out<'_>,
    cpu: &Cpu,
    mut count: u32,
    mut buffer: GuestAddr,
) -> Result<Progress, Errno> {
    let end_of_step = count.saturating_sub(STEP);
    let mut bytes = [0; CHUNK];
    while count > end_of_step {
        let chunk = chunk_of(&mut bytes, count);
        cpu.read_guest_bytes(buffer, chunk)
            .map_err(|_| Errno::EFAULT)?;
        out.write_for_dom0(chunk);
        count = count.saturating_sub(chunk.len() as u32);
        buffer = buffer
            .checked_add(chunk.len() as u64)
            .ok_or(Errno::EFAULT)?;
    }
    Ok(match count {
        0 => Progress::Done(0),
        count => Progress::Continue { count, buffer },
    })
}

fn read(out: Out<'_>, cpu: &Cpu, count: u32, mut buffer: GuestAddr) -> Result<Progress, Errno> {
    // The result is an `int`, of which negative values are errors.
    if i32::try_from(count).is_err() {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; CHUNK];
    let mut nr_read: u32 = 0;
    while nr_read < count {
        let chunk = chunk_of(&mut bytes, count.saturating_sub(nr_read));
        let (len, seen) = out.console().peek_input(chunk);
        let Some(chunk @ [_, ..]) = chunk.get(..len) else {
            break;
        };
        // Taken only once the guest has it: a fault loses nothing.
        cpu.write_guest_bytes(buffer, chunk)
            .map_err(|_| Errno::EFAULT)?;
        if !out.console().take_input(seen) {
            continue;
        }
        nr_read = nr_read.saturating_add(len as u32);
        buffer = buffer.checked_add(len as u64).ok_or(Errno::EFAULT)?;
    }
    Ok(Progress::Done(u64::from(nr_read)))
}

/// As much of the buffer as the count allows.
fn chunk_of(bytes: &mut [u8; CHUNK], count: u32) -> &mut [u8] {
    let len = CHUNK.min(count as usize);
    bytes.get_mut(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests;
