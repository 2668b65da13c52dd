# shellcheck shell=sh disable=SC2154
# The kernel's host against Doorbell's port: nvme-cli, a filesystem, fio, and our process ended under load.

# shellcheck source=/dev/null
. /guest/tcp.sh
need nvme || exit
need fio || exit
need doorbell-subsystem || exit
ours=nqn.2026-01.org.example:doorbell

# port_begin: our process serves a file.
port_begin() {
    rm -f /tmp/port.out
    doorbell-subsystem --tcp 127.0.0.1:4420 --nqn $ours --serial doorbelltcp --namespace file:/tmp/disk,size=64MiB \
        >/tmp/port.out 2>&1 &
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

# A host that is reset again and again under load, and one that goes without a word.
resets_under_load() {
    kernel_connect 127.0.0.1 4420 $ours --nr-io-queues=2 || return
    fio_verify "$(kernel_block $ours)" --bsrange=4k-16k --blockalign=4k --rate_iops=500 >/tmp/fio.out 2>&1 &
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

# Our process outside the guest: packets instead of the loopback.
# shellcheck disable=SC2154
if [ -n "$outside_port" ]; then
    check_says outside-discover "subnqn: *$ours" kernel_discover 10.0.2.2 "$outside_port"
    check outside-connect kernel_connect 10.0.2.2 "$outside_port" $ours --keep-alive-tmo=30 --hdr-digest --data-digest || exit
    check outside-data write_and_read "$(kernel_block $ours)" outside
    check outside-fio fio_verify "$(kernel_block $ours)" --size=8M
    check outside-disconnect kernel_disconnect $ours
fi
