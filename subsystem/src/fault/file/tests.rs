//! Texts that are plans, and texts that are not.

use super::*;

/// Acts at a place, each with what it needs.
const ACTS: [(&str, &[(&str, &str)]); 6] = [
    (
        "at='command'",
        &[
            ("lose", ""),
            ("hang", ""),
            ("answer", "status='0/02 dnr'\nresult=7"),
            ("short", "bytes=512"),
            ("corrupt", "offset=3\nflip=[1, 0x80]"),
            ("fatal", ""),
            ("vanish", ""),
        ],
    ),
    (
        "at='completion'",
        &[
            ("lose", ""),
            ("delay", "by='5ms'"),
            ("duplicate", ""),
            ("reorder", ""),
            ("wrong-phase", ""),
            ("half-written", ""),
            ("rewritten", ""),
            ("flood", ""),
            ("status", "status='0/82 crd=1'"),
            ("cid", "value=7"),
            ("flip-cid", "value=0x8000"),
            ("sqid", "value=3"),
            ("sqhd", "value=9"),
            ("result", "value=0x1_0000_0000"),
            ("fatal", ""),
            ("vanish", ""),
        ],
    ),
    (
        "at='read'\nregister='CSTS'",
        &[
            ("all-ones", ""),
            ("value", "value=1"),
            ("set-bits", "value=2"),
            ("clear-bits", "value=4"),
            ("fatal", ""),
            ("vanish", ""),
        ],
    ),
    (
        "at='write'\nregister='CC'",
        &[("lose", ""), ("delay", "by='2s'"), ("fatal", ""), ("vanish", "")],
    ),
    ("at='function-reset'", &[("lose", "")]),
    (
        "at='pdu'\nkind='c2h-data'",
        &[
            ("lose", ""),
            ("delay", "by='5ms'"),
            ("duplicate", ""),
            ("reorder", ""),
            ("corrupt", "offset=30\nflip=[1]"),
            ("field", "offset=8\nflip=[1]"),
            ("wrong-digest", ""),
            ("truncate", "bytes=20"),
            ("half-written", "bytes=20\nby='5ms'"),
            ("close", ""),
            ("close", "bytes=20"),
        ],
    ),
];

#[test]
fn every_act_can_be_written() {
    for (place, acts) in ACTS {
        for (act, needs) in acts {
            let text = format!("[[rule]]\n{place}\ndo = '{act}'\n{needs}\n");
            let plan = text.parse::<Plan>();
            assert!(plan.is_ok(), "{text}: {}", plan.expect_err("an error"));
        }
    }
}

#[test]
fn fields_and_selections() {
    for text in [
        "at='pdu'\nfrom='host'\ndo='lose'",
        "at='pdu'\ndo='lose'",
        "at='identify-controller'\nfield='mdts'\nvalue=9",
        "at='identify-controller'\nfield='acl'\nvalue=0",
        "at='identify-controller'\nfield='mn'\nvalue='Short name'",
        "at='identify-controller'\nfield='sn'\nvalue=[255, 255]",
        "at='identify-namespace'\nnsid=2\nfield='nsze'\nvalue=0xffff_ffff",
        "at='capabilities'\nfield='mqes'\nvalue=65535",
        "at='capabilities'\nfield='cqr'\nvalue=0",
        "at='reply'\nopcode='get-log-page'\nselector=2\noffset=3\nvalue=[1,2]",
        "at='command'\ndo='lose'\nopcode=0xc0\nqueue=[1, 4]\ncid=3\nnsid=1\nblocks=[0, 9]\nselector=1",
        "at='command'\ndo='lose'\nqueue='io'\nafter=3\ntimes=2\nprobability=0.5",
        "at='write'\nregister=0x14\nhaving=[1, 1]\ndo='lose'",
    ] {
        let plan = format!("seed = 3\n[[rule]]\nname='x'\n{text}\n").parse::<Plan>();
        assert!(plan.is_ok(), "{text}: {}", plan.expect_err("an error"));
    }
    assert_eq!("".parse::<Plan>().expect("empty").counters().iter().count(), 0);
}

#[test]
fn the_plan_of_examples_is_one() {
    let text = include_str!("../../../server/faults.toml");
    let plan: Plan = text.parse().expect("a plan");
    assert!(plan.counters().iter().count() > 10);
    // It has something at every place but one.
    for (place, _) in ACTS {
        let place =
            place.lines().next().expect("a place").replace("='", " = \"").replace('\'', "\"");
        let left_out = ["function-reset"].iter().any(|name| place.contains(name));
        assert!(left_out || text.contains(&place), "no example of {place}");
    }
}

#[test]
fn what_is_wrong_is_said_with_line_and_key() {
    for (text, line, key, part) in [
        ("at='nowhere'", 3, "at", "'nowhere'"),
        ("at='command'", 2, "do", "needs it"),
        ("at='command'\ndo='delay'", 4, "do", "lose, hang"),
        ("at='completion'\ndo='delay'", 2, "by", "5ms"),
        ("at='completion'\ndo='delay'\nby='5 parsecs'", 5, "by", "no time"),
        ("at='completion'\ndo='status'\nstatus='9/81'", 5, "status", "no status"),
        ("at='completion'\ndo='cid'\nvalue=65536", 5, "value", "0xffff"),
        ("at='completion'\ndo='cid'\nvalue='x'", 5, "value", "no number"),
        ("at='read'\ndo='all-ones'", 2, "register", "CSTS"),
        ("at='read'\nregister='CTST'\ndo='all-ones'", 4, "register", "'CTST'"),
        ("at='command'\nopcode='reed'\ndo='lose'", 4, "opcode", "'reed'"),
        ("at='command'\nopcode=256\ndo='lose'", 4, "opcode", "0xff"),
        ("at='command'\nqueue='first'\ndo='lose'", 4, "queue", "admin"),
        ("at='command'\ndo='lose'\nnth=0", 5, "nth", "from 1"),
        ("at='command'\ndo='lose'\nprobability=1.5", 5, "probability", "0 to 1"),
        ("at='identify-controller'\nfield='mtds'\nvalue=1", 4, "field", "'mtds'"),
        ("at='identify-controller'\nfield='mdts'\nvalue=256", 5, "value", "1 bytes"),
        ("at='capabilities'\nfield='dstrd'\nvalue=16", 4, "field", "0x10"),
        ("at='reply'\nvalue=3", 4, "value", "text or bytes"),
        ("at='pdu'\nkind='c2hdata'\ndo='lose'", 4, "kind", "c2h-data"),
        ("at='pdu'\nkind='r2t'\nfrom='port'\ndo='lose'", 5, "from", "one sender"),
        ("at='pdu'\ndo='hang'", 4, "do", "half-written"),
        ("at='pdu'\ndo='truncate'", 2, "bytes", "how many"),
    ] {
        let error = format!("\n[[rule]]\n{text}\n").parse::<Plan>().expect_err(text);
        let PlanError::Rule { line: at, key: named, .. } = &error else {
            panic!("{text}: {error}")
        };
        assert_eq!((*at, *named), (line, key), "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
    for text in [
        "[[rule]]\nat='command'\ndoes='lose'",
        "seed='x'",
        "[rule",
        "[[rule]]\ncid=-1\nat='command'",
    ] {
        let error = text.parse::<Plan>().expect_err(text);
        assert!(error.to_string().contains("line"), "{text}: {error}");
    }
}
