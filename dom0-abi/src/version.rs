//! What the hypervisor says about itself. ABI: `public/version.h`.

use crate::record::{Group, abi_enum, abi_structs};

abi_enum! {
    /// A command of `xen_version`.
    pub enum VersionCommand: u32 {
        /// Major and minor version, as the return value.
        Version = 0 => "XENVER_version",
        /// [`Extraversion`].
        Extraversion = 1 => "XENVER_extraversion",
        /// [`CompileInfo`].
        CompileInfo = 2 => "XENVER_compile_info",
        /// [`Capabilities`].
        Capabilities = 3 => "XENVER_capabilities",
        /// [`Changeset`].
        Changeset = 4 => "XENVER_changeset",
        /// [`PlatformParameters`].
        PlatformParameters = 5 => "XENVER_platform_parameters",
        /// [`FeatureInfo`].
        GetFeatures = 6 => "XENVER_get_features",
        /// Bytes in a page, as the return value.
        PageSize = 7 => "XENVER_pagesize",
        /// The calling domain's [`DomainHandle`](crate::ids::DomainHandle).
        GuestHandle = 8 => "XENVER_guest_handle",
        /// [`CommandLine`].
        CommandLine = 9 => "XENVER_commandline",
        /// [`BuildId`] and the bytes behind it.
        BuildId = 10 => "XENVER_build_id",
    }
}

/// The interface version that the returned number encodes: major in bits 16-31, minor in bits 0-15.
pub const fn version_number(major: u16, minor: u16) -> u32 {
    ((major as u32) << 16) | minor as u32
}

abi_structs! {
    /// The rest of the version, as text ended by zero.
    pub struct Extraversion = "xen_extraversion_t", 16 {
        /// The text.
        pub text: [u8; 16] = "*",
    }

    /// Who compiled the hypervisor with what, each as text ended by zero.
    pub struct CompileInfo = "struct xen_compile_info", 144 {
        /// Compiler.
        pub compiler: [u8; 64],
        /// User.
        pub compile_by: [u8; 16],
        /// Host.
        pub compile_domain: [u8; 32],
        /// Date.
        pub compile_date: [u8; 32],
    }

    /// Kinds of guests that can run, separated by blanks, ended by zero.
    pub struct Capabilities = "xen_capabilities_info_t", 1024 {
        /// The text.
        pub text: [u8; 1024] = "*",
    }

    /// Source revision, as text ended by zero.
    pub struct Changeset = "xen_changeset_info_t", 64 {
        /// The text.
        pub text: [u8; 64] = "*",
    }

    /// Where the hypervisor's part of the address space begins.
    pub struct PlatformParameters = "struct xen_platform_parameters", 8 {
        /// Virtual address.
        pub virt_start: u64,
    }

    /// 32 of the [features](crate::features).
    pub struct FeatureInfo = "struct xen_feature_info", 8 {
        /// In: which 32.
        pub submap_idx: u32,
        /// Out: one bit each.
        pub submap: u32,
    }

    /// The hypervisor's command line, ended by zero.
    pub struct CommandLine = "xen_commandline_t", 1024 {
        /// The text.
        pub text: [u8; 1024] = "*",
    }

    /// The build's identifier: this header, then the bytes.
    pub struct BuildId = "struct xen_build_id", 4 {
        /// In: bytes that fit behind this header.
        pub len: u32,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[VersionCommand::CONSTANTS];
