# Recipes for the usual commands: `just` lists them. Without just, each line below is the command itself.

_default:
    @just --list --unsorted

# What must pass before a change is proposed: format, lints, documentation, house rules
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    tests/rules

# Tests of all packages
test *arguments:
    cargo test --workspace {{arguments}}

# Everything, as CI runs it (about half an hour on two cores)
all:
    tests/run

# Everything but Miri, the perf tool and the guests
quick:
    tests/run --quick

# The driver's own cost per I/O
bench *arguments:
    cargo bench --package doorbell {{arguments}}

# QEMU guests with emulated drives behind an IOMMU; names of scenarios may follow
vm *scenarios:
    cargo build --release --workspace --bins --examples
    tests/vm/run {{scenarios}}

# Undefined behaviour in the pure and stepped parts
miri:
    tests/run --only miri

# The perf tool on the embedded default; arguments as in `doorbell-perf --help`
perf *arguments:
    cargo run --release --bin doorbell-perf -- {{arguments}}

# Documentation of all packages, opened in a browser
doc:
    cargo doc --workspace --no-deps --open

# Puts code into the house format
format:
    cargo fmt --all
