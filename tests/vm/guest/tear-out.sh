# shellcheck shell=sh disable=SC2154
# Drives that are torn out under load: their port loses them at once. The queues notice, all-ones are all that is left,
# the driver gives the function back, and the same process attaches the drive when it is there again.

need removal-check || exit
# shellcheck source=/dev/null
. /guest/hot.sh
hot=$(bdf_of doorhot)

# byte PORT OFFSET: of the port's configuration space.
byte() { dd if="/sys/bus/pci/devices/$1/config" bs=1 skip="$2" count=1 2>/dev/null | od -An -tu1 | tr -d ' '; }

# tear BDF: turns the power of its slot off behind the kernel's back: QEMU takes the drive away.
tear() {
    port=$(basename "$(dirname "$(readlink -f "/sys/bus/pci/devices/$1")")")
    place=$(byte "$port" 52)
    while [ "$place" != 0 ] && [ "$(byte "$port" "$place")" != 16 ]; do place=$(byte "$port" $((place + 1))); done
    # Slot Control, byte 1: power indicator off, power off; the rest as it is.
    control=$((place + 25))
    new=$(($(byte "$port" $control) | 7))
    # shellcheck disable=SC2059 # an octal escape
    printf "\\$(printf %o $new)" | dd of="/sys/bus/pci/devices/$port/config" bs=1 seek=$control conv=notrunc 2>/dev/null
}
ask() { monitor "device_del $2"; }

check reserve hugepages.sh reserve 64
check bind hugepages.sh bind "$hot"
drive=nvme,bus=port1,serial=doorhot,drive=doorhot
rounds torn-out 20 "$hot" hot "$drive" tear removal-check "$hot" 20 notice
# The port's own way of asking: a button, and five seconds.
rounds asked-by-the-port 2 "$hot" "$come_id" "$drive" ask removal-check "$hot" 2 obey
