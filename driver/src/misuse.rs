//! What must not compile, each beside what must: the compiler, not a rule in a document, keeps memory under DMA, queues
//! and threads apart. Only documentation tests see this file.
//!
//! # A buffer given to a queue is gone until its completion
//! ```
//! fn read(queue: &mut doorbell::Queue, namespace: &doorbell::Namespace, buffer: doorbell::Buffer) {
//!     let first = buffer[0];
//!     queue.stage(namespace.read(0, buffer)).unwrap();
//!     println!("{first}");
//! }
//! ```
//! ```compile_fail,E0382
//! fn read(queue: &mut doorbell::Queue, namespace: &doorbell::Namespace, buffer: doorbell::Buffer) {
//!     queue.stage(namespace.read(0, buffer)).unwrap();
//!     println!("{}", buffer[0]);
//! }
//! ```
//! Nor does a part of it outlive the call.
//! ```compile_fail,E0505
//! fn read(queue: &mut doorbell::Queue, namespace: &doorbell::Namespace, buffer: doorbell::Buffer) {
//!     let part = &buffer[..512];
//!     queue.stage(namespace.read(0, buffer)).unwrap();
//!     println!("{}", part[0]);
//! }
//! ```
//! It has one owner.
//! ```compile_fail,E0308
//! fn copy(buffer: &doorbell::Buffer) -> doorbell::Buffer {
//!     buffer.clone()
//! }
//! ```
//!
//! # A command is sent once
//! ```
//! fn send(queue: &mut doorbell::Queue, io: doorbell::Io) {
//!     // What was not staged comes back.
//!     if let Err(rejected) = queue.stage(io) {
//!         queue.stage(rejected.io).unwrap();
//!     }
//! }
//! ```
//! ```compile_fail,E0382
//! fn send(queue: &mut doorbell::Queue, io: doorbell::Io) {
//!     queue.stage(io).unwrap();
//!     queue.stage(io).unwrap();
//! }
//! ```
//!
//! # A queue belongs to one thread at a time
//! ```
//! fn hand_over(mut queue: doorbell::Queue) {
//!     std::thread::spawn(move || queue.poll(|_| ()));
//! }
//! ```
//! ```compile_fail,E0499
//! fn share(queue: &mut doorbell::Queue) {
//!     std::thread::scope(|scope| {
//!         scope.spawn(|| queue.poll(|_| ()));
//!         scope.spawn(|| queue.poll(|_| ()));
//!     });
//! }
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<doorbell::Queue>();
//! ```
//! The futures of a queue stay on its thread.
//! ```compile_fail,E0277
//! fn hand_over(queue: doorbell::SharedQueue) {
//!     std::thread::spawn(move || queue.poll());
//! }
//! ```
//! Other threads have senders of their own, which do not share one either.
//! ```
//! fn each_its_own(mailbox: &doorbell::queue::Mailbox) {
//!     let (mut one, mut two) = (mailbox.sender(8), mailbox.sender(8));
//!     std::thread::scope(|scope| {
//!         scope.spawn(move || one.poll(|_| ()));
//!         scope.spawn(move || two.poll(|_| ()));
//!     });
//! }
//! ```
//! ```compile_fail,E0499
//! fn share(sender: &mut doorbell::queue::Sender) {
//!     std::thread::scope(|scope| {
//!         scope.spawn(|| sender.poll(|_| ()));
//!         scope.spawn(|| sender.poll(|_| ()));
//!     });
//! }
//! ```
//!
//! # Memory of the application belongs to the driver while it is registered
//! ```compile_fail,E0382
//! fn register(memory: &std::sync::Arc<doorbell::DmaMemory>, mapping: memmap2::MmapMut) {
//!     let buffer = memory.register(mapping).unwrap();
//!     println!("{}", mapping[0]);
//!     drop(buffer);
//! }
//! ```
//! To map memory for a device is a promise, so it takes `unsafe`.
//! ```compile_fail,E0133
//! fn map(device: &dyn doorbell::device::Device, range: doorbell::device::DmaRange<'_>) {
//!     device.map_dma(range).unwrap();
//! }
//! ```
