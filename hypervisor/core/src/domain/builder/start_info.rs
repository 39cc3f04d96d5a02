//! The page that a kernel finds at its start: start_info, and behind it what is known of the screen.
//!
//! ABI: `public/xen.h`, `start_info` and `dom0_vga_console_info`.

use dom0_abi::addr::{Maddr, Mfn, Pfn};
use dom0_abi::ids::Port;
use dom0_abi::xen::{
    ConsoleDomU, Dom0VgaConsoleInfo, START_INFO_MAGIC, StartFlags, StartInfo, TextMode3, VesaLfb,
    VideoType,
};
use oxen_arch::boot::Screen;
use oxen_arch::memory::{BadFrame, PhysMem};

use super::layout::{Layout, P2mPlace, PfnRange};

/// Who set up the framebuffer that dom0 may find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firmware {
    /// A BIOS, by VESA.
    Bios,
    /// EFI.
    Efi,
}

/// What start_info says beyond the layout.
pub(super) struct Contents<'a> {
    pub layout: &'a Layout,
    pub shared_info: Mfn,
    /// Bytes of the initrd.
    pub initrd_len: Option<u64>,
    pub command_line: &'a str,
    pub screen: Option<Dom0VgaConsoleInfo>,
}

impl Contents<'_> {
    /// Makes `page` the start_info page. It is zero apart from what is said here.
    pub fn write(&self, mem: &PhysMem, page: Mfn) -> Result<(), BadFrame> {
        mem.zero_frame(page)?;
        mem.write(page.start(), &self.start_info())?;
        match &self.screen {
            Some(screen) => mem.write(page.at(size_of::<StartInfo>()), screen),
            None => Ok(()),
        }
    }

    fn start_info(&self) -> StartInfo {
        let layout = self.layout;
        let mut info = StartInfo::zeroed();
        fill(&mut info.magic, START_INFO_MAGIC);
        info.nr_pages = layout.nr_pages;
        info.shared_info = self.shared_info.start().get();
        let mut flags = StartFlags::PRIVILEGED | StartFlags::INITDOMAIN;
        if let (Some(initrd), Some(len)) = (layout.initrd, self.initrd_len) {
            info.mod_len = len;
            info.mod_start = if layout.initrd_behind().is_some() {
                flags |= StartFlags::MOD_START_PFN;
                initrd.start.get()
            } else {
                layout.va(initrd.start)
            };
        }
        info.flags = flags.bits();
        if self.screen.is_some() {
            // For the control domain, the first eight bytes are offset and size of the record.
            let (offset, size) = (size_of::<StartInfo>(), size_of::<Dom0VgaConsoleInfo>());
            info.console = ConsoleDomU {
                mfn: (offset as u64) | ((size as u64) << 32),
                evtchn: Port::new(0),
                _pad0: 0,
            };
        }
        info.pt_base = layout.va(layout.tables.start);
        info.nr_pt_frames = layout.tables.len();
        info.mfn_list = layout.p2m_va();
        // The last byte stays zero.
        let (text, _) = info.cmd_line.split_at_mut(LONGEST_COMMAND_LINE);
        fill(text, self.command_line.as_bytes());
        if let P2mPlace::Apart { list, tables, .. } = layout.p2m {
            let both = PfnRange {
                start: list.start,
                end: tables.end,
            };
            info.first_p2m_pfn = Pfn::get(both.start);
            info.nr_p2m_frames = both.len();
        }
        info
    }
}

/// Bytes of a command line that the kernel gets; what is longer is cut.
pub const LONGEST_COMMAND_LINE: usize = 1023;

/// Copies as much as fits.
fn fill(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// What dom0 is told about the screen; `None` if it cannot be said in the ABI's numbers.
pub fn screen_record(screen: &Screen, firmware: Firmware) -> Option<Dom0VgaConsoleInfo> {
    let mut record = Dom0VgaConsoleInfo::zeroed();
    match *screen {
        Screen::Text { columns, rows, .. } => {
            record.video_type = VideoType::TextMode3.get();
            record.set_variant(&TextMode3 {
                font_height: 16,
                cursor_x: 0,
                cursor_y: 0,
                rows,
                columns,
            });
        }
        Screen::Framebuffer {
            maddr,
            width,
            height,
            pitch,
            bpp,
            masks,
        } => {
            record.video_type = match firmware {
                Firmware::Bios => VideoType::VesaLfb,
                Firmware::Efi => VideoType::EfiLfb,
            }
            .get();
            let [red, green, blue] = masks;
            let used = masks
                .iter()
                .map(|mask| mask.position.saturating_add(mask.size))
                .max()
                .unwrap_or(0);
            let bytes = u64::from(pitch).saturating_mul(u64::from(height));
            let (low, high) = halves(maddr);
            record.set_variant(&VesaLfb {
                width: u16::try_from(width).ok()?,
                height: u16::try_from(height).ok()?,
                bytes_per_line: u16::try_from(pitch).ok()?,
                bits_per_pixel: u16::from(bpp),
                lfb_base: low,
                lfb_size: u32::try_from(bytes.div_ceil(64 << 10)).ok()?,
                red_pos: red.position,
                red_size: red.size,
                green_pos: green.position,
                green_size: green.size,
                blue_pos: blue.position,
                blue_size: blue.size,
                rsvd_pos: used,
                rsvd_size: bpp.saturating_sub(used),
                gbl_caps: 0,
                mode_attrs: 0,
                pad: 0,
                ext_lfb_base: high,
            });
        }
    }
    Some(record)
}

/// The low and the high half of an address.
fn halves(maddr: Maddr) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = maddr.get().to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
#[path = "start_info_tests.rs"]
mod tests;
