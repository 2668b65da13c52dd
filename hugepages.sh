#!/bin/sh
# Prepares a machine for Doorbell: hugepages to do DMA from, and NVMe drives bound to vfio-pci. `--help` tells how.
#
# Every change is printed and is undone by the opposite command: what was there before is kept under /run/doorbell. Plain POSIX sh, so that it also runs under busybox in an initramfs.
#
# DOORBELL_ROOT=DIR is put before /sys, /proc, /dev and /run: tests run it on a made-up tree.
set -u

root=${DOORBELL_ROOT:-}
sys=$root/sys
proc=$root/proc
dev=$root/dev
state=$root/run/doorbell
me=hugepages.sh

usage() {
    cat <<'TEXT'
usage: hugepages.sh COMMAND [OPTION...]

  reserve [AMOUNT]    hugepages: a number of pages, or a size such as 512M or 2G (default 1G, over all nodes)
  release             gives back what `reserve` took
  bind DRIVE...       takes drives from the kernel's driver and binds them to vfio-pci, for `pcie:` addresses
  unbind [DRIVE...]   gives drives back to the driver they had (default: every drive bound by `bind`)
  status              hugepages per node, and each NVMe drive with its driver, IOMMU group and users (the default)

  DRIVE is a PCI address (0000:01:00.0, 01:00.0, pcie:0000:01:00.0) or a name (nvme0, nvme0n1, /dev/nvme0n1).

options:
  --size 2M|1G        reserve, release: size of a page (default 2M)
  --node N            reserve, release: this NUMA node only
  --all               release: every hugepage of that size, whoever reserved it
  --user NAME         bind: NAME may use the drive too (owner of its node in /dev/vfio)
  --force             bind: even if the drive is mounted, swapped on, held or holds data; unbind: even if in use
  -n, --dry-run       says what would change, changes nothing
  -h, --help          this text

Everything can be repeated: what is already so stays so. All but `status` need root. Nothing survives a reboot; for
hugepages that do, use the kernel words hugepagesz=2M hugepages=512.
TEXT
}

say() { printf '%s\n' "$*"; }
error() { printf '%s: %s\n' "$me" "$*" >&2; }
die() {
    error "$@"
    exit 1
}
wrong_usage() {
    error "$@"
    error "see $me --help"
    exit 2
}

dry_run=no
force=no

# put VALUE FILE: writes a file of the kernel's.
put() {
    [ "$dry_run" = no ] || return 0
    (printf '%s\n' "$1" >"$2") 2>/dev/null
}

# first_line FILE: its first line without the blanks that pad strings of a drive, or nothing.
first_line() (
    read -r line 2>/dev/null <"$1" || [ -n "${line:-}" ] || exit 0
    printf '%s\n' "$line" | sed 's/ *$//'
) 2>/dev/null

need_root() {
    [ -z "$root" ] || return 0
    [ "$(id -u)" = 0 ] || die "$1 needs root; run: sudo ./$me $1 ..."
}

# ---------------------------------------------------------------------------------------------------- hugepages

# size_kib TEXT: 2M, 2MiB, 1G, 512K, 4096 (bytes) and the like, in KiB.
size_kib() {
    case $1 in
        *[!0-9KkMmGgTtiBb]* | [!0-9]*) return 1 ;;
    esac
    size_digits=${1%%[!0-9]*}
    case ${1#"$size_digits"} in
        [Kk] | [Kk]i[Bb]) say "$size_digits" ;;
        [Mm] | [Mm]i[Bb]) say $((size_digits * 1024)) ;;
        [Gg] | [Gg]i[Bb]) say $((size_digits * 1024 * 1024)) ;;
        [Tt] | [Tt]i[Bb]) say $((size_digits * 1024 * 1024 * 1024)) ;;
        *) return 1 ;;
    esac
}

