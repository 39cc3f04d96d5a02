//! How fast the time-stamp counter runs.

use x86_64::instructions::port::Port;

use super::cpu::read_tsc;

/// Frequency of the 8254's input.
const PIT_HZ: u64 = 1_193_182;
/// Ticks of the 8254 to compare with: 10 ms.
const TICKS: u64 = PIT_HZ / 100;
/// What is assumed where nothing can be measured.
const FALLBACK_KHZ: u32 = 1_000_000;

/// Measures the counter, in kHz, against channel 2 of the 8254.
pub(super) fn calibrate_tsc() -> u32 {
    if let Some(khz) = raw_cpuid::CpuId::new()
        .get_tsc_info()
        .and_then(|info| info.tsc_frequency())
    {
        return u32::try_from(khz / 1000).unwrap_or(FALLBACK_KHZ);
    }
    let (mut gate, mut mode, mut counter) = (
        Port::<u8>::new(0x61),
        Port::<u8>::new(0x43),
        Port::<u8>::new(0x42),
    );
    // SAFETY: channel 2 drives nothing but the speaker, which stays off.
    unsafe {
        let before = gate.read();
        gate.write((before & !0b10) | 0b01);
        // Channel 2, low byte then high byte, one shot.
        mode.write(0xb0);
        counter.write(TICKS as u8);
        counter.write((TICKS >> 8) as u8);
        let start = read_tsc();
        let mut patience = 10_000_000_u32;
        while gate.read() & 0x20 == 0 && patience > 0 {
            patience -= 1;
        }
        let elapsed = read_tsc().wrapping_sub(start);
        gate.write(before);
        if patience == 0 {
            return FALLBACK_KHZ;
        }
        u32::try_from(elapsed * PIT_HZ / TICKS / 1000)
            .unwrap_or(FALLBACK_KHZ)
            .max(1)
    }
}
