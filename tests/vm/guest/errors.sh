# shellcheck shell=sh disable=SC2154
# What goes wrong between a user and a drive, and what Doorbell says then. The message must name the next step.

d512=$(bdf_of door512)
small=$(bdf_of doorsmall)
twin=$(bdf_of doortwin0)
other_twin=$(bdf_of doortwin1)

need identify || exit
have_perf=$(have doorbell-perf && echo yes)

check_fails not-bound "hugepages.sh bind" identify "pcie:$d512"
check_fails no-such-function "0000:77:00.0" identify pcie:0000:77:00.0
check_fails not-a-drive "." identify pcie:0000:00:1f.0
check_fails bad-address "pcie:0000:01:00.0|0000:01:00.0" identify pcie:nonsense
check still-with-kernel test "$(driver_of "$d512")" = nvme

# Two functions of one device without ACS share a group.
check_fails shared-group "also holds $other_twin \(nvme\)" hugepages.sh bind "$twin"
check bind hugepages.sh bind "$d512" "$small"
# The driver must say it too, where somebody bound only one by hand.
echo vfio-pci >"/sys/bus/pci/devices/$twin/driver_override"
echo "$twin" >"/sys/bus/pci/devices/$twin/driver/unbind"
echo "$twin" >/sys/bus/pci/drivers_probe
check_fails group-not-viable "viable|$other_twin" identify "pcie:$twin"
check bind-together hugepages.sh bind "$twin" "$other_twin"
check group-viable identify "pcie:$twin"

# Without privileges.
group=$(basename "$(readlink "/sys/bus/pci/devices/$small/iommu_group")")
check_fails no-permission "--user" su user -s /bin/sh -c "identify pcie:$small"
check_fails bind-needs-root "needs root" su user -s /bin/sh -c "hugepages.sh bind $small"
check grant hugepages.sh bind --user user "$small"
check grant-again hugepages.sh bind --user user "$small"
check granted test "$(stat -c %U "/dev/vfio/$group")" = user
check_fails no-such-user "no user nobody-here" hugepages.sh bind --user nobody-here "$small"
check_fails memlock-too-low "memlock|ulimit -l" su user -s /bin/sh -c "ulimit -l 64; identify pcie:$small"
check as-user su user -s /bin/sh -c "identify pcie:$small"

# One process owns a group.
if [ -n "$have_perf" ]; then
    doorbell-perf --time 60s "pcie:$d512" >/tmp/owner 2>&1 &
    owner=$!
    group_link=/dev/vfio/$(basename "$(readlink "/sys/bus/pci/devices/$d512/iommu_group")")
    if wait_for 20 sh -c "ls -l /proc/$owner/fd | grep -q '$group_link'"; then
        check_fails busy "busy|in use|another process" identify "pcie:$d512"
        check_fails unbind-busy "used by doorbell-perf \(pid $owner\)" hugepages.sh unbind "$d512"
    else
        fail busy "doorbell-perf did not open the drive: $(tail -n 2 /tmp/owner | tr '\n' ' ')"
    fi
    kill -TERM $owner
    wait $owner
fi

# The drive refuses a command: its status is reported. QEMU's trace shows it, which proves that the trace works.
if need passthrough; then
    check_fails bad-opcode "opcode|0/01|0x01" passthrough "pcie:$d512" --opcode 0xc3
fi
check unbind hugepages.sh unbind
