# shellcheck shell=sh disable=SC2154
# What the scenarios share whose drives come and go: sourced by them.

monitor() { note "monitor $*"; }

# give BDF: to vfio-pci, as soon as the kernel lets it be had; its own driver may have been faster.
give() { wait_for 60 given "$1"; }
given() {
    if [ "$(driver_of "$1")" = nvme ]; then
        # Taken while it comes up, it fails later, and then takes the drive from whoever has it.
        grep -qs live "/sys/bus/pci/devices/$1"/nvme/nvme*/state || return 1
        echo "$1" >/sys/bus/pci/drivers/nvme/unbind
    fi
    echo vfio-pci >"/sys/bus/pci/devices/$1/driver_override"
    echo "$1" >/sys/bus/pci/drivers_probe
    [ "$(driver_of "$1")" = vfio-pci ]
} 2>/dev/null

free_pages() { cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages; }

# come BDF DEVICE: QEMU adds it once $come_when says so; again if its place was still taken, after $come_patience seconds.
come_when=true come_patience=20
come() {
    come_tries=0
    wait_for 60 "$come_when" || return 1
    until [ -e "/sys/bus/pci/devices/$1" ]; do
        come_tries=$((come_tries + 1))
        [ $come_tries -le 10 ] || return 1
        monitor "device_add $2,id=hot$round_id"
        round_id=$((round_id + 1))
        wait_for "$come_patience" test -e "/sys/bus/pci/devices/$1"
    done
    come_id=hot$((round_id - 1))
}
round_id=0

# rounds NAME COUNT BDF ID DEVICE TAKE COMMAND...: runs COMMAND, which says `attached N` and `ended N`; in between TAKE
# takes the drive away, whose QEMU identifier is ID at first, and afterwards the drive comes back as DEVICE. Should it go
# again before COMMAND has it, unasked, as one of the emulated machines once had it, that is noted, and it comes once more.
rounds() {
    rounds_name=$1 rounds_count=$2 rounds_bdf=$3 come_id=$4 rounds_device=$5 rounds_take=$6
    shift 6
    rounds_pages=$(free_pages)
    "$@" >/tmp/rounds.out 2>&1 &
    rounds_pid=$!
    rounds_done=0
    while [ $rounds_done -lt "$rounds_count" ]; do
        until rounds_said "^attached $rounds_done\$" 100; do
            { kill -0 $rounds_pid && [ ! -e "/sys/bus/pci/devices/$rounds_bdf" ]; } 2>/dev/null || break
            note "$rounds_name: gone by itself: $(dmesg | tail -n 3 | tr '\n' ' ')"
            { come "$rounds_bdf" "$rounds_device" && give "$rounds_bdf"; } || break
        done
        rounds_said "^attached $rounds_done\$" || break
        $rounds_take "$rounds_bdf" "$come_id"
        rounds_said "^ended $rounds_done\$" || break
        # The kernel finishes the removal, which it cannot while a process holds the drive.
        wait_for 60 test ! -e "/sys/bus/pci/devices/$rounds_bdf" || break
        come "$rounds_bdf" "$rounds_device" || break
        give "$rounds_bdf" || break
        rounds_done=$((rounds_done + 1))
    done
    rounds_done_well=no
    if [ $rounds_done = "$rounds_count" ] && wait_for 60 sh -c "! kill -0 $rounds_pid 2>/dev/null"; then
        rounds_done_well=yes
    fi
    kill -KILL $rounds_pid 2>/dev/null
    wait $rounds_pid
    rounds_status=$?
    cat /tmp/rounds.out
    if [ $rounds_done_well = yes ] && [ $rounds_status = 0 ]; then
        pass "$rounds_name"
        note "$rounds_name: $rounds_done rounds, $(grep -c '^# Tally' /tmp/rounds.out) accounts, last: $(grep '^# Tally' /tmp/rounds.out | tail -n 1 | cut -c 3-)"
    else
        dmesg | tail -n 15
        fail "$rounds_name" "round $rounds_done, exit $rounds_status: $(tail -n 3 /tmp/rounds.out | tr '\n' ' ')"
    fi
    check "$rounds_name-pages" test "$(free_pages)" = "$rounds_pages"
}

# rounds_said WORDS [TENTHS]: the command has, or has ended, which is no good; in so many tenths of a second, or in 90 s.
rounds_said() {
    said_left=${2:-900}
    until grep -q "$1" /tmp/rounds.out; do
        said_left=$((said_left - 1))
        { [ $said_left -gt 0 ] && ! grep -q '^failed' /tmp/rounds.out; } || return 1
        usleep 100000
    done
}