# nodes: NUMA nodes that have memory, one a line; "-" where the kernel knows none.
nodes() (
    found=no
    for folder in "$sys"/devices/system/node/node[0-9]*; do
        [ -d "$folder/hugepages" ] || continue
        total=$(awk '/MemTotal/ { print $4 }' "$folder/meminfo" 2>/dev/null)
        [ "${total:-1}" != 0 ] || continue
        found=yes
        say "${folder##*/node}"
    done
    [ $found = yes ] || say -
)

# pages_of NODE KIB: the kernel's folder for pages of one size on one node.
pages_of() {
    if [ "$1" = - ]; then
        say "$sys/kernel/mm/hugepages/hugepages-$2kB"
    else
        say "$sys/devices/system/node/node$1/hugepages/hugepages-$2kB"
    fi
}

node_name() {
    if [ "$1" = - ]; then say "memory"; else say "node $1"; fi
}

size_name() {
    if [ "$1" -ge 1048576 ]; then say "$(($1 / 1048576))G"; else say "$(($1 / 1024))M"; fi
}

need_page_size() {
    [ -d "$(pages_of "$1" "$2")" ] && return
    case $2 in
        1048576) remedy="the processor needs the flag pdpe1gb (grep pdpe1gb /proc/cpuinfo); use --size 2M" ;;
        *) remedy="a kernel without CONFIG_HUGETLBFS, or a container without /sys? Doorbell also runs on ordinary pages" ;;
    esac
    die "$(node_name "$1") offers no $(size_name "$2") pages: $remedy"
}

# reserve_on NODE KIB PAGES: at least that many pages there; says what it did.
reserve_on() {
    pages=$(pages_of "$1" "$2")
    before=$(first_line "$pages/nr_hugepages")
    what="$(node_name "$1"): $(size_name "$2") pages"
    if [ "${before:-0}" -ge "$3" ]; then
        say "$what: $before, already enough"
        return 0
    fi
    if [ "$dry_run" = yes ]; then
        say "$what: would go from $before to $3"
        return 0
    fi
    # Keep the number to give back before changing it; a second call must not overwrite the first one's.
    kept=$state/hugepages/$1.$2
    mkdir -p "$state/hugepages" || die "cannot write to $state"
    [ -f "$kept" ] || say "$before" >"$kept"
    put "$3" "$pages/nr_hugepages" || die "$what: the kernel refuses $pages/nr_hugepages; in a container, reserve on the host"
    after=$(first_line "$pages/nr_hugepages")
    if [ "$after" -lt "$3" ] && [ -e "$proc/sys/vm/compact_memory" ]; then
        say "$what: got $after of $3, compacting memory (vm.compact_memory) and asking again"
        put 1 "$proc/sys/vm/compact_memory"
        put "$3" "$pages/nr_hugepages"
        after=$(first_line "$pages/nr_hugepages")
    fi
    say "$what: $before -> $after"
    [ "$after" -ge "$3" ] && return 0
    error "$what: the kernel found memory for $after of $3: free some, ask for fewer, or reserve at boot with the kernel words hugepagesz=$(size_name "$2") hugepages=$3"
    return 1
}

