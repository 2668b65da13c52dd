//! A host as small as it can be: it builds every PDU by itself and checks every one that comes.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::command::{Direction, Sqe};
use doorbell_spec::completion::Cqe;
use doorbell_spec::fabrics::command::{ConnectCdw11, connect, property_get, property_set};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Framing, Rules, Side, Violation};
use doorbell_spec::fabrics::pdu::{
    C2HData, CapsuleCommand, CapsuleResponse, CommonHeader, Digests, H2CData, IcReq, IcResp,
    PduFlags, PduType, R2T, TermReq,
};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::register::{Cc, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::Connection;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const NQN: &str = "nqn.2014-08.org.example:subsystem";
pub(crate) const HOSTNQN: &str = "nqn.2014-08.org.example:host";
pub(crate) const HOSTID: [u8; 16] = [7; 16];

/// A subsystem with 4 MiB in blocks of 512 bytes and 4 MiB in blocks of 4096.
pub(crate) fn subsystem() -> Arc<Subsystem> {
    let open = |spec: &str| spec.parse::<NamespaceSpec>().expect("spec").open().expect("open");
    Subsystem::builder()
        .nqn(NQN)
        .namespace(open("memory:4MiB"))
        .namespace(open("memory:4MiB,block=4096"))
        .build()
}

pub(crate) fn target(limits: Limits) -> Arc<Target> {
    Target::new(subsystem(), limits).expect("target")
}

/// How a host sets up its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) digests: (bool, bool),
    pub(crate) hpda_z: u8,
    pub(crate) maxr2t_z: u32,
    pub(crate) flow_control: bool,
    pub(crate) kato: u32,
    /// Data of one H2CData.
    pub(crate) h2c: usize,
    /// Bytes that cross at once.
    pub(crate) cut: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            digests: (false, false),
            hpda_z: 0,
            maxr2t_z: 0,
            flow_control: true,
            kato: 0,
            h2c: 128 << 10,
            cut: usize::MAX,
        }
    }
}

/// What came from the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pdu {
    Initialized(Digests, u32),
    Response(Cqe),
    Data { cid: u16, offset: u32, bytes: Vec<u8>, last: bool, success: bool },
    Request { cid: u16, ttag: u16, offset: u32, len: u32 },
    Terminated(Violation, Vec<u8>),
}

/// One connection, with the host's end of it.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) now: Duration,
    pub(crate) options: Options,
    /// How this side frames.
    pub(crate) framing: Framing,
    rules: Rules,
    from: Vec<u8>,
    cid: u16,
}

impl Link {
    /// A connection on which nothing has been said.
    pub(crate) fn new(target: &Arc<Target>, options: Options) -> Self {
        let local = "127.0.0.1:4420".parse().expect("address");
        let now = Duration::from_secs(1000);
        Self {
            connection: Connection::new(target, local, now).expect("admitted"),
            now,
            options,
            framing: Framing::BARE,
            rules: Rules {
                sender: Side::Controller,
                initialized: false,
                framing: Framing::BARE,
                max_in_capsule: 0,
                max_data: 1 << 20,
            },
            from: Vec::new(),
            cid: 0,
        }
    }

    /// As [`Link::new`], and initialized.
    pub(crate) fn open(target: &Arc<Target>, options: Options) -> Self {
        let mut link = Self::new(target, options);
        let (header, data) = options.digests;
        let digests = Digests::new().with_header(header).with_data(data);
        link.send(IcReq::new(digests, options.hpda_z, options.maxr2t_z).as_bytes());
        assert_eq!(link.take(), [Pdu::Initialized(digests, 128 << 10)]);
        link
    }

    /// As [`Link::open`], and connected as queue `qid` of `cntlid`.
    pub(crate) fn connect(target: &Arc<Target>, options: Options, qid: u16, cntlid: u16) -> Self {
        let mut link = Self::open(target, options);
        let data = ConnectData::new(HOSTID, cntlid, NQN, HOSTNQN);
        let cqe = link.say_connect(qid, 31, &data);
        assert_eq!(cqe.status(), Status::SUCCESS);
        assert_eq!(cqe.sqid, qid);
        link
    }

    pub(crate) fn say_connect(&mut self, qid: u16, sqsize_z: u16, data: &ConnectData) -> Cqe {
        let queue = ConnectCdw11::new()
            .with_sqsize_z(sqsize_z)
            .with_no_flow_control(!self.options.flow_control);
        let sqe = connect(qid, queue, self.options.kato).with_sgl(Sgl::in_capsule(1024));
        self.call(sqe, data.as_bytes()).0
    }

