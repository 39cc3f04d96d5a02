//! The debug keys: what Oxen does when somebody types to it.

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugKey {
    /// The list of keys.
    Help,
    /// The auditor of memory. Debug builds only.
    #[cfg(debug_assertions)]
    Audit,
    /// Dom0's registers.
    Dom0Registers,
    /// How much memory there is and who has it.
    Memory,
    /// The domains and their vCPUs.
    Domains,
    /// An answer of each CPU.
    Cpus,
    /// A restart of the machine.
    Reboot,
    /// The log ring once more.
    Log,
    /// A fault in the hypervisor.
    Crash,
}

/// All keys with what they do. As far as Xen has such a key, it is the same one.
pub const KEYS: &[(u8, DebugKey, &str)] = &[
    (b'0', DebugKey::Dom0Registers, "registers of dom0"),
    #[cfg(debug_assertions)]
    (
        b'A',
        DebugKey::Audit,
        "audit of all counts and types of memory",
    ),
    (
        b'C',
        DebugKey::Crash,
        "crash the host, to see what a panic shows",
    ),
    (b'R', DebugKey::Reboot, "restart the machine"),
    (b'h', DebugKey::Help, "this list"),
    (
        b'i',
        DebugKey::Cpus,
        "interrupt each CPU, which then says so",
    ),
    (b'l', DebugKey::Log, "the log once more"),
    (b'm', DebugKey::Memory, "memory"),
    (b'q', DebugKey::Domains, "domains and vcpus"),
];

/// What a key asks for, if it is one.
pub fn debug_key(key: u8) -> Option<DebugKey> {
    KEYS.iter()
        .find(|(candidate, ..)| *candidate == key)
        .map(|&(_, key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_once_and_can_be_typed() {
        assert!(KEYS.is_sorted_by(|a, b| a.0 < b.0));
        for &(byte, key, meaning) in KEYS {
            assert!(byte.is_ascii_graphic() && !meaning.is_empty());
            assert_eq!(debug_key(byte), Some(key));
        }
        assert_eq!(debug_key(b'H'), None);
        assert_eq!(debug_key(0), None);
        assert_eq!((0..=u8::MAX).filter_map(debug_key).count(), KEYS.len());
    }
}