reserve() {
    need_root reserve
    if [ "$node" != any ]; then
        where=$node
        [ -d "$sys/devices/system/node/node$node" ] || die "there is no NUMA node $node; there are: $(nodes | tr '\n' ' ')"
    else
        where=$(nodes)
    fi
    for one in $where; do
        need_page_size "$one" "$kib"
    done
    case $amount in
        *[!0-9]*)
            amount_kib=$(size_kib "$amount") || wrong_usage "$amount is neither a number of pages nor a size such as 512M or 2G"
            wanted=$(((amount_kib + kib - 1) / kib))
            ;;
        *) wanted=$amount ;;
    esac
    # Evenly over the nodes; the first ones get what is left over.
    # shellcheck disable=SC2086
    set -- $where
    left=$wanted
    failed=0
    while [ $# -gt 0 ]; do
        share=$(((left + $# - 1) / $#))
        reserve_on "$1" "$kib" "$share" || failed=1
        left=$((left - share))
        shift
    done
    return $failed
}

# release_on NODE KIB PAGES
release_on() {
    pages=$(pages_of "$1" "$2")
    before=$(first_line "$pages/nr_hugepages")
    what="$(node_name "$1"): $(size_name "$2") pages"
    if [ "$dry_run" = yes ]; then
        say "$what: would go from $before to $3"
        return 0
    fi
    if [ "${before:-0}" -gt "$3" ]; then
        put "$3" "$pages/nr_hugepages" || die "$what: the kernel refuses $pages/nr_hugepages"
        say "$what: $before -> $(first_line "$pages/nr_hugepages")"
        surplus=$(first_line "$pages/surplus_hugepages")
        [ "${surplus:-0}" = 0 ] || say "$what: $surplus more are in use and go when their programs end"
    else
        say "$what: $before, nothing to give back"
    fi
    rm -f "$state/hugepages/$1.$2"
}

release() {
    need_root release
    for one in $(nodes); do
        [ "$node" = any ] || [ "$node" = "$one" ] || continue
        need_page_size "$one" "$kib"
        if [ "$all" = yes ]; then
            release_on "$one" "$kib" 0
        elif [ -f "$state/hugepages/$one.$kib" ]; then
            release_on "$one" "$kib" "$(first_line "$state/hugepages/$one.$kib")"
        else
            say "$(node_name "$one"): $(size_name "$kib") pages: none reserved by $me (--all takes the others too)"
        fi
    done
}

# ---------------------------------------------------------------------------------------------------- drives

# drives: PCI addresses of all NVMe controllers.
drives() (
    for function in "$sys"/bus/pci/devices/*; do
        case $(first_line "$function/class") in
            0x0108*) say "${function##*/}" ;;
        esac
    done
)

driver_of() (
    path=$(readlink "$sys/bus/pci/devices/$1/driver") || exit 0
    say "${path##*/}"
)

group_of() (
    path=$(readlink "$sys/bus/pci/devices/$1/iommu_group") || exit 0
    say "${path##*/}"
)

# namespaces BDF: its block devices by name. With native multipath a path (nvme0c1n1) stands for its head (nvme0n1).
namespaces() (
    for block in "$sys/bus/pci/devices/$1"/nvme/nvme*/nvme*n*; do
        block=$(say "${block##*/}" | sed 's/^\(nvme[0-9]*\)c[0-9]*\(n[0-9]*\)$/\1\2/')
        [ -e "$sys/class/block/$block" ] && say "$block"
    done | sort -u
)

# with_partitions BLOCK: the device and its partitions.
with_partitions() (
    say "$1"
    for part in "$sys/class/block/$1/$1"p*; do
        [ -e "$part/partition" ] && say "${part##*/}"
    done
)

# drive_named TEXT: PCI address of the drive the user means.
drive_named() (
    name=${1#pcie:}
    name=${name#/dev/}
    case $name in
        [0-9a-fA-F]*:[0-9a-fA-F]*.[0-7])
            name=$(say "$name" | tr 'A-F' 'a-f')
            case $name in *:*:*) ;; *) name=0000:$name ;; esac
            if [ ! -d "$sys/bus/pci/devices/$name" ]; then
                error "$1: there is no PCI function $name; the NVMe drives are: $(drives | tr '\n' ' ')"
                exit 1
            fi
            class=$(first_line "$sys/bus/pci/devices/$name/class")
            case $class in
                0x0108*) ;;
                *)
                    error "$1: not an NVMe drive (PCI class $class); the NVMe drives are: $(drives | tr '\n' ' ')"
                    exit 1
                    ;;
            esac
            say "$name"
            ;;
        *)
            for function in $(drives); do
                for known in $(ls "$sys/bus/pci/devices/$function/nvme" 2>/dev/null) $(namespaces "$function"); do
                    case $name in
                        "$known" | "$known"p[0-9]*)
                            say "$function"
                            exit 0
                            ;;
                    esac
                done
            done
            error "$1: no such drive; name one by its PCI address or as nvme0: $(drives | tr '\n' ' ')"
            exit 1
            ;;
    esac
)

