//! The doors through which hosts reach a controller. Each owns the controller's thread and its clock.

pub mod in_process;
mod running;
pub mod tcp;
pub mod vfio_user;

pub use running::{Running, Stop};
