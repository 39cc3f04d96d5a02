//! The version of the ABI's tools and guests that Oxen answers to: the one place that states it.

/// Major version. ABI: `public/version.h`, `XENVER_version`, upper half.
pub const MAJOR: u16 = 4;
/// Minor version. ABI: `public/version.h`, `XENVER_version`, lower half.
pub const MINOR: u16 = 17;
/// What follows major and minor. ABI: `public/version.h`, `XENVER_extraversion`.
pub const EXTRA: &str = ".7";

/// The kinds of guests that run here, each followed by a blank. ABI: `public/version.h`, `XENVER_capabilities`.
pub const CAPABILITIES: &str = "xen-3.0-x86_64 ";
/// Where this source comes from. ABI: `public/version.h`, `XENVER_changeset`.
pub const CHANGESET: &str = concat!("oxen ", env!("CARGO_PKG_VERSION"));
/// What compiled it. ABI: `public/version.h`, `XENVER_compile_info`.
pub const COMPILER: &str = "rustc";
/// Who compiled it.
pub const COMPILE_BY: &str = "oxen";
/// Where it was compiled: not told, so that the same source gives the same image everywhere.
pub const COMPILE_DOMAIN: &str = "";
/// When it was compiled: not told, for the same reason.
pub const COMPILE_DATE: &str = "";

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