# hex FILE OFFSET COUNT: bytes as one line of hex digits.
hex() {
    dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | od -An -v -tx1 | tr -d ' \n'
}

# signature BLOCK: what the data on a block device begins (or ends) as, or nothing.
signature() (
    file=$dev/$1
    # Offset, bytes, name; first what stands in the first 8 KiB, read at once.
    found=$(
        {
            dd if="$file" bs=4096 count=2 2>/dev/null | od -An -v -tx1 | tr -d ' \n'
            printf '%s\n' "" \
                "0 4c554b53babe LUKS volume" \
                "0 4c4142454c4f4e45 LVM physical volume" \
                "512 4c4142454c4f4e45 LVM physical volume" \
                "1024 4c4142454c4f4e45 LVM physical volume" \
                "1536 4c4142454c4f4e45 LVM physical volume" \
                "0 fc4e2ba9 md member" \
                "4096 fc4e2ba9 md member" \
                "0 58465342 xfs filesystem" \
                "0 626c756573746f7265 Ceph bluestore" \
                "1080 53ef ext2/3/4 filesystem" \
                "4086 53574150535041434532 swap area" \
                "4120 c68573f64e1a45ca8265f57f48ba6d81 bcache device" \
                "1024 1020f5f2 f2fs filesystem" \
                "512 4546492050415254 partition table (GPT)" \
                "4096 4546492050415254 partition table (GPT)" \
                "510 55aa boot sector (partition table, FAT or NTFS)"
        } | awk 'NR == 1 { head = $1; next }
            index(substr(head, 2 * $1 + 1), $2) == 1 { $1 = $2 = ""; sub(/^ */, ""); print; exit }'
    )
    if [ -n "$found" ]; then
        say "$found"
        exit 0
    fi
    # Old md metadata stands at the end: format 1.0 in the last 8-12 KiB, 0.90 in the last 64-128.
    sectors=$(first_line "$sys/class/block/$1/size")
    sectors=${sectors:-0}
    while read -r offset magic name; do
        [ "$offset" -ge 0 ] || continue
        [ "$(hex "$file" "$offset" $((${#magic} / 2)))" = "$magic" ] || continue
        say "$name"
        exit 0
    done <<TABLE
32769 4344303031 iso9660 filesystem
65600 5f42485266535f4d btrfs filesystem
131072 0cb1ba00 ZFS member
$((((sectors - 16) & ~7) * 512)) fc4e2ba9 md member
$((((sectors & ~127) - 128) * 512)) fc4e2ba9 md member
TABLE
    # Whatever else this machine's own tools recognise.
    [ -n "$root" ] || ! command -v blkid >/dev/null || blkid -p -o value -s TYPE "$file" 2>/dev/null
)

# survey: once per run, who has mounted what (device number, source, place) and holds which drives open (pid, file).
# Of every process: a container may have a drive mounted where this one does not see it.
survey() {
    # shellcheck disable=SC2002,SC2012,SC2046 # names here are numbers; find of busybox cannot match what a link says
    mounts=$(
        cat $(
            say "$proc/self/mountinfo"
            ls -l "$proc"/[0-9]*/ns/mnt 2>/dev/null |
                awk '!($NF in seen) { seen[$NF]; file = $(NF - 2); sub(/ns.mnt$/, "mountinfo", file); print file }'
        ) 2>/dev/null |
            awk '{ for (i = 7; i < NF; i++) if ($i == "-") { print $3, $(i + 2), $5; break } }' | sort -u
    )
    # The / makes ls name the folders even where there is but one process.
    # shellcheck disable=SC2012
    opened=$(
        ls -l / "$proc"/[0-9]*/fd 2>/dev/null |
            awk '/\/fd:$/ { n = split($0, part, "/"); pid = part[n - 1] }
                NF > 2 && $(NF - 1) == "->" && $NF ~ /^\/dev\/(nvme|vfio\/)/ { print pid, $NF }
                END { print "0 end" }' | sort -u
    )
    # Not knowing must not look like nobody.
    case $mounts/$opened in
        /* | */) die "cannot read $proc/self/mountinfo or $proc/*/fd: is /proc mounted?" ;;
    esac
}

