//! Every call of the table through the same entry as a guest's: results, errors, what stays as it was.

mod at_once;
mod budget;
mod callbacks;
mod entry;
mod hostile;
mod multicall;
mod platform;
mod sched;
mod state;
mod vcpu_op;
mod version;
