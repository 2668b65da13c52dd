//! A small picture of latencies: one bar for each step of 1, 2, 5, 10 ...

use hdrhistogram::Histogram;

use crate::units;

/// Steps shown at most; longer latencies share the last one.
const ROWS: usize = 16;
const WIDTH: usize = 56;
/// Eighths of a character, as far as there are characters for them.
const EIGHTHS: [char; 8] =
    [' ', '\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}'];
const FULL: char = '\u{2588}';

/// One step of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    from: u64,
    to: Option<u64>,
    count: u64,
}

/// The lines of the picture; none where nothing was measured.
pub fn lines(latencies: &Histogram<u64>, unicode: bool) -> Vec<String> {
    let rows = rows(latencies);
    let total = latencies.len().max(1) as f64;
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0).max(1) as f64;
    rows.iter()
        .map(|row| {
            let share = row.count as f64 / total;
            let to = row.to.map_or(String::new(), step);
            let joint = if row.to.is_some() { "to" } else { "on" };
            let bar = bar(row.count as f64 / most, unicode);
            format!("  {:>6} {joint} {to:<6} {:>8}  {bar}", step(row.from), percent(share))
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// A bound of a step: 200 ns is "200ns".
fn step(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        n if n < 1_000 => (n, "ns"),
        n if n < 1_000_000 => (n / 1_000, "us"),
        n if n < 1_000_000_000 => (n / 1_000_000, "ms"),
        n => (n / 1_000_000_000, "s"),
    };
    format!("{value}{unit}")
}

fn rows(latencies: &Histogram<u64>) -> Vec<Row> {
    if latencies.is_empty() {
        return Vec::new();
    }
    let bounds = (0..12).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power)));
    let mut rows: Vec<Row> = Vec::new();
    let (mut from, mut below) = (0, 0);
    let mut values = latencies.iter_recorded().peekable();
    for to in bounds {
        let mut count = 0;
        while let Some(value) = values.next_if(|value| value.value_iterated_to() < to) {
            count += value.count_at_value();
        }
        below += count;
        if count > 0 || !rows.is_empty() {
            rows.push(Row { from, to: Some(to), count });
        }
        from = to;
        if below == latencies.len() {
            break;
        }
    }
    if rows.len() > ROWS {
        let rest = rows.split_off(ROWS - 1);
        let count = rest.iter().map(|row| row.count).sum();
        rows.extend(rest.first().map(|first| Row { from: first.from, to: None, count }));
    }
    rows
}

fn bar(part: f64, unicode: bool) -> String {
    let eighths = (part * (WIDTH * 8) as f64).ceil() as usize;
    if !unicode {
        return "#".repeat(eighths.div_ceil(8));
    }
    let mut bar: String = std::iter::repeat_n(FULL, eighths / 8).collect();
    if !eighths.is_multiple_of(8) {
        bar.extend(EIGHTHS.get(eighths % 8));
    }
    bar
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "-".to_owned(),
        p if p < 0.0001 => "<0.0001%".to_owned(),
        p if p < 0.01 => format!("{p:.4}%"),
        p if p < 1.0 => format!("{p:.2}%"),
        p => format!("{p:.1}%"),
    }
}

/// What stands above the picture.
pub fn title(latencies: &Histogram<u64>) -> String {
    format!("Latency of {} I/Os:", units::count(latencies.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;

    #[test]
    fn every_io_is_in_one_row() {
        let mut latencies = histogram();
        for value in [1, 199, 200, 999, 1_000, 4_000_000, 99_000_000_000] {
            latencies.record(value).expect("in range");
        }
        let rows = rows(&latencies);
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), latencies.len());
        assert_eq!(rows.len(), ROWS);
        assert!(rows.windows(2).all(|pair| pair[0].to == Some(pair[1].from)));
    }

    #[test]
    fn lines_fit_and_rare_ones_show() {
        let mut latencies = histogram();
        latencies.record_n(10_500, 1_000_000).expect("in range");
        latencies.record(70_000).expect("in range");
        for unicode in [true, false] {
            let lines = lines(&latencies, unicode);
            assert!(lines.iter().all(|line| line.chars().count() <= 100), "{lines:?}");
            let last = lines.last().expect("a line");
            assert!(last.contains("50us to 100us") && last.ends_with(['#', '\u{258f}']), "{last}");
        }
        assert!(lines(&histogram(), true).is_empty());
    }
}
