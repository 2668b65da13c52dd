# shellcheck shell=sh disable=SC2154
# The kernel's host against Doorbell's port: nvme-cli, a filesystem, fio, and our process ended under load.

# shellcheck source=/dev/null
. /guest/tcp.sh
need nvme || exit
need fio || exit
need doorbell-subsystem || exit
ours=nqn.2026-01.org.example:doorbell

# port_begin [OPTION...]: our process serves a file, by IPv4 and IPv6.
# shellcheck disable=SC2119,SC2120 # most give none
port_begin() {
    rm -f /tmp/port.out
    # Not /dev/null, which ends at once: only --console reads it.
    doorbell-subsystem --tcp 127.0.0.1:4420 --tcp "[::1]:4420" --nqn $ours --serial doorbelltcp \
        --namespace file:/tmp/disk,size=64MiB "$@" </tmp/commands >/tmp/port.out 2>&1 &
    echo $! >/tmp/port.pid
    wait_for 20 grep -q 4420 /tmp/port.out || { cat /tmp/port.out; return 1; }
}
port_end() {
    kill "-$1" "$(cat /tmp/port.pid)" && wait_for 20 port_is_gone
}
port_is_gone() { ! readlink "/proc/$(cat /tmp/port.pid)/exe" >/dev/null; }

# file_holds KIB: so much has arrived.
file_holds() { [ "$(du -k /tmp/disk | cut -f1)" -ge "$1" ]; }

# port_lost SIGNAL: our process ends twice while the kernel's host writes, and comes back. fio knows what it wrote, and
# reads all of it at the end.
port_lost() {
    port_end TERM && rm /tmp/disk && port_begin || return
    kernel_connect 127.0.0.1 4420 $ours --keep-alive-tmo=5 --ctrl-loss-tmo=60 || return
    fio_verify "$(kernel_block $ours)" --bsrange=4k-16k --blockalign=4k --rate_iops=500 >/tmp/fio.out 2>&1 &
    lost_fio=$!
    for kib in 2048 8192; do
        wait_for 30 file_holds $kib || { echo "fio has not written $kib KiB"; cat /tmp/fio.out; return 1; }
        kill -0 $lost_fio || { echo "fio ended before the loss"; cat /tmp/fio.out; return 1; }
        port_end "$1" || return
        wait_for 20 state_is connecting $ours || return
        port_begin || return
        wait_for 30 state_is live $ours || return
        echo "live again with $(du -k /tmp/disk | cut -f1) KiB written"
    done
    wait $lost_fio
    lost_status=$?
    cat /tmp/fio.out
    kernel_disconnect $ours && return $lost_status
}

# Kept open at its other end, so that it does not end.
mkfifo /tmp/commands && exec 4<>/tmp/commands
check serve port_begin || exit
host_battery port 127.0.0.1 4420 $ours doorbelltcp

# connect-all: what discovery finds, whose order nobody knows.
connect_all() {
    nvme connect-all --transport=tcp --traddr=127.0.0.1 --trsvcid=4420 --hostnqn="$host_nqn" --hostid="$host_id" || return
    wait_for 20 block_appears $ours && write_and_read "$(kernel_block $ours)" all && kernel_disconnect $ours
}
check connect-all connect_all
check_fails no-such-subsystem "failed|could not" kernel_connect 127.0.0.1 4420 nqn.2026-01.org.example:nobody

export CHECK_SECONDS=90
check lost-kill port_lost KILL
check lost-term port_lost TERM

# A host that is reset again and again under load. Not by io_uring, which hands its user an EAGAIN now and then when the
# kernel holds a device's queue still.
resets_under_load() {
    kernel_connect 127.0.0.1 4420 $ours --nr-io-queues=2 || return
    fio_verify "$(kernel_block $ours)" --bsrange=4k-16k --blockalign=4k --rate_iops=500 --ioengine=libaio \
        >/tmp/fio.out 2>&1 &
    resets_fio=$!
    for _ in 1 2 3 4; do
        sleep 1
        nvme reset "$(kernel_controller $ours)" && wait_for 20 state_is live $ours || return
    done
    wait $resets_fio
    resets_status=$?
    cat /tmp/fio.out
    kernel_disconnect $ours && return $resets_status
}
check resets resets_under_load
check stop port_end TERM