# openers FILE: processes that hold it open, as "name (pid N)".
openers() (
    printf '%s\n' "$opened" | awk -v file="$1" '$2 == file { print $1 }' | while read -r pid; do
        name=$(first_line "$proc/$pid/comm")
        case $name in
            # Looks at every block device that appears, and lets go of it at once.
            *udev*) ;;
            *) say "${name:-process} (pid $pid)" ;;
        esac
    done
)

# uses_of_block BLOCK: one line a use.
uses_of_block() (
    numbers=$(first_line "$sys/class/block/$1/dev")
    printf '%s\n' "$mounts" | awk -v numbers="${numbers:--}" -v node="/dev/$1" '
        ($1 == numbers || $2 == node) && !($3 in seen) { seen[$3]; print "mounted on " $3 }'
    awk -v node="/dev/$1" '$1 == node { print "swapped on" }' "$proc/swaps" 2>/dev/null
    for holder in "$sys/class/block/$1"/holders/*; do
        [ -e "$holder" ] || continue
        holder=${holder##*/}
        kind=
        case $(first_line "$sys/class/block/$holder/dm/uuid") in
            LVM-*) kind="LVM " ;;
            CRYPT-*) kind="encrypted " ;;
            mpath-*) kind="multipath " ;;
        esac
        case $holder in md*) kind="md array " ;; esac
        name=$(first_line "$sys/class/block/$holder/dm/name")
        say "held by $kind$holder${name:+ ($name)}"
    done
    openers "/dev/$1" | sed 's/^/opened by /'
    if [ -r "$dev/$1" ]; then
        found=$(signature "$1" | head -n 1)
        [ -z "$found" ] || say "holds data: $found"
    else
        say "holds who knows what: only root can read it"
    fi
)

# uses_of BDF: what a drive is in use by, one line a use.
uses_of() (
    case $(driver_of "$1") in
        vfio-pci)
            openers "/dev/vfio/$(group_of "$1")" | sed 's/^/used by /'
            ;;
        *)
            for block in $(namespaces "$1"); do
                for part in $(with_partitions "$block"); do
                    uses_of_block "$part" | sed "s|^|/dev/$part |"
                done
            done
            ;;
    esac
)

kept_of() {
    say "$state/drives/$1"
}

# kept BDF KEY: a value that bind wrote down.
kept() {
    sed -n "s/^$2 //p" "$(kept_of "$1")" 2>/dev/null
}

model_of() (
    for known in "$sys/bus/pci/devices/$1"/nvme/nvme*/model; do
        [ -e "$known" ] || continue
        first_line "$known"
        exit 0
    done
    model=$(kept "$1" model)
    say "${model:-PCI $(first_line "$sys/bus/pci/devices/$1/vendor"):$(first_line "$sys/bus/pci/devices/$1/device")}"
)

# wait_until COMMAND...: up to 5 seconds; devices and nodes appear a moment after they were asked for.
wait_until() {
    tries=50
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1 2>/dev/null || sleep 1
    done
}

has_driver() { [ "$(driver_of "$1")" = "$2" ]; }

load_vfio() {
    [ -d "$sys/bus/pci/drivers/vfio-pci" ] && return 0
    if [ "$dry_run" = yes ]; then
        say "would load the modules vfio-pci and vfio_iommu_type1"
        return 0
    fi
    for module in vfio_iommu_type1 vfio-pci; do
        modprobe "$module" 2>/dev/null || true
    done
    [ -d "$sys/bus/pci/drivers/vfio-pci" ] ||
        die "the kernel has no vfio-pci driver: modprobe vfio-pci fails (in a container, load it on the host)"
    say "loaded the modules vfio-pci and vfio_iommu_type1"
}

