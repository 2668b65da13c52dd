//! What hosts are shown.

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

#[test]
fn unspecified_addresses_become_the_one_that_was_reached() {
    let seen = |port, local| seen_from(address(port), address(local)).map(|at| at.to_string());
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(seen("0.0.0.0:4420", "192.0.2.1:4420"), some("192.0.2.1:4420"));
    assert_eq!(seen("0.0.0.0:4421", "192.0.2.1:4420"), some("192.0.2.1:4421"));
    assert_eq!(seen("[::]:4420", "[::ffff:192.0.2.1]:4420"), some("192.0.2.1:4420"));
    assert_eq!(seen("[::]:4420", "[2001:db8::1]:4420"), some("[2001:db8::1]:4420"));
    assert_eq!(seen("0.0.0.0:4420", "[2001:db8::1]:4420"), None);
    assert_eq!(seen("192.0.2.7:4420", "[2001:db8::1]:4420"), some("192.0.2.7:4420"));
}

#[test]
fn referrals_in_every_form() {
    for (text, shown) in [
        ("192.0.2.1", "192.0.2.1:8009"),
        ("192.0.2.1:4420", "192.0.2.1:4420"),
        ("[2001:db8::1]", "[2001:db8::1]:8009"),
        ("2001:db8::1", "[2001:db8::1]:8009"),
        ("[2001:db8::1]:1", "[2001:db8::1]:1"),
    ] {
        assert_eq!(text.parse::<Referral>().expect(text).to_string(), shown);
    }
    for text in ["", "host", "192.0.2.1:", "192.0.2.1:99999", "[::1"] {
        let error = text.parse::<Referral>().expect_err(text).to_string();
        assert!(error.contains("192.0.2.1:8009"), "{error}");
    }
}