# What changes while it serves, as the kernel's host hears of it.
port_says() { grep -q -- "$1" /tmp/port.out; }
tell() { echo "$1" >&4 && wait_for 10 port_says "$2"; }
# blocks_are COUNT: so many namespaces has the kernel's host.
blocks_are() {
    for kernel_subsystem in /sys/class/nvme-subsystem/nvme-subsys*; do
        [ "$(cat "$kernel_subsystem/subsysnqn" 2>/dev/null)" = "$ours" ] || continue
        [ "$(find "$kernel_subsystem/" -maxdepth 1 -name 'nvme*n*' ! -name '*c*n*' | wc -l)" = "$1" ] && return
    done
    return 1
}
namespaces_change() {
    kernel_connect 127.0.0.1 4420 $ours && wait_for 10 blocks_are 1 || return
    tell "add memory:8MiB" "^namespace 2: memory" && wait_for 20 blocks_are 2 || return
    tell "remove 2" "^namespace 2: removed" && wait_for 20 blocks_are 1 || return
    tell "add memory:4MiB,block=4096" "^namespace 2: memory:4MiB" && wait_for 20 blocks_are 2 || return
    tell "remove 2" "removed" && wait_for 20 blocks_are 1 && kernel_disconnect $ours
}
# A discovery controller that stays: the kernel hands its events to whoever listens.
discovery_is_live() { state_is live nqn.2014-08.org.nvmexpress.discovery; }
heard_of_discovery() { grep -q "NVME_AEN=0x70f002" /tmp/uevents; }
discovery_changes() {
    uevent env >/tmp/uevents 2>&1 &
    listening=$!
    nvme connect --transport=tcp --traddr=127.0.0.1 --trsvcid=4420 --nqn=nqn.2014-08.org.nvmexpress.discovery \
        --hostnqn="$host_nqn" --hostid="$host_id" --keep-alive-tmo=30 && wait_for 20 discovery_is_live || return
    # Its request for events follows, and nobody says when.
    sleep 1
    tell "refer 192.0.2.7" "^referral 192.0.2.7: added"
    wait_for 20 heard_of_discovery
    discovery_heard=$?
    kill $listening
    nvme disconnect --nqn=nqn.2014-08.org.nvmexpress.discovery
    cat /tmp/uevents
    [ $discovery_heard = 0 ] || return
    kernel_discover 127.0.0.1 4420 >/tmp/log.out && grep -q "traddr: *192.0.2.7" /tmp/log.out
}
# Hosts that are let in: others are told so.
refused_is_said() { dmesg | grep -q "hostnqn: $host_nqn\|not allowed"; }
host_is_refused() {
    kernel_connect 127.0.0.1 4420 $ours || return
    dmesg -c >/dev/null
    # One that is there goes, and does not get in again.
    tell "allow nqn.2026-01.org.example:somebody" "^1 hosts are let in"
    wait_for 30 state_is_not_live || { echo "still live"; return 1; }
    nvme disconnect --nqn=$ours
    wait_for 20 block_is_gone $ours
    nvme connect --transport=tcp --traddr=127.0.0.1 --trsvcid=4420 --nqn=$ours --hostnqn="$host_nqn" --hostid="$host_id" && return 1
    dmesg | tail -n 5
    refused_is_said || return
    ! kernel_discover 127.0.0.1 4420 | grep -q "$ours" || { echo "shown to one who is not let in"; return 1; }
    tell "allow" "^every host is let in" && kernel_connect 127.0.0.1 4420 $ours && kernel_disconnect $ours
}
state_is_not_live() { ! state_is live $ours; }
ipv6() {
    kernel_discover ::1 4420 >/tmp/log.out && cat /tmp/log.out && grep -q "traddr: *::1" /tmp/log.out || return
    kernel_connect ::1 4420 $ours --hdr-digest --data-digest || return
    write_and_read "$(kernel_block $ours)" ipv6 && fio_verify "$(kernel_block $ours)" --size=4M && kernel_disconnect $ours
}
check serve-console port_begin --console || exit
check namespaces-change namespaces_change
check discovery-changes discovery_changes
check host-is-refused host_is_refused
check ipv6 ipv6
usage_is_said() { tell usage "connections of .* hosts to .* controllers"; }
check usage usage_is_said
check stop-console port_end TERM

# Our process outside the guest: packets instead of the loopback.
# shellcheck disable=SC2154
if [ -n "$outside_port" ]; then
    check_says outside-discover "subnqn: *$ours" kernel_discover 10.0.2.2 "$outside_port"
    check outside-connect kernel_connect 10.0.2.2 "$outside_port" $ours --keep-alive-tmo=30 --hdr-digest --data-digest || exit
    check outside-data write_and_read "$(kernel_block $ours)" outside
    check outside-fio fio_verify "$(kernel_block $ours)" --size=8M
    check outside-disconnect kernel_disconnect $ours
fi