# group_mates BDF: functions of its IOMMU group whose drivers keep the group from userspace, but for those bound with it.
group_mates() (
    for mate in "$sys/bus/pci/devices/$1"/iommu_group/devices/*; do
        mate=${mate##*/}
        case $together in *" $mate "*) continue ;; esac
        [ -e "$sys/bus/pci/devices/$mate" ] || continue
        case $(driver_of "$mate") in
            "" | vfio-pci | pci-stub | pcieport) ;;
            *) say "$mate ($(driver_of "$mate"))" ;;
        esac
    done
)

# grant BDF: gives the group's node to --user.
grant() {
    [ -n "$user" ] || return 0
    node_file=$dev/vfio/$(group_of "$1")
    if [ "$dry_run" = yes ]; then
        say "$1: would give $node_file to $user"
        return 0
    fi
    wait_until test -e "$node_file" || die "$1: $node_file does not appear; is /dev a devtmpfs, or udev running?"
    if [ "$(stat -c %u "$node_file")" = "$user_id" ]; then
        say "$1: $node_file already belongs to $user"
    else
        chown "$user_id" "$node_file" || die "$1: cannot give $node_file to $user"
        say "$1: $node_file now belongs to $user"
    fi
    case $(stat -c %a "$dev/vfio/vfio" 2>/dev/null) in
        *[67]) ;;
        *)
            chmod o+rw "$dev/vfio/vfio" || die "cannot open $dev/vfio/vfio to $user"
            say "$dev/vfio/vfio is now open to all users (it gives access to no device by itself)"
            ;;
    esac
    say "$1: DMA memory counts against the memlock limit (ulimit -l) of $user, which stays as it is; to raise it, put '$user - memlock unlimited' into /etc/security/limits.d/doorbell.conf and log in again"
}

# may_bind BDF: whether it can be taken without harm; says why not.
may_bind() {
    [ "$(driver_of "$1")" != vfio-pci ] || return 0
    if [ -z "$(group_of "$1")" ]; then
        error "$1: no IOMMU protects memory from this drive: turn on VT-d or AMD-Vi in the firmware, boot with intel_iommu=on (Intel), and see that 'dmesg | grep -i -e DMAR -e AMD-Vi' shows it; in a guest, give it a virtual IOMMU"
        return 1
    fi
    uses=$(uses_of "$1")
    [ -n "$uses" ] || return 0
    printf '%s\n' "$uses" | sed "s/^/$me: $1: /" >&2
    if [ "$force" = no ]; then
        error "$1: refused, the drive is in use or holds data: unmount, swapoff or stop what holds it, wipe what is left (wipefs -a), or take it as it is with --force"
        return 1
    fi
    error "$1: taken all the same (--force)"
}

bind_one() {
    bdf=$1
    old=$(driver_of "$bdf")
    if [ "$old" = vfio-pci ]; then
        say "$bdf: already bound to vfio-pci, group $(group_of "$bdf")"
        grant "$bdf"
        return
    fi
    mates=$(group_mates "$bdf")
    if [ -n "$mates" ]; then
        error "$bdf: IOMMU group $(group_of "$bdf") also holds $(printf '%s' "$mates" | tr '\n' ' '): a group goes to userspace as a whole; bind the drives among these together, unbind the others from their drivers, or put the drive into another slot"
        return 1
    fi
    load_vfio
    if [ "$dry_run" = yes ]; then
        say "$bdf: would go from ${old:-no driver} to vfio-pci, group $(group_of "$bdf")"
        grant "$bdf"
        return
    fi
    mkdir -p "$state/drives" || die "cannot write to $state"
    model=$(model_of "$bdf")
    printf 'driver %s\nmodel %s\n' "${old:-none}" "$model" >"$(kept_of "$bdf").new" &&
        mv "$(kept_of "$bdf").new" "$(kept_of "$bdf")"

    function=$sys/bus/pci/devices/$bdf
    put vfio-pci "$function/driver_override" &&
        { [ -z "$old" ] || put "$bdf" "$function/driver/unbind"; } &&
        put "$bdf" "$sys/bus/pci/drivers_probe"
    if ! wait_until has_driver "$bdf" vfio-pci; then
        put "" "$function/driver_override"
        put "$bdf" "$sys/bus/pci/drivers_probe"
        rm -f "$(kept_of "$bdf")"
        error "$bdf: vfio-pci does not take the drive (see dmesg); it is with $(driver_of "$bdf") again"
        return 1
    fi
    say "$bdf: ${old:-no driver} -> vfio-pci, group $(group_of "$bdf") ($model)"
    wait_until test -e "$dev/vfio/$(group_of "$bdf")" || error "$bdf: no node $dev/vfio/$(group_of "$bdf") yet"
    grant "$bdf"
}

