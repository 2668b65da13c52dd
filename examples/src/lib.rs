//! What the sample applications share: numbers in, words and hex dumps out.

use std::fmt::Write;

use doorbell::spec::command::Sqe;

/// Command dwords 10 to 15 as options.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Dwords {
    /// Command dword 10; likewise 11 to 15 [default: 0, but 1 for the default Identify]
    #[arg(long, value_parser = number)]
    cdw10: Option<u32>,
    #[arg(long, default_value = "0", value_parser = number, hide = true)]
    cdw11: u32,
    #[arg(long, default_value = "0", value_parser = number, hide = true)]
    cdw12: u32,
    #[arg(long, default_value = "0", value_parser = number, hide = true)]
    cdw13: u32,
    #[arg(long, default_value = "0", value_parser = number, hide = true)]
    cdw14: u32,
    #[arg(long, default_value = "0", value_parser = number, hide = true)]
    cdw15: u32,
}

impl Dwords {
    /// Puts them into a command. Without dword 10, opcode 6 identifies the controller.
    pub fn put_into(&self, command: &mut Sqe) {
        command.cdw10 = self.cdw10.unwrap_or(u32::from(command.opcode() == 6));
        (command.cdw11, command.cdw12, command.cdw13) = (self.cdw11, self.cdw12, self.cdw13);
        (command.cdw14, command.cdw15) = (self.cdw14, self.cdw15);
    }
}

/// Bytes as a hex dump: offset, sixteen bytes, the printable ones as text. Repeated lines are shown once, as `*`.
#[must_use]
pub fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: Option<&[u8]> = None;
    let mut starred = false;
    for (index, line) in bytes.chunks(16).enumerate() {
        if last == Some(line) {
            if !starred {
                text.push_str("*\n");
            }
            starred = true;
            continue;
        }
        (last, starred) = (Some(line), false);
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let (left, right) = hex.split_at(hex.len().min(8));
        let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let shown: String =
            line.iter().map(|b| if printable(b) { char::from(*b) } else { '.' }).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:08x}  {:<23}  {:<23}  {shown}",
            index * 16,
            left.join(" "),
            right.join(" ")
        );
    }
    let _ = writeln!(text, "{:08x}", bytes.len());
    text
}

/// A size in the largest binary unit that divides it: 4096 is `4 KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    if bytes == usize::MAX as u64 {
        return "unlimited".to_owned();
    }
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let step = (bytes.trailing_zeros() / 10).min(5);
    let unit = units.get(step as usize).filter(|_| bytes > 0).unwrap_or(&"bytes");
    if bytes == 0 { "0 bytes".to_owned() } else { format!("{} {unit}", bytes >> (10 * step)) }
}

/// `yes` or `no`.
#[must_use]
pub fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

/// Parses a number, decimal or hexadecimal after `0x`.
///
/// # Errors
/// What is wrong with it.
pub fn number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}; write for example 6 or 0x06"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_has_offsets_bytes_and_text() {
        let mut bytes = vec![0; 64];
        bytes[..5].copy_from_slice(b"Hello");
        let lines = hexdump(&bytes);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(
            lines,
            [
                "00000000  48 65 6c 6c 6f 00 00 00  00 00 00 00 00 00 00 00  Hello...........",
                "00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  ................",
                "*",
                "00000040",
            ]
        );
    }

    #[test]
    fn numbers_and_sizes() {
        assert_eq!((number("0x1f"), number("31")), (Ok(31), Ok(31)));
        assert!(number("x").is_err() && number("0x100000000").is_err());
        assert_eq!((size(4096).as_str(), size(1000).as_str()), ("4 KiB", "1000 bytes"));
    }
}