    /// Lets the bytes cross, in portions, and collects what comes back.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        loop {
            let (now, later) = bytes.split_at(bytes.len().min(self.options.cut));
            let room = self.connection.room();
            let fits = now.len().min(room.len());
            room[..fits].copy_from_slice(&now[..fits]);
            self.connection.received(fits);
            bytes = &bytes[fits..];
            let work = self.run();
            assert!(fits != 0 || now.is_empty() || work || self.connection.is_ended(), "stuck");
            if later.is_empty() && bytes.is_empty() || self.connection.is_ended() {
                return;
            }
        }
    }

    /// Steps until nothing happens any more; whether anything did.
    pub(crate) fn run(&mut self) -> bool {
        let mut any = false;
        loop {
            let work = self.connection.step(self.now);
            let len = self.connection.transmit_to(&mut self.from, self.options.cut);
            if work == 0 && len == 0 {
                return any;
            }
            any = true;
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.connection.tick(self.now);
        self.run();
    }

    /// Every whole PDU that has come, checked.
    pub(crate) fn take(&mut self) -> Vec<Pdu> {
        let mut pdus = Vec::new();
        while let Ok((common, _)) = CommonHeader::read_from_prefix(&self.from) {
            let layout = self.rules.check(&common).expect("a good PDU");
            if self.from.len() < layout.total as usize {
                break;
            }
            let pdu: Vec<u8> = self.from.drain(..layout.total as usize).collect();
            if layout.header_digest {
                let head = &pdu[..layout.header as usize];
                let given = u32::read_from_prefix(&pdu[layout.header as usize..]).expect("4").0;
                assert_eq!(given, digest::crc32c(head), "header digest");
            }
            let data = &pdu[layout.data_at as usize..][..layout.data as usize];
            if layout.data_digest {
                let at = (layout.data_at + layout.data) as usize;
                let given = u32::read_from_prefix(&pdu[at..]).expect("4").0;
                assert_eq!(given, digest::crc32c(data), "data digest");
            }
            pdus.push(match common.pdu_type {
                PduType::IC_RESP => {
                    let response = IcResp::read_from_bytes(&pdu).expect("128 bytes");
                    response.check().expect("a good ICResp");
                    let digests = response.dgst;
                    let framing = Framing {
                        header_digest: digests.header(),
                        data_digest: digests.data(),
                        alignment: 4 * (u32::from(response.cpda_z) + 1),
                    };
                    self.framing = framing;
                    let alignment = 4 * (u32::from(self.options.hpda_z) + 1);
                    self.rules.framing = Framing { alignment, ..framing };
                    self.rules.initialized = true;
                    Pdu::Initialized(digests, response.maxh2cdata.get())
                }
                PduType::CAPSULE_RESPONSE => {
                    let response = CapsuleResponse::read_from_prefix(&pdu).expect("24 bytes").0;
                    assert!(!response.cqe.phase());
                    Pdu::Response(response.cqe)
                }
                PduType::C2H_DATA => {
                    let header = C2HData::read_from_prefix(&pdu).expect("24 bytes").0;
                    assert_eq!(header.datal.get() as usize, data.len());
                    Pdu::Data {
                        cid: header.cccid.get(),
                        offset: header.datao.get(),
                        bytes: data.to_vec(),
                        last: common.flags.last(),
                        success: common.flags.success(),
                    }
                }
                PduType::R2T => {
                    let r2t = R2T::read_from_prefix(&pdu).expect("24 bytes").0;
                    Pdu::Request {
                        cid: r2t.cccid.get(),
                        ttag: r2t.ttag.get(),
                        offset: r2t.r2to.get(),
                        len: r2t.r2tl.get(),
                    }
                }
                PduType::C2H_TERM_REQ => {
                    let term = TermReq::read_from_prefix(&pdu).expect("24 bytes").0;
                    Pdu::Terminated(term.violation(), data.to_vec())
                }
                other => panic!("{other}"),
            });
        }
        pdus
    }

    /// A PDU with `header` behind `common` and `data`, with the digests that `common` says.
    pub(crate) fn frame(&self, header: &[u8], common: &CommonHeader, data: &[u8]) -> Vec<u8> {
        let mut pdu = header.to_vec();
        if common.flags.hdgst() {
            pdu.extend_from_slice(&digest::crc32c(header).to_le_bytes());
        }
        if !data.is_empty() {
            pdu.resize(usize::from(common.pdo), 0);
            pdu.extend_from_slice(data);
            if common.flags.ddgst() {
                pdu.extend_from_slice(&digest::crc32c(data).to_le_bytes());
            }
        }
        assert_eq!(pdu.len(), common.plen.get() as usize);
        pdu
    }

    /// A command capsule.
    pub(crate) fn capsule(&self, sqe: Sqe, data: &[u8]) -> Vec<u8> {
        let flags = PduFlags::new();
        let common = self.framing.header(PduType::CAPSULE_COMMAND, flags, data.len() as u32);
        self.frame(CapsuleCommand { common, sqe }.as_bytes(), &common, data)
    }

    /// One H2CData.
    pub(crate) fn h2c(&self, cid: u16, ttag: u16, at: u32, data: &[u8], last: bool) -> Vec<u8> {
        let flags = PduFlags::new().with_last(last);
        let common = self.framing.header(PduType::H2C_DATA, flags, data.len() as u32);
        let header = H2CData::new(common, cid, ttag, at, data.len() as u32);
        self.frame(header.as_bytes(), &common, data)
    }

    /// The next command identifier.
    pub(crate) fn cid(&mut self) -> u16 {
        self.cid = self.cid.wrapping_add(1);
        self.cid
    }

    /// Sends a command whose data is in the capsule, if its descriptor says so, and waits for its completion. Answers
    /// R2Ts from `data`; returns what was read.
    pub(crate) fn call(&mut self, sqe: Sqe, data: &[u8]) -> (Cqe, Vec<u8>) {
        let cid = self.cid();
        let sqe = sqe.with_cid(cid);
        let fctype = if sqe.is_fabrics() { sqe.fctype().0 } else { sqe.opcode() };
        let out = Direction::of_opcode(fctype) == Direction::ToController;
        let in_capsule = out && sqe.sgl().id == doorbell_spec::fabrics::sgl::SglId::IN_CAPSULE;
        let capsule = self.capsule(sqe, if in_capsule { data } else { &[] });
        self.send(&capsule);
        let mut read = vec![0; if out { 0 } else { sqe.sgl().length as usize }];
        let mut next = 0;
        loop {
            let pdus = self.take();
            assert!(!pdus.is_empty(), "{sqe:?} goes on");
            for pdu in pdus {
                match pdu {
                    Pdu::Response(cqe) if cqe.cid == cid => return (cqe, read),
                    Pdu::Data { cid: of, offset, bytes, last, success } => {
                        assert_eq!((of, offset), (cid, next));
                        let at = offset as usize;
                        read[at..at + bytes.len()].copy_from_slice(&bytes);
                        next += bytes.len() as u32;
                        if success {
                            assert!(last && !self.options.flow_control);
                            return (Cqe { cid, ..Cqe::default() }, read);
                        }
                    }
                    Pdu::Request { cid: of, ttag, offset, len } => {
                        assert_eq!(of, cid);
                        self.answer(cid, ttag, offset, &data[offset as usize..][..len as usize]);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Sends the data that an R2T asks for, in as many PDUs as the options say.
    pub(crate) fn answer(&mut self, cid: u16, ttag: u16, offset: u32, data: &[u8]) {
        let mut at = 0;
        for part in data.chunks(self.options.h2c) {
            let last = at + part.len() == data.len();
            let pdu = self.h2c(cid, ttag, offset + at as u32, part, last);
            self.send(&pdu);
            at += part.len();
        }
    }

    /// A command that reads into `len` bytes.
    pub(crate) fn read(&mut self, sqe: Sqe, len: u32) -> (Cqe, Vec<u8>) {
        self.call(sqe.with_sgl(Sgl::transport(len)), &[])
    }

    /// A command with data in its capsule.
    pub(crate) fn write(&mut self, sqe: Sqe, data: &[u8]) -> Cqe {
        self.call(sqe.with_sgl(Sgl::in_capsule(data.len() as u32)), data).0
    }

    /// A command whose data the controller asks for.
    pub(crate) fn write_r2t(&mut self, sqe: Sqe, data: &[u8]) -> Cqe {
        self.call(sqe.with_sgl(Sgl::transport(data.len() as u32)), data).0
    }

    pub(crate) fn property(&mut self, at: u64, size: u8) -> u64 {
        let (cqe, _) = self.call(property_get(at as u32, size), &[]);
        assert_eq!(cqe.status(), Status::SUCCESS);
        cqe.result()
    }

    /// Sets CC.EN.
    pub(crate) fn enable(&mut self) {
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
        let set = property_set(offset::CC as u32, 4, cc.into_bits().into());
        assert_eq!(self.call(set, &[]).0.status(), Status::SUCCESS);
        assert_eq!(self.property(offset::CSTS, 4), 1);
    }
}

/// An admin queue and an I/O queue of an enabled controller.
pub(crate) fn attach(target: &Arc<Target>, options: Options) -> (Link, Link) {
    let mut admin = Link::open(target, options);
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let cqe = admin.say_connect(0, 31, &data);
    assert_eq!(cqe.status(), Status::SUCCESS);
    admin.enable();
    let cntlid = cqe.dw0 as u16;
    (admin, Link::connect(target, options, 1, cntlid))
}
