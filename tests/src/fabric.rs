//! A small NVMe/TCP host of its own, one command at a time: it shares the codec with the driver, and nothing else.
//!
//! What it sends can be wrong on purpose: [`Link::send`] takes any header. What it receives must be right, or the test
//! ends here.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::fabrics::command::{self, ConnectCdw11};
use doorbell_spec::fabrics::connect::{CNTLID_DYNAMIC, ConnectData, ConnectResult};
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Framing, Rules, Side, Violation};
use doorbell_spec::fabrics::pdu::{
    C2HData, CapsuleResponse, CommonHeader, Digests, H2CData, IcReq, IcResp, PduFlags, PduType,
    R2T, TermReq,
};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::register::{Cc, Csts, offset};
use doorbell_spec::status::Status;
use zerocopy::{FromBytes, IntoBytes};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Data that goes into a capsule, where the command takes so much: what every port takes on every queue.
const IN_CAPSULE: usize = 4096;

/// One connection, which is one queue.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: TcpStream,
    /// How both sides frame.
    pub framing: Framing,
    /// MAXH2CDATA.
    pub max_h2c: u32,
    cid: u16,
}

/// A PDU that came.
#[derive(Debug)]
pub struct Pdu {
    /// Its type.
    pub kind: PduType,
    /// FLAGS.
    pub flags: PduFlags,
    /// HLEN bytes.
    pub header: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
}

impl Pdu {
    /// Its header as a structure.
    ///
    /// # Panics
    /// If it has another length.
    #[must_use]
    pub fn read<T: FromBytes>(&self) -> T {
        T::read_from_bytes(&self.header).expect("a header of that type")
    }

    /// What a TermReq complains about.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn violation(&self) -> Violation {
        assert_eq!(self.kind, PduType::C2H_TERM_REQ);
        self.read::<TermReq>().violation()
    }
}

impl Link {
    /// Connects the socket; nothing is sent.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, framing: Framing::BARE, max_h2c: 0, cid: 0 })
    }

    /// Connects, and exchanges ICReq and ICResp.
    ///
    /// # Errors
    /// As [`Link::receive`].
    ///
    /// # Panics
    /// If the answer is not what was asked for.
    pub fn initialize(address: SocketAddr, digests: Digests) -> io::Result<Self> {
        let mut link = Self::open(address)?;
        link.stream.write_all(IcReq::new(digests, 0, 0).as_bytes())?;
        let response: IcResp = link.receive()?.read();
        assert_eq!((response.check(), response.dgst), (Ok(()), digests));
        link.max_h2c = response.maxh2cdata.get();
        link.framing = Framing {
            header_digest: digests.header(),
            data_digest: digests.data(),
            alignment: 4 * (u32::from(response.cpda_z) + 1),
        };
        Ok(link)
    }

    /// Sends a PDU of `header` (HLEN bytes, whose common header says what follows) and `data`, with the digests that
    /// the header's flags promise.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&mut self, header: &[u8], data: &[u8]) -> io::Result<()> {
        let common = CommonHeader::read_from_prefix(header).expect("a header").0;
        let mut bytes = header.to_vec();
        if common.flags.hdgst() {
            bytes.extend(digest::crc32c(header).to_le_bytes());
        }
        if !data.is_empty() {
            bytes.resize(bytes.len().max(common.pdo.into()), 0);
            bytes.extend(data);
            if common.flags.ddgst() {
                bytes.extend(digest::crc32c(data).to_le_bytes());
            }
        }
        self.stream.write_all(&bytes)
    }

    /// Waits for a PDU, and checks its digests.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the port has closed, or what the kernel says.
    ///
    /// # Panics
    /// If it is not what a controller may send.
    pub fn receive(&mut self) -> io::Result<Pdu> {
        let mut common = [0; 8];
        self.stream.read_exact(&mut common)?;
        let header = CommonHeader::read_from_bytes(&common).expect("8 bytes");
        let rules = Rules {
            sender: Side::Controller,
            initialized: header.pdu_type != PduType::IC_RESP,
            framing: self.framing,
            max_in_capsule: 0,
            max_data: u32::MAX,
        };
        let layout = rules.check(&header).expect("a header that may come");
        let mut bytes = vec![0; layout.total as usize];
        bytes[..8].copy_from_slice(&common);
        self.stream.read_exact(&mut bytes[8..])?;
        let (head, rest) = bytes.split_at(layout.header as usize);
        if layout.header_digest {
            assert_eq!(rest[..digest::SIZE], digest::crc32c(head).to_le_bytes(), "header digest");
        }
        let (data, tail) = bytes[layout.data_at as usize..].split_at(layout.data as usize);
        if layout.data_digest {
            assert_eq!(*tail, digest::crc32c(data).to_le_bytes(), "data digest");
        }
        Ok(Pdu {
            kind: header.pdu_type,
            flags: header.flags,
            header: head.to_vec(),
            data: data.to_vec(),
        })
    }

    /// Sends a command, with `data` in the capsule, or none. Returns its identifier.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn command(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<u16> {
        self.cid = self.cid.wrapping_add(1);
        let common =
            self.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), data.len() as u32);
        let header = [common.as_bytes(), sqe.with_cid(self.cid).as_bytes()].concat();
        self.send(&header, data).map(|()| self.cid)
    }

    /// Sends data that an R2T asks for, `whole` being all of the command's.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If the R2T asks for more than there is.
    pub fn answer(&mut self, r2t: &R2T, whole: &[u8]) -> io::Result<()> {
        let (mut at, end) = (r2t.r2to.get(), r2t.r2to.get() + r2t.r2tl.get());
        while at < end {
            let next = end.min(at + self.max_h2c);
            let part = &whole[at as usize..next as usize];
            let flags = PduFlags::new().with_last(next == end);
            let common = self.framing.header(PduType::H2C_DATA, flags, next - at);
            let header = H2CData::new(common, r2t.cccid.get(), r2t.ttag.get(), at, next - at);
            self.send(header.as_bytes(), part)?;
            at = next;
        }
        Ok(())
    }

    /// Carries out a command that takes `data`, or gives as much as `wanted` says: its completion, and what it gave.
    ///
    /// # Errors
    /// As [`Link::receive`].
    ///
    /// # Panics
    /// If the port does what no port may.
    pub fn run(&mut self, sqe: Sqe, data: &[u8], wanted: usize) -> io::Result<(Cqe, Vec<u8>)> {
        let inline = !data.is_empty() && data.len() <= IN_CAPSULE;
        let sgl = if inline {
            Sgl::in_capsule(data.len() as u32)
        } else {
            Sgl::transport(data.len().max(wanted) as u32)
        };
        let cid = self.command(sqe.with_sgl(sgl), if inline { data } else { &[] })?;
        let mut got = vec![0; wanted];
        loop {
            let pdu = self.receive()?;
            match pdu.kind {
                PduType::R2T => {
                    let r2t: R2T = pdu.read();
                    assert_eq!(r2t.cccid.get(), cid);
                    self.answer(&r2t, data)?;
                }
                PduType::C2H_DATA => {
                    let part: C2HData = pdu.read();
                    assert_eq!(
                        (part.cccid.get(), part.datal.get() as usize),
                        (cid, pdu.data.len())
                    );
                    let at = part.datao.get() as usize;
                    got[at..at + pdu.data.len()].copy_from_slice(&pdu.data);
                    assert!(!pdu.flags.success(), "flow control is on");
                }
                PduType::CAPSULE_RESPONSE => {
                    let cqe = pdu.read::<CapsuleResponse>().cqe;
                    assert_eq!(cqe.cid, cid, "completion of another command");
                    return Ok((cqe, got));
                }
                PduType::C2H_TERM_REQ => {
                    return Err(io::Error::other(pdu.violation().to_string()));
                }
                other => panic!("{other} as an answer"),
            }
        }
    }

    /// Connects the queue `qid`: the completion.
    ///
    /// # Errors
    /// As [`Link::receive`].
    pub fn connect(&mut self, qid: u16, kato: u32, data: &ConnectData) -> io::Result<Cqe> {
        let sqe = command::connect(qid, ConnectCdw11::new().with_sqsize_z(31), kato);
        self.run(sqe, data.as_bytes(), 0).map(|(cqe, _)| cqe)
    }
}

