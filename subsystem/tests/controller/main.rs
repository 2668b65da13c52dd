//! A host drives a controller through its registers, rings and doorbells.

#[cfg(feature = "fault-file")]
mod acts;
mod admin;
mod bringup;
mod faults;
mod host;
mod interrupts;
mod io;
mod model;
mod namespaces;
#[cfg(feature = "fault-file")]
mod plans;
mod port;
mod queues;
#[allow(dead_code, reason = "shared with the benchmark")]
mod ram;
mod random;
mod registers;
mod shadow;

use std::sync::Arc;

use doorbell_subsystem::{NamespaceSpec, Subsystem};

/// A subsystem with these namespaces.
fn subsystem(specs: &[&str]) -> Arc<Subsystem> {
    specs
        .iter()
        .fold(Subsystem::builder(), |builder, spec| {
            let spec: NamespaceSpec = spec.parse().expect(spec);
            builder.namespace(spec.open().expect("namespace"))
        })
        .build()
}
