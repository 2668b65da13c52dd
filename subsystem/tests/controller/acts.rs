//! Every act at every place of a plan of faults, in code and as text.

use std::time::Duration;

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::fabrics::command::Fctype;
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::register::{Cap, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::fault::{Commands, Plan, Rule};

/// Whom an act means something to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Every controller.
    Both,
    /// Controllers with rings.
    Pcie,
    /// Those behind a network.
    Fabrics,
}

/// An act as text (without `[[rule]]`; `;` stands for the end of a line), in code, and for whom.
pub(crate) type Case = (&'static str, fn() -> Rule, For);

fn reads() -> Commands {
    Commands::io(NvmOpcode::READ)
}

fn writes() -> Commands {
    Commands::io(NvmOpcode::WRITE)
}

fn flushes() -> Commands {
    Commands::io(NvmOpcode::FLUSH)
}

const MS: Duration = Duration::from_millis(1);

/// All of them.
pub(crate) const CASES: &[Case] = &[
    // Which.
    ("at='command';do='lose'", || Rule::command(Commands::any()).lose(), For::Both),
    ("at='command';queue='io';do='lose'", || Rule::command(Commands::any_io()).lose(), For::Both),
    (
        "at='command';queue='admin';do='lose'",
        || Rule::command(Commands::any_admin()).lose(),
        For::Both,
    ),
    (
        "at='command';queue=1;do='lose'",
        || Rule::command(Commands::any().queue(1)).lose(),
        For::Both,
    ),
    (
        "at='command';queue=[1, 4];do='lose'",
        || Rule::command(Commands::any().queues(1..=4)).lose(),
        For::Both,
    ),
    ("at='command';opcode='read';do='lose'", || Rule::command(reads()).lose(), For::Both),
    (
        "at='command';opcode='identify';do='lose'",
        || Rule::command(Commands::admin(AdminOpcode::IDENTIFY)).lose(),
        For::Both,
    ),
    ("at='command';opcode=2;queue='io';do='lose'", || Rule::command(reads()).lose(), For::Both),
    (
        "at='command';queue='io';cid=12;do='lose'",
        || Rule::command(Commands::any_io().cid(12)).lose(),
        For::Both,
    ),
    (
        "at='command';nsid=1;opcode='flush';do='lose'",
        || Rule::command(flushes().nsid(1)).lose(),
        For::Both,
    ),
    (
        "at='command';queue='io';blocks=[8, 8];do='lose'",
        || Rule::command(Commands::any_io().blocks(8..9)).lose(),
        For::Both,
    ),
    (
        "at='command';queue='admin';selector=1;do='lose'",
        || Rule::command(Commands::any_admin().selector(1)).lose(),
        For::Both,
    ),
    (
        "at='command';opcode='property-get';do='lose'",
        || Rule::command(Commands::fabrics(Fctype::PROPERTY_GET)).lose(),
        For::Fabrics,
    ),
    // When.
    (
        "at='command';opcode='flush';do='lose';nth=2",
        || Rule::command(flushes()).lose().nth(2),
        For::Both,
    ),
    (
        "at='command';opcode='flush';do='lose';after=1",
        || Rule::command(flushes()).lose().after(1),
        For::Both,
    ),
    (
        "at='command';opcode='flush';do='lose';times=1",
        || Rule::command(flushes()).lose().times(1),
        For::Both,
    ),
    (
        "at='command';opcode='flush';do='lose';after=1;times=1",
        || Rule::command(flushes()).lose().after(1).times(1),
        For::Both,
    ),
    (
        "at='command';queue='io';do='lose';probability=0.5",
        || Rule::command(Commands::any_io()).lose().probability(0.5),
        For::Both,
    ),
    // Commands.
    ("at='command';opcode='read';do='hang'", || Rule::command(reads()).hang(), For::Both),
    (
        "at='command';opcode='read';do='answer';status='2/81 dnr';result=0x1_0000_0002",
        || Rule::command(reads()).answer(Status::UNRECOVERED_READ_ERROR.with_dnr(), 1 << 32 | 2),
        For::Both,
    ),
    (
        "at='command';opcode='read';do='short';bytes=700",
        || Rule::command(reads()).short(700),
        For::Both,
    ),
    (
        "at='command';opcode='write';do='short';bytes=700",
        || Rule::command(writes()).short(700),
        For::Both,
    ),
    (
        "at='command';opcode='read';do='corrupt';offset=3;flip=[1, 0x80]",
        || Rule::command(reads()).corrupt(3, [1, 0x80]),
        For::Both,
    ),
    (
        "at='command';opcode='write';do='corrupt';offset=600;flip=[1]",
        || Rule::command(writes()).corrupt(600, [1]),
        For::Both,
    ),
    ("at='command';opcode='read';do='fatal'", || Rule::command(reads()).fatal(), For::Both),
    ("at='command';opcode='read';do='vanish'", || Rule::command(reads()).vanish(), For::Both),
    // Completions.
    ("at='completion';opcode='read';do='lose'", || Rule::completion(reads()).lose(), For::Both),
    (
        "at='completion';opcode='read';do='delay';by='5ms'",
        || Rule::completion(reads()).delay(5 * MS),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='delay';by='100us'",
        || Rule::completion(reads()).delay(MS / 10),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='duplicate'",
        || Rule::completion(reads()).duplicate(),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='reorder'",
        || Rule::completion(reads()).reorder(),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='wrong-phase'",
        || Rule::completion(reads()).wrong_phase(),
        For::Pcie,
    ),
    (
        "at='completion';opcode='read';do='half-written'",
        || Rule::completion(reads()).half_written(),
        For::Pcie,
    ),
    (
        "at='completion';opcode='read';do='rewritten'",
        || Rule::completion(reads()).rewritten(),
        For::Pcie,
    ),
    ("at='completion';opcode='read';do='flood'", || Rule::completion(reads()).flood(), For::Both),
    (
        "at='completion';opcode='read';do='status';status='0/82 crd=1'",
        || Rule::completion(reads()).status(Status::NAMESPACE_NOT_READY.with_crd(1)),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='cid';value=777",
        || Rule::completion(reads()).cid(777),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='flip-cid';value=0x8000",
        || Rule::completion(reads()).flip_cid(0x8000),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='sqid';value=3",
        || Rule::completion(reads()).sqid(3),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='sqhd';value=9",
        || Rule::completion(reads()).sqhd(9),
        For::Both,
    ),
    (
        "at='completion';opcode='read';do='result';value=0x1_0000_0002",
        || Rule::completion(reads()).result(1 << 32 | 2),
        For::Both,
    ),
    ("at='completion';opcode='read';do='fatal'", || Rule::completion(reads()).fatal(), For::Both),
    ("at='completion';opcode='read';do='vanish'", || Rule::completion(reads()).vanish(), For::Both),
    // Registers.
    ("at='read';register='CSTS';do='all-ones'", || Rule::read(offset::CSTS).all_ones(), For::Both),
    ("at='read';register=0x1c;do='value';value=5", || Rule::read(offset::CSTS).value(5), For::Both),
    (
        "at='read';register='CSTS';do='set-bits';value=2",
        || Rule::read(offset::CSTS).set_bits(2),
        For::Both,
    ),
    (
        "at='read';register='CAP';do='clear-bits';value=0xff00_0000_00ff",
        || Rule::read(offset::CAP).clear_bits(0xff00_0000_00ff),
        For::Both,
    ),
    (
        "at='read';register='CSTS';do='fatal';nth=2",
        || Rule::read(offset::CSTS).fatal().nth(2),
        For::Both,
    ),
    (
        "at='read';register='CSTS';do='vanish';nth=2",
        || Rule::read(offset::CSTS).vanish().nth(2),
        For::Both,
    ),
    ("at='write';register='CC';do='lose'", || Rule::write(offset::CC).lose(), For::Both),
    (
        "at='write';register='CC';having=[1, 0];do='delay';by='2s'",
        || Rule::write(offset::CC).having(1, 0).delay(2000 * MS),
        For::Both,
    ),
    (
        "at='write';register='CC';do='fatal';nth=1",
        || Rule::write(offset::CC).fatal().nth(1),
        For::Both,
    ),
    ("at='write';register='CC';do='vanish'", || Rule::write(offset::CC).vanish(), For::Both),
    ("at='never-ready'", Rule::never_ready, For::Both),
    ("at='function-reset';do='lose'", Rule::function_reset, For::Pcie),
    (
        "at='capabilities';field='mqes';value=7",
        || Rule::capabilities(Cap::new().with_mqes_z(0xffff), Cap::new().with_mqes_z(7)),
        For::Both,
    ),
    // Replies.
    (
        "at='identify-controller';field='mdts';value=9",
        || Rule::identify_controller(|page| page.mdts = 9),
        For::Both,
    ),
    (
        "at='identify-namespace';nsid=1;field='nsze';value=3",
        || Rule::identify_namespace(1, |page| page.nsze.set(3)),
        For::Both,
    ),
    (
        "at='reply';opcode='identify';selector=1;offset=4;value='SERIAL'",
        || {
            Rule::reply(Commands::admin(AdminOpcode::IDENTIFY).selector(1), |page| {
                page[4..10].copy_from_slice(b"SERIAL")
            })
        },
        For::Both,
    ),
];

/// A plan with one rule.
pub(crate) fn in_code(case: &Case) -> Plan {
    Plan::new(3).rule(case.1())
}

/// The same out of a file.
pub(crate) fn as_text(case: &Case) -> Plan {
    let text = format!("seed = 3\n[[rule]]\n{}\n", case.0.replace(';', "\n"));
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
