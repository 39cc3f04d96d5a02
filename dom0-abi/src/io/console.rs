//! The console page. ABI: `public/io/console.h`.

use crate::record::abi_structs;

abi_structs! {
    /// Two rings of bytes. Indices run freely; their remainder by the ring's size is the place.
    pub struct ConsoleInterface = "struct xencons_interface", 3088 {
        /// To the guest.
        pub input: [u8; 1024] = "in",
        /// From the guest.
        pub output: [u8; 2048] = "out",
        /// Read by the guest.
        pub in_cons: u32,
        /// Written for the guest.
        pub in_prod: u32,
        /// Read from the guest.
        pub out_cons: u32,
        /// Written by the guest.
        pub out_prod: u32,
    }
}
