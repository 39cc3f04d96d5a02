//! The serial port of the console.
//!
//! LOCK: rank Console. The panic handler takes it by force: other CPUs no longer matter then.

use uart_16550::backend::Backend;
use uart_16550::spec::registers::{IER, LCR, LSR, Parity, WordLength};
use uart_16550::{BaudRate, Config, Uart16550};

use super::cpu;
use crate::registers::PortWidth;
use crate::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use crate::sync::{Rank, SpinLock};

/// How a serial port is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialConfig {
    /// Its first I/O port.
    pub port: u16,
    /// How its line is to be set; `None` leaves it as firmware or loader set it.
    pub line: Option<SerialLine>,
}

/// The settings of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialLine {
    /// Bits per second.
    pub baud: u32,
    /// Bits per second at divisor 1.
    pub base_baud: u32,
    /// Bits of a character, 5 to 8.
    pub data_bits: u8,
    /// Parity of a character.
    pub parity: SerialParity,
    /// Two stop bits instead of one.
    pub has_two_stop_bits: bool,
}

/// Parity of a character on a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialParity {
    /// No parity bit.
    None,
    /// Odd parity.
    Odd,
    /// Even parity.
    Even,
    /// Always one.
    Mark,
    /// Always zero.
    Space,
}

/// How often the port is asked whether it can take a byte: at 9600 baud a byte takes a millisecond, each question about a
/// microsecond. A port that never can does not hold the hypervisor up for longer (gotcha 40 of the ABI: console output
/// is synchronous to guests).
const PATIENCE: u32 = 20_000;

/// The I/O ports of a serial port from the first on. Beyond the last port of all they go on at 0, where the crate's own
/// would panic: guests cause writes.
struct Ports {
    base: u16,
}

impl Ports {
    fn of(&self, register: u8) -> u16 {
        self.base.wrapping_add(u16::from(register))
    }
}

impl Backend for Ports {
    unsafe fn read(&mut self, register: u8) -> u8 {
        let port = self.of(register);
        // SAFETY: the ports belong to this serial port, as whoever made it has said.
        unsafe { cpu::port_in(port, PortWidth::Byte) as u8 }
    }

    unsafe fn write(&mut self, register: u8, value: u8) {
        let port = self.of(register);
        // SAFETY: as above.
        unsafe { cpu::port_out(port, PortWidth::Byte, u32::from(value)) }
    }
}

/// The serial port at these I/O ports.
///
/// # Safety
///
/// They must be a serial port's that the hypervisor has for itself, or nobody's.
unsafe fn port_at(base: u16) -> Uart16550<Ports> {
    // SAFETY: as the caller promises.
    unsafe { Uart16550::new_with_backend(Ports { base }) }
}

static PORT: SpinLock<Option<Uart16550<Ports>>> = SpinLock::new(Rank::Console, None);
/// The first I/O port of the port in use.
static BASE: AtomicU16 = AtomicU16::new(0x3f8);
/// The port no longer answers: nothing is written any more.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// Takes a port into use. False if there is none.
pub fn open(config: &SerialConfig) -> bool {
    // SAFETY: the command line names the port, or the default of every PC; it is the hypervisor's from now on.
    let mut port = unsafe { port_at(config.port) };
    if !port.check_present() {
        return false;
    }
    let line = match config.line {
        Some(line) => line_config(&line),
        None => current_line(&mut port),
    };
    if port.init(line).is_err() {
        return false;
    }
    BASE.store(config.port, Ordering::Relaxed);
    *PORT.lock() = Some(port);
    true
}

/// Cycles of the port's clock for a bit at divisor 1.
const CYCLES_PER_BIT: u32 = 16;

fn line_config(line: &SerialLine) -> Config {
    Config {
        interrupts: IER::empty(),
        frequency: line.base_baud.saturating_mul(CYCLES_PER_BIT),
        baud_rate: BaudRate::from_integer(line.baud),
        data_bits: match line.data_bits {
            5 => WordLength::FiveBits,
            6 => WordLength::SixBits,
            7 => WordLength::SevenBits,
            _ => WordLength::EightBits,
        },
        extra_stop_bits: line.has_two_stop_bits,
        parity: match line.parity {
            SerialParity::None => Parity::Disabled,
            SerialParity::Odd => Parity::Odd,
            SerialParity::Even => Parity::Even,
            SerialParity::Mark => Parity::Forced1,
            SerialParity::Space => Parity::Forced0,
        },
        ..Config::default()
    }
}

/// What the line is set to now.
fn current_line(port: &mut Uart16550<Ports>) -> Config {
    let (low, high) = port.dll_dlm();
    let divisor = (u32::from(high) << 8 | u32::from(low)).max(1);
    let format = port.lcr();
    let default = Config::default();
    Config {
        interrupts: IER::empty(),
        baud_rate: BaudRate::from_integer(default.frequency / CYCLES_PER_BIT / divisor),
        data_bits: format.word_length(),
        extra_stop_bits: format.contains(LCR::MORE_STOP_BITS),
        parity: format.parity(),
        ..default
    }
}

/// Lets the port interrupt when a byte arrives.
pub(super) fn enable_input() {
    if let Some(port) = PORT.lock().as_mut() {
        port.enable_interrupts(IER::DATA_READY);
    }
}

/// Writes bytes, if there is a port.
pub(super) fn write(bytes: &[u8]) {
    if let Some(port) = PORT.lock().as_mut() {
        write_to(port, bytes);
    }
}

/// Writes bytes although the holder of the lock may have been stopped in the middle: by a panic, whose message this is.
pub(super) fn write_by_force(bytes: &[u8]) {
    if let Some(mut port) = PORT.try_lock() {
        if let Some(port) = port.as_mut() {
            write_to(port, bytes);
        }
        return;
    }
    // SAFETY: the port is set up, since somebody holds it; whoever does will not go on.
    let mut port = unsafe { port_at(BASE.load(Ordering::Relaxed)) };
    write_to(&mut port, bytes);
}

fn write_to(port: &mut Uart16550<Ports>, bytes: &[u8]) {
    if IS_STUCK.load(Ordering::Relaxed) {
        return;
    }
    for byte in bytes {
        if !(0..PATIENCE).any(|_| port.try_send_byte(*byte).is_ok()) {
            IS_STUCK.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// Takes one byte that has arrived.
pub(super) fn read() -> Option<u8> {
    let mut port = PORT.lock();
    let port = port.as_mut()?;
    if !port.lsr().contains(LSR::DATA_READY) {
        return None;
    }
    port.try_receive_byte().ok()
}