bind() {
    need_root bind
    survey
    [ $# -gt 0 ] || wrong_usage "bind needs a drive; the NVMe drives are: $(drives | tr '\n' ' ')"
    user_id=
    if [ -n "$user" ]; then
        user_id=$(id -u "$user" 2>/dev/null) || die "there is no user $user"
    fi
    failed=0
    together=" "
    for named in "$@"; do
        if found=$(drive_named "$named") && may_bind "$found"; then
            together="$together$found "
        else
            failed=1
        fi
    done
    for one in $together; do
        bind_one "$one" || failed=1
    done
    return $failed
}

unbind_one() {
    bdf=$1
    old=$(driver_of "$bdf")
    back=$(kept "$bdf" driver)
    back=${back:-nvme}
    function=$sys/bus/pci/devices/$bdf
    if [ "$old" != vfio-pci ]; then
        say "$bdf: not bound to vfio-pci but to ${old:-no driver}, nothing to give back"
        rm -f "$(kept_of "$bdf")"
        return
    fi
    # The kernel would wait, deaf to signals, until the last user closes it.
    uses=$(uses_of "$bdf")
    if [ -n "$uses" ] && [ "$force" = no ]; then
        printf '%s\n' "$uses" | sed "s/^/$me: $bdf: /" >&2
        error "$bdf: refused, end these programs first (with --force, this waits for them)"
        return 1
    fi
    if [ "$dry_run" = yes ]; then
        say "$bdf: would go from vfio-pci to $back"
        return
    fi
    put "" "$function/driver_override"
    put "$bdf" "$function/driver/unbind"
    if [ "$back" != none ]; then
        put "$bdf" "$sys/bus/pci/drivers_probe"
        wait_until has_driver "$bdf" "$back" || put "$bdf" "$sys/bus/pci/drivers/$back/bind"
        if ! wait_until has_driver "$bdf" "$back"; then
            error "$bdf: $back does not take the drive back (see dmesg); it has now: $(driver_of "$bdf")"
            return 1
        fi
    fi
    rm -f "$(kept_of "$bdf")"
    say "$bdf: vfio-pci -> $back"
}

unbind() {
    need_root unbind
    survey
    failed=0
    if [ $# -eq 0 ]; then
        for file in "$state"/drives/*:*; do
            [ -e "$file" ] && set -- "$@" "${file##*/}"
        done
        [ $# -gt 0 ] || say "no drive is bound by $me"
    fi
    for named in "$@"; do
        found=$(drive_named "$named") || { failed=1; continue; }
        unbind_one "$found" || failed=1
    done
    return $failed
}

# ---------------------------------------------------------------------------------------------------- status

status() {
    survey
    printf '%-8s %-5s %8s %8s %8s\n' NODE SIZE PAGES FREE OURS
    for one in $(nodes); do
        for pages in "$(dirname "$(pages_of "$one" 0)")"/hugepages-*kB; do
            [ -d "$pages" ] || continue
            size=${pages##*/hugepages-}
            size=${size%kB}
            total=$(first_line "$pages/nr_hugepages")
            ours=0
            [ -f "$state/hugepages/$one.$size" ] && ours=$((total - $(first_line "$state/hugepages/$one.$size")))
            printf '%-8s %-5s %8s %8s %8s\n' "$one" "$(size_name "$size")" "$total" "$(first_line "$pages/free_hugepages")" "$ours"
        done
    done
    say
    printf '%-12s  %-24s  %-8s  %-5s  %-4s  %s\n' DRIVE MODEL DRIVER GROUP NODE "IN USE BY"
    any=no
    for bdf in $(drives); do
        any=yes
        names=$(namespaces "$bdf" | tr '\n' ' ')
        uses=$(uses_of "$bdf")
        driver=$(driver_of "$bdf")
        group=$(group_of "$bdf")
        numa=$(first_line "$sys/bus/pci/devices/$bdf/numa_node")
        [ "${numa:--1}" = -1 ] && numa=-
        printf '%-12s  %-24.24s  %-8s  %-5s  %-4s  %s\n' "$bdf" "$(model_of "$bdf")" "${driver:-none}" "${group:-none}" "$numa" \
            "$(printf '%s\n' "${uses:-nobody${names:+ (${names% })}}" | head -n 1)"
        printf '%s\n' "$uses" | sed -n "2,\$s/^/$(printf '%63s' '')/p"
    done
    [ $any = yes ] || say "no NVMe drive (PCI class 0108) on this machine"
    # shellcheck disable=SC3045 # not POSIX, but dash, bash and busybox have it
    memlock=$(ulimit -l 2>/dev/null || say unlimited)
    [ "$memlock" = unlimited ] || [ -n "$root" ] ||
        say "memlock limit of this shell: $memlock KiB; a program that is not root can do DMA from no more than that"
}

# ---------------------------------------------------------------------------------------------------- arguments

command=
amount=
user=
node=any
kib=2048
all=no
operands=0
# Operands go to the end of the list and are what is left of it when the options are gone.
set -- "$@" --end-of-arguments
while [ "$1" != --end-of-arguments ]; do
    argument=$1
    shift
    case $argument in
        --size=* | --node=* | --user=*)
            value=${argument#*=}
            argument=${argument%%=*}
            ;;
        --size | --node | --user)
            [ "$1" != --end-of-arguments ] || wrong_usage "$argument needs a value"
            value=$1
            shift
            ;;
    esac
    case $argument in
        -h | --help)
            usage
            exit 0
            ;;
        --size)
            kib=$(size_kib "$value") || wrong_usage "--size $value: use 2M or 1G"
            case $kib in 2048 | 1048576) ;; *) wrong_usage "--size $value: use 2M or 1G" ;; esac
            ;;
        --node)
            case $value in "" | *[!0-9]*) wrong_usage "--node $value: use the number of a NUMA node, such as 0" ;; esac
            node=$value
            ;;
        --user) user=$value ;;
        --all) all=yes ;;
        --force) force=yes ;;
        -n | --dry-run) dry_run=yes ;;
        --status) command=status ;;
        -*) wrong_usage "there is no option $argument" ;;
        *)
            if [ -z "$command" ]; then
                command=$argument
            else
                set -- "$@" "$argument"
                operands=$((operands + 1))
            fi
            ;;
    esac
done
shift

case ${command:-status} in
    reserve)
        [ "$operands" -le 1 ] || wrong_usage "reserve takes one amount"
        amount=${1:-1G}
        case $amount in *[!0-9KkMmGgTtiBb]* | [!0-9]*) wrong_usage "$amount is neither a number of pages nor a size such as 512M or 2G" ;; esac
        reserve
        ;;
    release)
        [ "$operands" -eq 0 ] || wrong_usage "release takes no amount"
        release
        ;;
    bind) bind "$@" ;;
    unbind) unbind "$@" ;;
    status)
        [ "$operands" -eq 0 ] || wrong_usage "status takes no operand"
        status
        ;;
    *) wrong_usage "there is no command $command" ;;
esac