/// An association: an enabled controller.
#[derive(Debug)]
pub struct Host {
    /// The admin queue.
    pub admin: Link,
    /// CNTLID.
    pub cntlid: u16,
    address: SocketAddr,
    digests: Digests,
    data: ConnectData,
}

impl Host {
    /// Connects the admin queue, and enables the controller.
    ///
    /// # Errors
    /// As [`Link::receive`]; a refusal is [`io::ErrorKind::ConnectionRefused`] with its status.
    ///
    /// # Panics
    /// If the controller does not become ready.
    pub fn connect(
        address: SocketAddr,
        digests: Digests,
        subsystem: &str,
        kato: u32,
    ) -> io::Result<Self> {
        let host = "nqn.2014-08.org.nvmexpress:uuid:1b4e28ba-2fa1-11d2-883f-0016d3cca427";
        let mut data = ConnectData::new([7; 16], CNTLID_DYNAMIC, subsystem, host);
        let mut admin = Link::initialize(address, digests)?;
        let cqe = accepted(admin.connect(0, kato, &data)?)?;
        let cntlid = ConnectResult::from(cqe.dw0).cntlid();
        data.cntlid = cntlid.into();
        let mut this = Self { admin, cntlid, address, digests, data };
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true).into_bits();
        let set = command::property_set(offset::CC as u32, 4, cc.into());
        accepted(this.admin.run(set, &[], 0)?.0)?;
        let started = Instant::now();
        loop {
            let get = command::property_get(offset::CSTS as u32, 4);
            let csts = accepted(this.admin.run(get, &[], 0)?.0)?.dw0;
            if Csts::from_bits(csts).rdy() {
                return Ok(this);
            }
            assert!(started.elapsed() < PATIENCE, "not ready");
        }
    }

    /// Connects an I/O queue.
    ///
    /// # Errors
    /// As [`Host::connect`].
    pub fn queue(&self, qid: u16) -> io::Result<Link> {
        let mut link = Link::initialize(self.address, self.digests)?;
        accepted(link.connect(qid, 0, &self.data)?)?;
        Ok(link)
    }
}

/// The completion, where its status is success.
fn accepted(cqe: Cqe) -> io::Result<Cqe> {
    let status = cqe.status();
    if status.is(Status::SUCCESS) {
        return Ok(cqe);
    }
    let text = format!("{status} ({:#x})", cqe.dw0);
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, text))
}
