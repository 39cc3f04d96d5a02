//! The version of the ABI's tools and guests that Oxen answers to: the one place that states it.

/// Major version. ABI: `public/version.h`, `XENVER_version`, upper half.
pub const MAJOR: u16 = 4;
/// Minor version. ABI: `public/version.h`, `XENVER_version`, lower half.
pub const MINOR: u16 = 17;
/// What follows major and minor. ABI: `public/version.h`, `XENVER_extraversion`.
pub const EXTRA: &str = ".7";

/// Both numbers as `XENVER_version` and CPUID leaf 0x40000001 carry them.
pub const fn packed() -> u32 {
    ((MAJOR as u32) << 16) | MINOR as u32
}

#[cfg(test)]
mod tests {
    #[test]
    fn packed_as_the_tools_expect() {
        assert_eq!(super::packed(), 0x0004_0011);
    }
}
