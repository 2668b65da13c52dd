//! Any bytes at all: no panic, no hang, nothing without bound.

use doorbell_spec::fabrics::pdu::{Digests, IcReq};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::nvm;
use doorbell_subsystem::fabrics::Limits;
use zerocopy::IntoBytes;

use crate::host::{Options, attach, target};

/// A small generator with a printed seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    pub(crate) fn one_in(&mut self, count: u32) -> bool {
        self.next().is_multiple_of(count)
    }

    pub(crate) fn below(&mut self, end: u32) -> usize {
        (self.next() % end) as usize
    }
}

#[test]
fn valid_conversations_with_a_few_bytes_changed() {
    let rounds = if cfg!(miri) { 5 } else { 1500 };
    for seed in 0..rounds {
        let mut random = Random(seed);
        let target = target(Limits::default());
        let digests = (random.one_in(4), random.one_in(4));
        let options = Options { digests, maxr2t_z: random.next() % 3, ..Options::default() };
        let (admin, io) = attach(&target, options);
        let mut link = if random.one_in(4) { admin } else { io };
        for _ in 0..12 {
            let (slba, cid) = (u64::from(random.next() % 9000), (random.next() % 8) as u16);
            let nlb_z = (random.next() % 40) as u16;
            let len = (u32::from(nlb_z) + 1) * 512;
            let sqe = match random.next() % 4 {
                0 => nvm::read(1, slba, nlb_z).with_sgl(Sgl::transport(len)),
                1 => nvm::write(1, slba, nlb_z).with_sgl(Sgl::transport(len)),
                2 => nvm::compare(1, slba, nlb_z).with_sgl(Sgl::transport(len)),
                _ => nvm::write(1, slba, 0).with_sgl(Sgl::in_capsule(512)),
            };
            let data: &[u8] = if sqe.sgl().id.0 == 1 { &[3; 512] } else { &[] };
            let mut pdu = match random.next() % 3 {
                0 => link.h2c(cid, (random.next() % 3) as u16, 0, &vec![7; len as usize], true),
                _ => link.capsule(sqe.with_cid(cid), data),
            };
            if random.one_in(2) {
                let at = random.next() as usize % pdu.len().min(96);
                pdu[at] ^= random.next() as u8;
            }
            link.send(&pdu);
            if link.connection.is_ended() {
                break;
            }
        }
        // Whatever happened, the subsystem still serves others.
        drop(link);
        let (_admin, mut io) = attach(&target, Options::default());
        assert!(io.read(nvm::read(1, 0, 0), 512).0.status().is_success(), "seed {seed}");
    }
}

#[test]
fn noise_from_the_first_byte_and_after_the_handshake() {
    let rounds = if cfg!(miri) { 5 } else { 2000 };
    for seed in 0..rounds {
        let mut random = Random(seed);
        let mut bytes: Vec<u8> = Vec::new();
        if !random.one_in(4) {
            bytes.extend_from_slice(IcReq::new(Digests::new(), 0, 0).as_bytes());
        }
        for _ in 0..random.next() % 400 {
            bytes.push(if random.one_in(3) { random.next() as u8 } else { 4 });
        }
        let once = doorbell_subsystem::port::tcp::converse(&bytes, bytes.len());
        for cut in [1, 7] {
            let again = doorbell_subsystem::port::tcp::converse(&bytes, cut);
            assert_eq!(once, again, "seed {seed}: the same in portions of {cut}");
        }
    }
}
