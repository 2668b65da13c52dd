# shellcheck shell=sh disable=SC2154
# The vfio device by itself: every method of the seam against the kernel, with few mappings allowed.

d512=$(bdf_of door512)
small=$(bdf_of doorsmall)
many=$(bdf_of doormany)

need vfio-check || exit
# Before anything else loads it.
modprobe vfio_iommu_type1 dma_entry_limit=16
# On both nodes.
check reserve hugepages.sh reserve 16
check bind hugepages.sh bind "$d512" "$small" "$many"
for pair in "door512 $d512" "doorsmall $small" "doormany $many"; do
    # shellcheck disable=SC2086
    set -- $pair
    check "device-$1" vfio-check "$2"
    cat /tmp/check.out >&2
done
check unbind hugepages.sh unbind
