# shellcheck shell=sh
# What guest scenarios share. Verdicts go to the second serial port, everything else to the console.

exec 3>/dev/ttyS1
# From the kernel command line.
: "${scenario:=none}" "${drives:=0}" "${outside_port:=}" "${outside_host:=}"

pass() { echo "PASS $scenario/$1" >&3; }
fail() { echo "FAIL $scenario/$1 $2" >&3; }
skip() { echo "SKIP $scenario/$1 $2" >&3; }
note() { echo "# $*" >&3; }

# limited COMMAND...: for at most CHECK_SECONDS, or 60; a function of these scripts, too, in a shell of its own.
limited() {
    case $(type "$1") in
        *function*) ;;
        *) timeout "${CHECK_SECONDS:-60}" "$@"; return ;;
    esac
    ("$@") &
    limited_pid=$!
    (sleep "${CHECK_SECONDS:-60}"; pkill -KILL -P $limited_pid; kill -KILL $limited_pid) 2>/dev/null &
    limited_watch=$!
    wait $limited_pid
    limited_status=$?
    pkill -KILL -P $limited_watch 2>/dev/null
    kill -KILL $limited_watch 2>/dev/null
    return $limited_status
}

# check NAME COMMAND...: passes if the command succeeds; its last lines of output are the reason if not.
check() {
    check_name=$1
    shift
    echo "== $scenario/$check_name: $*"
    if limited "$@" >/tmp/check.out 2>&1; then
        cat /tmp/check.out
        pass "$check_name"
    else
        check_status=$?
        cat /tmp/check.out
        fail "$check_name" "exit $check_status: $(tail -n 3 /tmp/check.out | tr '\n' ' ')"
        return 1
    fi
}

# check_says NAME WORDS COMMAND...: passes if the command succeeds and says WORDS (an extended regular expression).
check_says() {
    check_says_name=$1
    check_words=$2
    shift 2
    echo "== $scenario/$check_says_name: $*"
    limited "$@" >/tmp/check.out 2>&1
    check_status=$?
    cat /tmp/check.out
    if [ "$check_status" != 0 ]; then
        fail "$check_says_name" "exit $check_status: $(tail -n 3 /tmp/check.out | tr '\n' ' ')"
    elif grep -Eq -- "$check_words" /tmp/check.out; then
        pass "$check_says_name"
        return 0
    else
        fail "$check_says_name" "no '$check_words' in: $(tail -n 3 /tmp/check.out | tr '\n' ' ')"
    fi
    return 1
}

# check_fails NAME WORDS COMMAND...: passes if the command fails and says WORDS (an extended regular expression).
check_fails() {
    check_name=$1
    check_words=$2
    shift 2
    echo "== $scenario/$check_name (must fail): $*"
    if limited "$@" >/tmp/check.out 2>&1; then
        cat /tmp/check.out
        fail "$check_name" "succeeded: $(tail -n 3 /tmp/check.out | tr '\n' ' ')"
        return 1
    fi
    check_status=$?
    cat /tmp/check.out
    if [ "$check_status" -ge 124 ]; then
        fail "$check_name" "did not end by itself (exit $check_status)"
    elif grep -Eqi -- "$check_words" /tmp/check.out; then
        pass "$check_name"
    else
        fail "$check_name" "no '$check_words' in: $(tail -n 3 /tmp/check.out | tr '\n' ' ')"
    fi
}

# wait_for SECONDS COMMAND...: polls until the command succeeds.
wait_for() {
    wait_left=$(($1 * 10))
    shift
    until "$@"; do
        wait_left=$((wait_left - 1))
        [ "$wait_left" -gt 0 ] || return 1
        usleep 100000
    done
}

drives_present() {
    set -- /sys/class/nvme/*
    if [ -e "$1" ]; then echo $#; else echo 0; fi
}

# Every controller is live and has a block device.
all_drives_present() {
    [ "$(drives_present)" = "$drives" ] || return 1
    [ "$drives" != 0 ] || return 0
    for live in /sys/class/nvme/*; do
        [ "$(cat "$live/state")" = live ] || return 1
        [ -n "$(find "$live/" -maxdepth 1 -name 'nvme*n*')" ] || return 1
    done
}

# bdf_of SERIAL: PCI address of the drive with this serial number.
bdf_of() {
    bdfs_of "$1" | grep -m 1 .
}

# bdfs_of SERIAL: of all of them.
bdfs_of() {
    for bdf_dir in /sys/class/nvme/*; do
        [ "$(tr -d ' ' <"$bdf_dir/serial")" != "$1" ] || basename "$(readlink -f "$bdf_dir/device")"
    done
}

# block_of BDF [NSID]: block device of a namespace (the first), once the kernel drives the controller.
block_of() {
    for block_dir in "/sys/bus/pci/devices/$1"/nvme/nvme*/nvme*n*; do
        if [ "$(cat "$block_dir/nsid")" = "${2:-1}" ]; then
            echo "/dev/${block_dir##*/}"
            return
        fi
    done
    return 1
}

driver_of() {
    driver_path=$(readlink "/sys/bus/pci/devices/$1/driver") || return 0
    echo "${driver_path##*/}"
}

# bytes_from SEED COUNT: repeatable bytes that no drive holds by chance.
bytes_from() {
    yes "doorbell $1" | head -c "$2"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# need PROGRAM: whether it is in this guest; its checks are skipped if not.
need() {
    have "$1" && return
    skip "$1" "not built (cargo build --release --workspace --bins --examples)"
    return 1
}

# json_number KEY: the first number of that key in JSON on standard input.
json_number() {
    sed 's/[,{}]/\n/g' | sed -n "s/^ *\"$1\" *: *\([0-9.eE+-]*\).*/\1/p" | head -n 1
}
