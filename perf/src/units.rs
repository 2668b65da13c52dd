//! Numbers as people write and read them: sizes, durations, counts, rates.
//!
//! Sizes are binary (4k is 4096, as fio has it); counts and rates of bytes are decimal, as drives are sold.

use std::time::Duration;

/// Parses a size in bytes: `4096`, `4k`, `4KiB`, `1.5G`.
///
/// # Errors
/// A sentence that shows right ones.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let lower = unit.to_ascii_lowercase();
    let letter = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let shift = match letter {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("no unit {unit:?}; write for example 512, 4k, 128KiB, 1g")),
    };
    whole(number, (1u64 << shift) as f64).ok_or_else(|| {
        format!("{text:?} is not a whole number of bytes; write for example 512, 4k, 128KiB, 1g")
    })
}

/// Parses a duration: `10s`, `500ms`, `2m`, `1h`; a bare number counts seconds.
///
/// # Errors
/// A sentence that shows right ones.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "" | "s" | "sec" => number,
        "ns" => number / 1e9,
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("no unit {unit:?}; write for example 10s, 500ms, 2m, 1h")),
    };
    if seconds > 366.0 * 86_400.0 {
        return Err(format!("{text:?} is longer than a year"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses a count: `1000000`, `100k`, `1.5M` (decimal).
///
/// # Errors
/// A sentence that shows right ones.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(format!("no unit {unit:?}; write for example 500, 100k, 1.5M")),
    };
    whole(number, factor).filter(|count| *count > 0).ok_or_else(|| {
        format!("{text:?} is not a count above 0; write for example 500, 100k, 1.5M")
    })
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit.trim()))
}

fn whole(number: f64, factor: f64) -> Option<u64> {
    let value = number * factor;
    (value.fract() == 0.0 && value < 9e18).then_some(value as u64)
}

/// A size in the largest binary unit that keeps it readable: `4 KiB`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(value), UNITS.get(unit).unwrap_or(&"B"))
}

/// A count with a decimal suffix: `870`, `12.3 k`, `2.41 M`.
pub fn count(value: f64) -> String {
    let (scaled, suffix) = scale(value);
    if suffix.is_empty() { digits(scaled) } else { format!("{} {suffix}", digits(scaled)) }
}

/// A rate of bytes: `9.87 GB/s`.
pub fn bandwidth(bytes_per_second: f64) -> String {
    let (scaled, suffix) = scale(bytes_per_second);
    let suffix = if suffix == "k" { "K" } else { suffix };
    format!("{} {suffix}B/s", digits(scaled))
}

/// A latency given in nanoseconds: `870ns`, `12.3us`, `1.07ms`, `2.50s`.
pub fn latency(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 999.5 => format!("{n:.0}ns"),
        n if n < 999.5e3 => format!("{}us", three(n / 1e3)),
        n if n < 999.5e6 => format!("{}ms", three(n / 1e6)),
        n => format!("{}s", three(n / 1e9)),
    }
}

/// A length of time for headings: `10 s`, `500 ms`, `1 h 30 min`.
pub fn duration(seconds: f64) -> String {
    if seconds >= 120.0 && seconds.fract() == 0.0 {
        let total = seconds as u64;
        let parts = [(total / 3600, "h"), (total / 60 % 60, "min"), (total % 60, "s")];
        let shown: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
        return shown.join(" ");
    }
    if seconds < 1.0 && seconds > 0.0 {
        return format!("{} ms", digits(seconds * 1e3));
    }
    format!("{} s", digits(seconds))
}

fn scale(value: f64) -> (f64, &'static str) {
    match value {
        v if v < 999.5 => (v, ""),
        v if v < 999.5e3 => (v / 1e3, "k"),
        v if v < 999.5e6 => (v / 1e6, "M"),
        v if v < 999.5e9 => (v / 1e9, "G"),
        v => (v / 1e12, "T"),
    }
}

/// Three significant digits, never an exponent.
fn three(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Like [`three`], but whole numbers stay whole.
fn digits(value: f64) -> String {
    if value.fract() == 0.0 && value < 1e15 { format!("{value:.0}") } else { three(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("512", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("4KiB", 4096),
            ("4kb", 4096),
            ("0.5k", 512),
            ("1.5G", 3 << 29),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "4x", "-4k", "0.3", "9999999p"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_counts() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("10 parsecs").is_err());
        assert!(parse_duration("99999999999h").is_err());
        assert_eq!(parse_count("1.5M"), Ok(1_500_000));
        assert!(parse_count("0").is_err());
        assert!(parse_count("1.5").is_err());
    }

    #[test]
    fn people_can_read_it() {
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(3 << 29), "1.50 GiB");
        assert_eq!(count(2_411_000.0), "2.41 M");
        assert_eq!(count(999.7), "1.00 k");
        assert_eq!(count(12.0), "12");
        assert_eq!(bandwidth(9.87e9), "9.87 GB/s");
        assert_eq!(latency(870.0), "870ns");
        assert_eq!(latency(999.7), "1.00us");
        assert_eq!(latency(1_070_000.0), "1.07ms");
        assert_eq!(duration(10.0), "10 s");
        assert_eq!(duration(0.5), "500 ms");
        assert_eq!(duration(5400.0), "1 h 30 min");
    }
}
