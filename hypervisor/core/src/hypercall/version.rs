//! `xen_version`: what the hypervisor says about itself.

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};
use dom0_abi::arch::HYPERVISOR_VIRT_START;
use dom0_abi::errno::Errno;
use dom0_abi::features::Feature;
use dom0_abi::version::{
    BuildId, Capabilities as CapabilityText, Changeset, CommandLine, CompileInfo, Extraversion,
    FeatureInfo, PlatformParameters, VersionCommand,
};
use dom0_abi::xen::VmAssist;

use super::{CallCtx, HypercallResult, Reply};
use crate::domain::Capabilities;
use crate::guest_access::GuestPtr;
use crate::version;

/// What a domain reads instead of a text that is not for it.
const DENIED: &str = "<denied>";

/// Answers one question.
///
/// `ENOSYS`: no such question. `EFAULT`: the answer could not be written, or a question's argument not read. `EINVAL`: no
/// such group of features, or an argument with a question that takes none. `EPERM`: the build id is asked for by a domain that controls nothing; `ENODATA`: there is none.
/// ABI: `public/version.h`, `XENVER_*`.
#[inline(never)]
pub fn xen_version(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    match VersionCommand::try_from(command as u32).map_err(|_| Errno::ENOSYS)? {
        VersionCommand::Version => return Ok(Reply::Value(u64::from(version::packed()))),
        VersionCommand::PageSize if arg.get() != 0 => return Err(Errno::EINVAL),
        VersionCommand::PageSize => return Ok(Reply::Value(PAGE_SIZE as u64)),
        VersionCommand::Extraversion => {
            let answer = Extraversion {
                text: text(version::EXTRA),
            };
            GuestPtr::new(arg).write(ctx.cpu, &answer)?;
        }
        VersionCommand::CompileInfo => {
            let answer = CompileInfo {
                compiler: text(version::COMPILER),
                compile_by: text(version::COMPILE_BY),
                compile_domain: text(version::COMPILE_DOMAIN),
                compile_date: text(version::COMPILE_DATE),
            };
            GuestPtr::new(arg).write(ctx.cpu, &answer)?;
        }
        VersionCommand::Capabilities => {
            let answer = CapabilityText {
                text: text(version::CAPABILITIES),
            };
            GuestPtr::new(arg).write(ctx.cpu, &answer)?;
        }
        VersionCommand::Changeset => {
            let answer = Changeset {
                text: text(version::CHANGESET),
            };
            GuestPtr::new(arg).write(ctx.cpu, &answer)?;
        }
        VersionCommand::PlatformParameters => {
            let answer = PlatformParameters {
                virt_start: HYPERVISOR_VIRT_START,
            };
            GuestPtr::new(arg).write(ctx.cpu, &answer)?;
        }
        VersionCommand::GetFeatures => {
            let place = GuestPtr::new(arg);
            let mut answer: FeatureInfo = place.read(ctx.cpu)?;
            if answer.submap_idx != 0 {
                return Err(Errno::EINVAL);
            }
            answer.submap = features(ctx);
            place.write(ctx.cpu, &answer)?;
        }
        VersionCommand::GuestHandle => {
            GuestPtr::new(arg).write(ctx.cpu, &ctx.domain.handle)?;
        }
        VersionCommand::CommandLine if ctx.is_control() => {
            let answer = CommandLine {
                text: text(ctx.host.command_line()),
            };
            GuestPtr::new(arg).write(ctx.cpu, &answer)?;
        }
        VersionCommand::CommandLine => {
            // Exactly the text and its end, not the whole array: so much is all that a denied domain must offer.
            const LEN: usize = DENIED.len().saturating_add(1);
            GuestPtr::new(arg).write(ctx.cpu, &text::<LEN>(DENIED))?;
        }
        VersionCommand::BuildId => return build_id(ctx, arg),
    }
    Ok(Reply::DONE)
}

/// The image carries no build id; the checks that come before that are made all the same.
fn build_id(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    if !ctx.is_control() {
        return Err(Errno::EPERM);
    }
    let place: GuestPtr<BuildId> = GuestPtr::new(arg);
    if !place.is_null() && place.read(ctx.cpu)?.len == 0 {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ENODATA)
}

/// The first group of features, as they hold for the caller. ABI: `public/features.h`, `XENFEAT_*`.
fn features(ctx: &CallCtx<'_>) -> u32 {
    let mut features = Feature::MmuPtUpdatePreserveAd.bit()
        | Feature::HighmemAssist.bit()
        | Feature::GnttabMapAvailBits.bit()
        | Feature::MemoryOpVnodeSupported.bit()
        | Feature::DirectMapped.bit();
    if ctx.domain.assists.contains(VmAssist::PaeExtendedCr3) {
        features |= Feature::PaePgdirAbove4gb.bit();
    }
    if ctx.domain.capabilities.contains(Capabilities::HARDWARE) {
        features |= Feature::Dom0.bit();
    }
    features
}

/// The text as an array that ends with a zero at least; cut if it does not fit.
fn text<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let room = LEN.saturating_sub(1);
    for (byte, from) in bytes.iter_mut().zip(text.bytes().take(room)) {
        *byte = from;
    }
    bytes
}
