//! The port's connections, and what hosts may say to them.
//!
//! Input: a byte of modes, and a list of steps: commands, data, plain bytes, time, connections that go. Lengths and
//! digests are made right where a step is a PDU. Whatever comes, the answers keep to the rules, each command is answered
//! at most once, and when the hosts are gone the port has nothing left of them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::{ConnectCdw11, connect, property_set};
use doorbell_spec::fabrics::connect::{CNTLID_DYNAMIC, ConnectData, ConnectResult};
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Framing, Rules, Side};
use doorbell_spec::fabrics::pdu::{
    CapsuleResponse, CommonHeader, Digests, H2CData, IcReq, PduFlags, PduType, R2T,
};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::register::{Cc, offset};
use doorbell_subsystem::fabrics::{Limits, Target, Usage};
use doorbell_subsystem::port::tcp::Connection;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Input;
use super::host::put;

const NQN: &str = "nqn.2014-08.org.example:fuzz";
const HOST: &str = "nqn.2014-08.org.example:host";

/// A host's end.
struct Link {
    connection: Connection,
    framing: Framing,
    initialized: bool,
    /// What the port has sent and nobody has looked at.
    inbox: Vec<u8>,
    /// Commands sent whole and not answered, by identifier.
    open: HashMap<u16, u32>,
    /// Bytes were sent that may be commands, or spoil them.
    wild: bool,
    /// The last R2T.
    asked: Option<R2T>,
    last: CapsuleResponse,
}

impl Link {
    fn new(target: &Arc<Target>, digests: Digests, now: Duration) -> Option<Self> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 4420));
        let mut this = Self {
            connection: Connection::new(target, local, now)?,
            framing: Framing::BARE,
            initialized: false,
            inbox: Vec::new(),
            open: HashMap::new(),
            wild: false,
            asked: None,
            last: CapsuleResponse::new_zeroed(),
        };
        this.send(IcReq::new(digests, 0, 1).as_bytes(), now);
        this.framing =
            Framing { header_digest: digests.header(), data_digest: digests.data(), alignment: 4 };
        Some(this)
    }

    /// Sends bytes, and takes what comes back.
    fn send(&mut self, bytes: &[u8], now: Duration) {
        let mut left = bytes;
        // Ends: each round takes some, or the connection takes no more.
        loop {
            let room = self.connection.room();
            let count = room.len().min(left.len());
            let (these, rest) = left.split_at(count);
            room[..count].copy_from_slice(these);
            self.connection.received(count);
            left = rest;
            self.work(now);
            if left.is_empty() || self.connection.is_ended() {
                return;
            }
        }
    }

    fn work(&mut self, now: Duration) {
        for round in 0.. {
            assert!(round < 100_000, "the port is never done");
            let work = self.connection.step(now);
            let count = self.connection.transmit_to(&mut self.inbox, usize::MAX);
            if work == 0 && count == 0 {
                break;
            }
        }
        self.read();
    }

    /// What the port says, held to the rules.
    fn read(&mut self) {
        let mut from = 0;
        while let Ok((common, _)) = CommonHeader::read_from_prefix(&self.inbox[from..]) {
            let rules = Rules {
                sender: Side::Controller,
                initialized: self.initialized,
                framing: if self.initialized { self.framing } else { Framing::BARE },
                max_in_capsule: 0,
                max_data: u32::MAX,
            };
            let layout = rules.check(&common).expect("the port keeps to the rules");
            let Some(pdu) = self.inbox[from..].get(..layout.total as usize) else { break };
            from += layout.total as usize;
            let (header, rest) = pdu.split_at(layout.header as usize);
            if layout.header_digest {
                assert_eq!(rest[..4], digest::crc32c(header).to_le_bytes(), "header digest");
            }
            match layout.pdu_type {
                PduType::IC_RESP => self.initialized = true,
                PduType::R2T => self.asked = R2T::read_from_bytes(header).ok(),
                PduType::CAPSULE_RESPONSE => {
                    self.last = CapsuleResponse::read_from_bytes(header).expect("24 bytes");
                    let cid = self.last.cqe.cid;
                    let open = self.open.get_mut(&cid).filter(|open| **open > 0);
                    assert!(open.is_some() || self.wild, "an answer to nothing: {cid}");
                    open.into_iter().for_each(|open| *open -= 1);
                }
                _ => {}
            }
        }
        self.inbox.drain(..from);
    }

    fn command(&mut self, sqe: Sqe, data: &[u8], now: Duration) {
        let common =
            self.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), data.len() as u32);
        let header = [common.as_bytes(), sqe.as_bytes()].concat();
        let mut bytes = Vec::new();
        put(&mut bytes, &common, &header, data);
        *self.open.entry(sqe.cid()).or_default() += 1;
        self.send(&bytes, now);
    }

    fn connect(&mut self, qid: u16, cntlid: u16, now: Duration) {
        let queue = ConnectCdw11::new().with_sqsize_z(7).with_no_flow_control(qid % 2 == 1);
        let data = ConnectData::new([9; 16], cntlid, NQN, HOST);
        let sqe = connect(qid, queue, 2000).with_sgl(Sgl::in_capsule(1024)).with_cid(1000);
        self.command(sqe, data.as_bytes(), now);
    }
}

