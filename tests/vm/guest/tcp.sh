# shellcheck shell=sh disable=SC2154
# What the scenarios over TCP share: the guest's network, the kernel's target, the kernel's host.

subsystem=nqn.2026-01.org.example:guest
host_nqn=nqn.2014-08.org.nvmexpress:uuid:5a3d4c1e-0b6f-4d3e-9a42-7f6f7d6f6f72
host_id=5a3d4c1e-0b6f-4d3e-9a42-7f6f7d6f6f72
nvmet=/sys/kernel/config/nvmet

ip link set lo up
if ip link show eth0 >/dev/null 2>&1; then
    ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
fi
mkdir -p /etc/nvme
echo $host_nqn >/etc/nvme/hostnqn
echo $host_id >/etc/nvme/hostid

# --- the kernel's target

# target_begin: a subsystem with one namespace of 64 MiB in memory, on port 4420 of every address.
target_begin() {
    modprobe null_blk nr_devices=0 && mount -t configfs none /sys/kernel/config || return
    target_medium nb0 64 && target_made
}

# target_medium NAME MIB: a block device in memory, which outlives the target.
target_medium() {
    mkdir -p "/sys/kernel/config/nullb/$1" && cd "/sys/kernel/config/nullb/$1" || return
    echo 1 >memory_backed && echo "$2" >size && echo 512 >blocksize && echo 1 >discard && echo 1 >power && cd /
}

# target_made, target_unmade: the whole of the target, its kernel modules included; its medium stays.
target_made() {
    modprobe nvmet-tcp && mkdir "$nvmet/subsystems/$subsystem" && cd "$nvmet/subsystems/$subsystem" || return
    echo 1 >attr_allow_any_host && echo guesttarget >attr_serial || return
    mkdir namespaces/1 && printf /dev/nb0 >namespaces/1/device_path || return
    echo 1 >namespaces/1/enable || return
    mkdir $nvmet/ports/1 && cd $nvmet/ports/1 || return
    echo tcp >addr_trtype && echo ipv4 >addr_adrfam && echo 0.0.0.0 >addr_traddr && echo 4420 >addr_trsvcid || return
    cd / && target_listens
}
target_unmade() {
    target_leaves && rmdir $nvmet/ports/1 || return
    echo 0 >"$nvmet/subsystems/$subsystem/namespaces/1/enable"
    rmdir "$nvmet/subsystems/$subsystem/namespaces/1" "$nvmet/subsystems/$subsystem" || return
    wait_for 20 rmmod nvmet-tcp && wait_for 20 rmmod nvmet
}

# target_port PORT FAMILY ADDRESS SERVICE: another port of the target.
target_port() {
    mkdir "$nvmet/ports/$1" && cd "$nvmet/ports/$1" || return
    echo tcp >addr_trtype && echo "$2" >addr_adrfam && echo "$3" >addr_traddr && echo "$4" >addr_trsvcid || return
    cd / && ln -s "$nvmet/subsystems/$subsystem" "$nvmet/ports/$1/subsystems/$subsystem"
}

# target_listens, target_leaves: the subsystem comes to the port, and goes from it with its connections.
target_listens() {
    ln -s "$nvmet/subsystems/$subsystem" "$nvmet/ports/1/subsystems/$subsystem"
}
target_leaves() {
    rm "$nvmet/ports/1/subsystems/$subsystem"
}

# --- the kernel's host

modprobe nvme-tcp

# kernel_discover ADDRESS PORT
kernel_discover() {
    nvme discover --transport=tcp --traddr="$1" --trsvcid="$2" --hostnqn=$host_nqn --hostid=$host_id
}

# kernel_connect ADDRESS PORT NQN [OPTION...]
kernel_connect() {
    connect_address=$1 connect_port=$2 connect_nqn=$3
    shift 3
    nvme connect --transport=tcp --traddr="$connect_address" --trsvcid="$connect_port" --nqn="$connect_nqn" \
        --hostnqn=$host_nqn --hostid=$host_id --reconnect-delay=1 "$@" || return
    wait_for 20 block_appears "$connect_nqn"
}

kernel_disconnect() {
    nvme disconnect --nqn="$1" && wait_for 20 block_is_gone "$1"
}

