# shellcheck shell=sh disable=SC2154,SC2034
# Drives that are torn out under load: they are gone before anybody has been told, all-ones are all that is left, and
# the kernel hears of it from the port (pciehp). The queues notice, the driver gives the function back, and the same
# process attaches the drive when it is there again.

need removal-check || exit
# shellcheck source=/dev/null
. /guest/hot.sh
hot=$(bdf_of doorhot)
# A port that was told of a drive blinks for five seconds before it turns the slot on.
come_patience=30

# word PORT OFFSET: of the port's configuration space.
word() { dd if="/sys/bus/pci/devices/$1/config" bs=2 skip=$(($2 / 2)) count=1 2>/dev/null | od -An -tu2 | tr -d ' '; }
# set_word PORT OFFSET VALUE
set_word() {
    # shellcheck disable=SC2059 # octal escapes
    printf "\\$(printf %o $(($3 & 255)))\\$(printf %o $(($3 >> 8)))" |
        dd of="/sys/bus/pci/devices/$1/config" bs=2 seek=$(($2 / 2)) conv=notrunc 2>/dev/null
}

# tear BDF ID: the slot loses its power behind the kernel's back, with which QEMU takes the drive away without asking the
# guest; only then the slot has its power again, and the kernel is told that the drive is not there any more.
tear() {
    port=$(basename "$(dirname "$(readlink -f "/sys/bus/pci/devices/$1")")")
    place=$(($(word "$port" 52) & 255))
    while [ "$place" != 0 ] && [ $(($(word "$port" "$place") & 255)) != 16 ]; do
        place=$(($(word "$port" "$place") >> 8))
    done
    # Slot Control and Slot Status of the PCI Express capability.
    control=$((place + 24)) status=$((place + 26))
    was=$(word "$port" $control)
    # No Hot-Plug Interrupt. Then, by the upper byte alone, because QEMU unplugs at once by the whole word, and falls over
    # what the drive has in flight: power indicator off, power off.
    set_word "$port" $control $((was & ~0x20))
    printf '\7' | dd of="/sys/bus/pci/devices/$port/config" bs=1 seek=$((control + 1)) conv=notrunc 2>/dev/null
    usleep 500000
    monitor "device_del $2"
    wait_for 20 absent || return
    set_word "$port" $control "$was"
    echo "torn out: slot control $was, status $(word "$port" $status)"
}
absent() { [ $(($(word "$port" "$status") & 0x40)) = 0 ]; }
# What is plugged in before the kernel has turned off the slot's power, and then its indicator, QEMU unplugs with that.
come_when=turned_off
turned_off() { [ $(($(word "$port" "$control") & 0x700)) = $((0x700)) ]; }
ask() { monitor "device_del $2"; }

check reserve hugepages.sh reserve 64
check bind hugepages.sh bind "$hot"
# A drive that QEMU has taken away may wait for ever for memory to go on with, and keep its blocks.
drive=nvme,bus=port1,serial=doorhot,drive=doorhot,share-rw=on
rounds torn-out 5 "$hot" hot "$drive" tear removal-check "$hot" 5 notice
# The port's own way of asking: a button, and five seconds.
rounds asked-by-the-port 2 "$hot" "$come_id" "$drive" ask removal-check "$hot" 2 obey
