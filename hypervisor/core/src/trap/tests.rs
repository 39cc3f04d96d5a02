//! Traps through the same entries as a guest's: frames to the byte, which exceptions are whose, and the way back.

mod bounce;
mod dispatch;
mod iret;
mod return_path;
