//! The head of a page of requests and responses. ABI: `public/io/ring.h`.

use crate::addr::PAGE_SIZE;
use crate::record::abi_structs;

abi_structs! {
    /// The first 64 bytes of a ring; the entries follow. Indices run freely; their remainder by the number of entries
    /// is the place.
    pub struct RingHeader = "struct bare_sring", 64 {
        /// Requests written.
        pub req_prod: u32,
        /// Number of written requests from which on the backend wants an event.
        pub req_event: u32,
        /// Responses written.
        pub rsp_prod: u32,
        /// Number of written responses from which on the frontend wants an event.
        pub rsp_event: u32,
        /// Private to one kind of device.
        pub pvt: [u8; 4],
        /// Nothing.
        pub _pad: [u8; 44],
    }
}

/// The entries in a ring of 2^`page_order` pages when each takes `entry_size` bytes, the larger of request and
/// response: the greatest power of two that fits. 0 if none does.
pub const fn ring_entries(entry_size: usize, page_order: u32) -> u32 {
    let Some(bytes) = PAGE_SIZE.checked_shl(page_order) else {
        return 0;
    };
    let room = bytes.saturating_sub(size_of::<RingHeader>());
    match room.checked_div(entry_size) {
        None | Some(0) => 0,
        Some(count) => 1 << count.ilog2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::blkif;
    use crate::io::netif;

    #[test]
    fn rings_hold_the_entries_that_the_protocols_say() {
        assert_eq!(ring_entries(size_of::<blkif::Request>(), 0), 32);
        assert_eq!(ring_entries(size_of::<blkif::Request>(), 4), 512);
        assert_eq!(ring_entries(size_of::<netif::TxRequest>(), 0), 256);
        assert_eq!(ring_entries(size_of::<netif::RxResponse>(), 0), 256);
        assert_eq!(ring_entries(5000, 0), 0);
        assert_eq!(ring_entries(0, 0), 0);
    }
}
