//! A host drives a controller through its registers, rings and doorbells.

mod bringup;
mod host;
mod queues;
mod ram;
mod random;
mod registers;

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