# kernel_block NQN: the first block device of a connected subsystem.
kernel_block() {
    for kernel_subsystem in /sys/class/nvme-subsystem/nvme-subsys*; do
        [ "$(cat "$kernel_subsystem/subsysnqn" 2>/dev/null)" = "$1" ] || continue
        for kernel_namespace in "$kernel_subsystem"/nvme*n*; do
            case ${kernel_namespace##*/} in *c*) continue ;; esac
            [ -b "/dev/${kernel_namespace##*/}" ] && echo "/dev/${kernel_namespace##*/}" && return
        done
    done
    return 1
}
block_appears() { kernel_block "$1" >/dev/null; }
block_is_gone() { ! kernel_block "$1" >/dev/null; }

# kernel_controller NQN: its character device.
kernel_controller() {
    for kernel_path in /sys/class/nvme/nvme*; do
        [ "$(cat "$kernel_path/subsysnqn" 2>/dev/null)" = "$1" ] && echo "/dev/${kernel_path##*/}" && return
    done
    return 1
}

# state_is STATE NQN: whether its controller is live, connecting, ...
state_is() {
    state_path=$(kernel_controller "$2") && [ "$(cat "/sys/class/nvme/${state_path##*/}/state")" = "$1" ]
}

# write_and_read BLOCK SEED: writes 8 MiB past every cache, and reads them back.
write_and_read() {
    bytes_from "$2" 8388608 >/tmp/written
    dd if=/tmp/written of="$1" bs=128k oflag=direct 2>/dev/null || return
    dd if="$1" of=/tmp/read bs=1M count=8 iflag=direct 2>/dev/null || return
    cmp /tmp/written /tmp/read
}

# fio_verify BLOCK [OPTION...]: writes of many sizes at random places of 32 MiB, all in flight at once, then read back.
fio_verify() {
    verify_block=$1
    shift
    fio --name=verify --filename="$verify_block" --rw=randwrite --bsrange=512-128k --blockalign=512 --size=32M \
        --iodepth=32 --ioengine=io_uring --direct=1 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
        --randrepeat=1 --output-format=normal "$@"
}

# ext4_life BLOCK: a filesystem is made, filled, checked, found again, trimmed and left whole.
ext4_life() {
    mkdir -p /tmp/mounted
    mkfs.ext4 -q -F "$1" 48M && mount -t ext4 "$1" /tmp/mounted || return
    life_status=0
    { mkdir /tmp/mounted/files && cp /bin/busybox /bin/fio /bin/nvme /tmp/mounted/files/ && sync &&
        (cd /tmp/mounted/files && sha256sum ./* >/tmp/sums) && rm /tmp/mounted/files/fio; } || life_status=1
    umount /tmp/mounted && [ $life_status = 0 ] && e2fsck -f -n "$1" || return
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 "$1" /tmp/mounted || return
    { (cd /tmp/mounted/files && grep -v fio /tmp/sums | sha256sum -c) && fstrim /tmp/mounted; } || life_status=1
    umount /tmp/mounted && e2fsck -f -n "$1" && [ $life_status = 0 ]
}

# What the block layer says of commands of its own, trims among them, which nobody waits for.
no_io_errors() { ! dmesg | grep 'I/O error, dev nvme'; }

# host_battery NAME ADDRESS PORT NQN SERIAL: what the kernel's host and nvme-cli do with a target.
host_battery() {
    check_says "$1-discover" "subnqn: *$4" kernel_discover "$2" "$3"
    check "$1-connect" kernel_connect "$2" "$3" "$4" --keep-alive-tmo=5 --nr-io-queues=2 || return
    battery_block=$(kernel_block "$4")
    battery_controller=$(kernel_controller "$4")
    check_says "$1-list" "$battery_block .*$5" nvme list
    check_says "$1-list-subsys" "tcp traddr=$2.*live" nvme list-subsys "$battery_block"
    check_says "$1-id-ctrl" "sn +: $5" nvme id-ctrl "$battery_controller"
    check_says "$1-id-ns" "nsze +: 0x" nvme id-ns "$battery_block"
    check_says "$1-ns-descs" "uuid" nvme ns-descs "$battery_block"
    check_says "$1-list-ns" "0x1" nvme list-ns "$battery_controller"
    check_says "$1-smart-log" "critical_warning" nvme smart-log "$battery_controller"
    check_says "$1-error-log" "Error Log Entries" nvme error-log "$battery_controller"
    check_says "$1-get-property" "version|1\.|2\." nvme get-property "$battery_controller" --offset=0x8 --human-readable
    check "$1-data" write_and_read "$battery_block" "$1"
    check "$1-flush" nvme flush "$battery_block" --namespace-id=1
    check "$1-dsm" nvme dsm "$battery_block" --namespace-id=1 --ad --slbs=0 --blocks=8
    check "$1-write-zeroes" nvme write-zeroes "$battery_block" --namespace-id=1 --start-block=8 --block-count=7
    check_fails "$1-past-the-end" "LBA_RANGE|LBA out of range|exceeds" \
        nvme read "$battery_block" --start-block=0x7fffffff --block-count=0 --data-size=512 --data=/tmp/read
    check "$1-reset" nvme reset "$battery_controller"
    wait_for 20 state_is live "$4"
    check "$1-data-after-reset" write_and_read "$battery_block" "$1 again"
    check "$1-ext4" ext4_life "$battery_block"
    check "$1-fio" fio_verify "$battery_block"
    check "$1-no-errors" no_io_errors
    check "$1-disconnect" kernel_disconnect "$4"
    for options in "--hdr-digest" "--data-digest --queue-size=16" "--hdr-digest --data-digest --nr-io-queues=1" \
        "--disable-sqflow --nr-poll-queues=1"; do
        options_name=$(echo "$options" | tr -d '-' | tr ' =' '-')
        # shellcheck disable=SC2086 # several options
        check "$1-connect-$options_name" kernel_connect "$2" "$3" "$4" $options || continue
        check "$1-fio-$options_name" fio_verify "$(kernel_block "$4")" --size=8M
        check "$1-disconnect-$options_name" kernel_disconnect "$4"
    done
}