/// What must hold for any steps.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mode = input.byte();
    let digests = Digests::from_bits(mode & 3);
    let mut now = Duration::from_secs(1);
    let namespace = NamespaceSpec::memory(1 << 20, 512).open().expect("memory");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    let limits = Limits { connections: 8, io_queues: 4, ..Limits::default() };
    let target = Target::new(subsystem, limits).expect("an NQN");
    let mut links: Vec<Link> = Vec::new();
    let mut cntlid = CNTLID_DYNAMIC;
    if mode & 4 == 0 {
        // An admin queue and an I/O queue of an enabled controller.
        let mut admin = Link::new(&target, digests, now).expect("room");
        admin.connect(0, CNTLID_DYNAMIC, now);
        assert!(admin.last.cqe.status().is_success(), "Connect");
        cntlid = ConnectResult::from(admin.last.cqe.dw0).cntlid();
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true).into_bits();
        let enable = property_set(offset::CC as u32, 4, cc.into()).with_sgl(Sgl::transport(0));
        admin.command(enable.with_cid(1001), &[], now);
        let mut io = Link::new(&target, digests, now).expect("room");
        io.connect(1, cntlid, now);
        links.extend([admin, io]);
    }
    while !input.0.is_empty() {
        let step = input.byte();
        let which = usize::from(step >> 4) % links.len().max(1);
        if step & 15 == 0 || links.is_empty() {
            if let Some(mut link) = Link::new(&target, digests, now) {
                link.connect(u16::from(step >> 4), cntlid, now);
                links.push(link);
            } else {
                assert!(links.len() >= 7, "room for 8");
            }
            // Ones that have ended are gone.
            links.retain(|link| !link.connection.is_ended());
            continue;
        }
        let link = &mut links[which];
        match step & 15 {
            1..=5 => {
                let (opcode, nsid) = (input.byte(), u32::from(input.byte() & 3));
                let (low, high, len) = (input.half(), input.half(), input.half() & 0x1fff);
                let sqe = Sqe::new(opcode).with_nsid(nsid).with_cid(u16::from(step));
                let mut sqe = sqe.with_slba(low.into()).with_nlb_z(high & 0x1f);
                if step & 1 == 0 {
                    sqe.cdw10 = u32::from(low) | u32::from(high) << 16;
                }
                let inline = step & 15 == 1;
                let sgl =
                    if inline { Sgl::in_capsule(len.into()) } else { Sgl::transport(len.into()) };
                let data = vec![step; if inline { len.into() } else { 0 }];
                link.command(sqe.with_sgl(sgl), &data, now);
            }
            6 | 7 => {
                // The data of an R2T: those asked for, or others.
                let (at, len) = (u32::from(input.half()), u32::from(input.half()).max(1));
                let asked = link.asked.filter(|_| step & 1 == 0);
                let (cid, ttag, from, len) = match asked {
                    Some(r2t) => (
                        r2t.cccid.get(),
                        r2t.ttag.get(),
                        r2t.r2to.get(),
                        r2t.r2tl.get().clamp(1, 128 << 10),
                    ),
                    None => (at as u16 & 7, (at >> 3) as u16 & 7, at, len),
                };
                let flags = PduFlags::new().with_last(asked.is_some() || at & 1 == 0);
                let common = link.framing.header(PduType::H2C_DATA, flags, len);
                let header = H2CData::new(common, cid, ttag, from, len);
                let mut bytes = Vec::new();
                put(&mut bytes, &common, header.as_bytes(), &vec![step; len as usize]);
                link.send(&bytes, now);
            }
            8 | 9 => {
                link.wild = true;
                let count = usize::from(input.byte());
                let bytes = input.bytes(count).to_vec();
                link.send(&bytes, now);
            }
            10 => {
                now += Duration::from_millis(100 * u64::from(input.byte()));
                for link in &mut links {
                    link.connection.tick(now);
                    link.work(now);
                }
            }
            11 => {
                let set = property_set(u32::from(input.byte()), 4, input.half().into());
                link.command(set.with_sgl(Sgl::transport(0)).with_cid(u16::from(step)), &[], now);
            }
            12 => {
                let mut link = links.swap_remove(which);
                link.connection.closed();
            }
            _ => link.work(now),
        }
    }
    for mut link in links {
        link.connection.closed();
    }
    let usage = target.usage();
    assert_eq!(usage, Usage { refused: usage.refused, ..Usage::default() }, "something is left");
}
