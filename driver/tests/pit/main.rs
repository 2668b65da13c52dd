//! Sixty devices that misbehave, PIT-01 to PIT-60: the whole driver over a stepped device with a plan of faults.
//!
//! Time is virtual and everything runs on one thread, so each test is the same every time. [`bench::Bench`] holds what
//! they share; its ledger says that every command completed exactly once, and that memory stayed with the device as long
//! as the device could reach it.

mod bench;
mod bringup;
mod change;
mod completion;
mod event;
mod geometry;
mod identity;
mod probe;
mod queues;
mod quirk;
mod recovery;
mod removal;
mod retry;
mod spy;
