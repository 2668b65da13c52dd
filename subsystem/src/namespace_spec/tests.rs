//! The grammar, both ways.

use super::*;

fn parse(text: &str) -> NamespaceSpec {
    text.parse().expect(text)
}

#[test]
fn what_is_printed_parses_to_the_same() {
    for text in [
        "memory:1GiB",
        "memory:512,block=4096",
        "null:1TiB",
        "null:1536MiB,block=4096",
        "file:disk.img",
        "file:/a b/disk.img,size=64KiB",
        "file:disk.img,size=1GiB,direct=off,block=4096",
    ] {
        assert_eq!(parse(text).to_string(), text);
    }
    assert_eq!(parse("memory:1024M,block=512").to_string(), "memory:1GiB");
    assert_eq!(parse("file:d,direct=on,block=4k").to_string(), "file:d,block=4096");
    let both = ["file:d,block=4096,size=1g", "file:d,size=1GiB,block=4096"];
    assert_eq!(parse(both[0]), parse(both[1]));
}

#[test]
fn sizes() {
    for (text, size) in
        [("1", 1), ("4k", 4096), ("4KiB", 4096), ("2m", 2 << 20), ("3TIB", 3 << 40), ("7B", 7)]
    {
        assert_eq!(parse_size(text), Ok(size), "{text}");
    }
    for text in
        ["", "0", "GiB", "-1", "1.5GiB", "1GB", "1 GiB", "99999999999999999999", "17592186044416M"]
    {
        assert_eq!(parse_size(text), Err(ParseError::Size(text.to_owned())));
    }
}

#[test]
fn errors_name_the_wrong_part_and_show_a_right_one() {
    let cases = [
        ("", "'' is no kind of namespace; use memory:1GiB"),
        ("disk:1GiB", "'disk' is no kind of namespace"),
        ("memory", "'memory' does not say how large; write memory:1GiB"),
        ("null:", "'null' does not say how large; write null:1GiB"),
        ("file:", "'file' does not say which; write file:disk.img"),
        ("memory:big", "'big' is no size; write 1073741824, 1024MiB or 1GiB"),
        ("memory:1GiB,block=520", "'520' is no block size; use block=512"),
        ("memory:1GiB,size=2GiB", "'size=2GiB' is no option of memory; use memory:1GiB,block=4096"),
        ("null:1GiB,", "'' is no option of null"),
        ("file:d,direct=maybe", "'maybe' is neither on nor off"),
        ("file:d,size=x", "'x' is no size"),
        ("file:d,cache=off", "'cache=off' is no option of file"),
    ];
    for (text, words) in cases {
        let error = text.parse::<NamespaceSpec>().expect_err(text).to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn opened_namespaces_have_the_size_that_was_asked_for() {
    let namespace = parse("null:1TiB,block=4096").open().expect("namespace");
    assert_eq!((namespace.blocks(), namespace.block_size()), (1 << 28, 4096));
    let error = parse("memory:1000").open().expect_err("not whole blocks");
    let words = "memory:1000: 1000 bytes are no whole number of blocks of 512 bytes";
    assert!(error.to_string().contains(words), "{error}");
    let error = parse("file:/no/such/file").open().expect_err("missing");
    assert!(error.to_string().contains("give size=1GiB"), "{error}");
}
