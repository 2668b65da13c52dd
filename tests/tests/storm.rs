//! Storms by seed: random faults against random calls; see [`doorbell_tests::fuzz::storm`].
//!
//! `DOORBELL_SEED` begins elsewhere, `DOORBELL_STORMS` makes it longer than 400.

use doorbell_tests::fuzz::storm::body;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[test]
fn whatever_the_weather_every_command_ends_once_and_all_memory_comes_back() {
    let first = number("DOORBELL_SEED", 1);
    for seed in first..first + number("DOORBELL_STORMS", 400) {
        println!("DOORBELL_SEED={seed} DOORBELL_STORMS=1");
        let mut state = seed;
        let length = 64 + (next(&mut state) % 400) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| next(&mut state) as u8).collect();
        body(&bytes);
    }
}
