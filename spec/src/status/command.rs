//! Command Specific Status, type 1 (Base 2.1, "Command Specific Status Definition").
//!
//! Codes below 80h belong to the admin commands; 3Ch to 41h came after revision 2.2. From 80h each
//! command set has its own: [`io`] for the I/O command sets, [`fabrics`] for Fabrics commands.

crate::status::codes! { SCT_COMMAND:
    COMPLETION_QUEUE_INVALID = 0x00, "Completion Queue Invalid", "The completion queue does not exist.";
    INVALID_QUEUE_ID = 0x01, "Invalid Queue Identifier", "The queue identifier is out of range, in use, or names no queue.";
    INVALID_QUEUE_SIZE = 0x02, "Invalid Queue Size", "The queue is empty or larger than CAP.MQES allows.";
    ABORT_LIMIT_EXCEEDED = 0x03, "Abort Command Limit Exceeded", "More Abort commands are outstanding than Identify Controller's ACL allows.";
    EVENT_LIMIT_EXCEEDED = 0x05, "Asynchronous Event Request Limit Exceeded", "More event requests are outstanding than Identify Controller's AERL allows.";
    INVALID_FIRMWARE_SLOT = 0x06, "Invalid Firmware Slot", "The firmware slot does not exist, is empty, or is read only.";
    INVALID_FIRMWARE_IMAGE = 0x07, "Invalid Firmware Image", "The firmware image is not valid and was not loaded.";
    INVALID_INTERRUPT_VECTOR = 0x08, "Invalid Interrupt Vector", "The controller does not have this interrupt vector.";
    INVALID_LOG_PAGE = 0x09, "Invalid Log Page", "The controller does not have this log page.";
    INVALID_FORMAT = 0x0a, "Invalid Format", "The namespace does not support this format.";
    FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x0b, "Firmware Activation Requires Conventional Reset", "The firmware is committed; a conventional reset activates it.";
    INVALID_QUEUE_DELETION = 0x0c, "Invalid Queue Deletion", "A submission queue still uses the completion queue.";
    FEATURE_NOT_SAVEABLE = 0x0d, "Feature Identifier Not Saveable", "The feature has no saved value.";
    FEATURE_NOT_CHANGEABLE = 0x0e, "Feature Not Changeable", "The feature's value cannot be changed.";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x0f, "Feature Not Namespace Specific", "The feature belongs to the controller, not to a namespace.";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x10, "Firmware Activation Requires NVM Subsystem Reset", "The firmware is committed; an NVM subsystem reset activates it.";
    FIRMWARE_NEEDS_RESET = 0x11, "Firmware Activation Requires Controller Level Reset", "The firmware is committed; a controller level reset activates it.";
    FIRMWARE_NEEDS_TIME = 0x12, "Firmware Activation Requires Maximum Time Violation", "Activating at once would take longer than Identify Controller's MTFA.";
    FIRMWARE_PROHIBITED = 0x13, "Firmware Activation Prohibited", "The controller refuses to activate this firmware.";
    OVERLAPPING_RANGE = 0x14, "Overlapping Range", "The parts of the downloaded firmware image overlap.";
    NAMESPACE_INSUFFICIENT_CAPACITY = 0x15, "Namespace Insufficient Capacity", "There is too little unallocated capacity for the namespace.";
    NAMESPACE_ID_UNAVAILABLE = 0x16, "Namespace Identifier Unavailable", "There can be no more namespaces.";
    NAMESPACE_ALREADY_ATTACHED = 0x18, "Namespace Already Attached", "The namespace is already attached to the controller.";
    NAMESPACE_IS_PRIVATE = 0x19, "Namespace Is Private", "The namespace is private and attached to another controller.";
    NAMESPACE_NOT_ATTACHED = 0x1a, "Namespace Not Attached", "The namespace is not attached to the controller.";
    THIN_PROVISIONING_NOT_SUPPORTED = 0x1b, "Thin Provisioning Not Supported", "The controller does not support thin provisioning.";
    INVALID_CONTROLLER_LIST = 0x1c, "Controller List Invalid", "The list of controllers is not valid.";
    SELF_TEST_IN_PROGRESS = 0x1d, "Device Self-test In Progress", "A device self-test is already running.";
    BOOT_PARTITION_WRITE_PROHIBITED = 0x1e, "Boot Partition Write Prohibited", "The boot partition is locked.";
    INVALID_CONTROLLER_ID = 0x1f, "Invalid Controller Identifier", "There is no such controller.";
    INVALID_SECONDARY_STATE = 0x20, "Invalid Secondary Controller State", "The secondary or primary controller is in the wrong state for this.";
    INVALID_RESOURCE_COUNT = 0x21, "Invalid Number of Controller Resources", "The number of flexible resources is not valid.";
    INVALID_RESOURCE_ID = 0x22, "Invalid Resource Identifier", "There is no such resource.";
    SANITIZE_PROHIBITED_WITH_PMR = 0x23, "Sanitize Prohibited While Persistent Memory Region is Enabled", "The persistent memory region must be disabled before a sanitize.";
    INVALID_ANA_GROUP = 0x24, "ANA Group Identifier Invalid", "The ANA group is not supported.";
    ANA_ATTACH_FAILED = 0x25, "ANA Attach Failed", "The ANA state does not let the namespace be attached.";
    INSUFFICIENT_CAPACITY = 0x26, "Insufficient Capacity", "There is too little free capacity for the operation.";
    ATTACHMENT_LIMIT_EXCEEDED = 0x27, "Namespace Attachment Limit Exceeded", "The controller can have no more namespaces attached.";
    LOCKDOWN_NOT_SUPPORTED = 0x28, "Prohibition of Command Execution Not Supported", "This command or feature cannot be locked down.";
    IO_COMMAND_SET_NOT_SUPPORTED = 0x29, "I/O Command Set Not Supported", "The controller does not support the I/O command set.";
    IO_COMMAND_SET_NOT_ENABLED = 0x2a, "I/O Command Set Not Enabled", "The I/O command set is supported but not enabled.";
    IO_COMMAND_SETS_REJECTED = 0x2b, "I/O Command Set Combination Rejected", "The controller cannot enable this combination of I/O command sets.";
    INVALID_IO_COMMAND_SET = 0x2c, "Invalid I/O Command Set", "The command and the namespace belong to different I/O command sets.";
    ID_UNAVAILABLE = 0x2d, "Identifier Unavailable", "There can be no more endurance groups or NVM sets.";
    NAMESPACE_IS_DISPERSED = 0x2e, "Namespace Is Dispersed", "The namespace is dispersed, which the command does not allow.";
    INVALID_DISCOVERY_INFORMATION = 0x2f, "Invalid Discovery Information", "A discovery entry does not apply to the entity that it is for.";
    ZONING_DATA_LOCKED = 0x30, "Zoning Data Structure Locked", "The fabric zoning data structure is locked.";
    ZONING_DATA_NOT_FOUND = 0x31, "Zoning Data Structure Not Found", "There is no such fabric zoning data structure.";
    INSUFFICIENT_DISCOVERY_RESOURCES = 0x32, "Insufficient Discovery Resources", "The discovery controller cannot hold so many entries.";
    FUNCTION_DISABLED = 0x33, "Requested Function Disabled", "Fabric zoning is not enabled on the discovery controller.";
    ZONE_GROUP_ORIGINATOR_INVALID = 0x34, "ZoneGroup Originator Invalid", "The originator of the zone group is not the host that sent the command.";
    INVALID_HOST = 0x35, "Invalid Host", "There is no such host.";
    INVALID_SUBSYSTEM = 0x36, "Invalid NVM Subsystem", "There is no such NVM subsystem.";
    INVALID_DATA_QUEUE = 0x37, "Invalid Controller Data Queue", "There is no such controller data queue.";
    NOT_ENOUGH_RESOURCES = 0x38, "Not Enough Resources", "The controller lacks the resources for this.";
    CONTROLLER_SUSPENDED = 0x39, "Controller Suspended", "The controller is suspended.";
    CONTROLLER_NOT_SUSPENDED = 0x3a, "Controller Not Suspended", "The controller is not suspended.";
    DATA_QUEUE_FULL = 0x3b, "Controller Data Queue Full", "The controller data queue is full.";
    TOO_MANY_NAMESPACE_SANITIZES = 0x3c, "Request Exceeds Maximum Namespace Sanitize Operations In Progress", "So many namespaces cannot be sanitized at once.";
    PERSONALITY_REQUIRED = 0x3d, "Manufacturing Default Personality Required", "The firmware needs the manufacturing default personality.";
    INVALID_POWER_LIMIT = 0x3e, "Invalid Power Limit", "The controller does not support this power limit.";
    CROSS_RESET_IN_PROGRESS = 0x3f, "Cross-Controller Reset In Progress", "A cross-controller reset of that controller is already running.";
    CROSS_RESET_LOG_FULL = 0x40, "Cross-Controller Reset Log Page Full", "The log of cross-controller resets has no room.";
    CROSS_RESET_LIMIT_EXCEEDED = 0x41, "Cross-Controller Reset Limit Exceeded", "So many cross-controller resets cannot run at once.";
}

/// Codes from 80h as answers to I/O commands (Base 2.1, "Command Specific Status Values, I/O Commands";
/// 9Ch came with 2.2, B6h and B7h are ZNS 1.2's).
pub(super) mod io {
    crate::status::codes! { SCT_COMMAND:
        CONFLICTING_ATTRIBUTES = 0x80, "Conflicting Attributes", "The attributes in the command contradict each other.";
        INVALID_PROTECTION_INFORMATION = 0x81, "Invalid Protection Information", "The protection settings do not fit the namespace's format.";
        WRITE_TO_READ_ONLY_RANGE = 0x82, "Attempted Write to Read Only Range", "The range holds blocks that can only be read.";
        COMMAND_SIZE_LIMIT_EXCEEDED = 0x83, "Command Size Limit Exceeded", "The command covers more than the controller's limit for it.";
        INVALID_COMMAND_ID = 0x84, "Invalid Command ID", "There is no such command to cancel.";
        INCOMPATIBLE_NAMESPACE = 0x85, "Incompatible Namespace or Format", "Source and destination of the copy have formats that do not go together.";
        FAST_COPY_NOT_POSSIBLE = 0x86, "Fast Copy Not Possible", "The command asked for a fast copy, and this one would not be.";
        OVERLAPPING_IO_RANGE = 0x87, "Overlapping I/O Range", "Source and destination of the copy overlap.";
        NAMESPACE_NOT_REACHABLE = 0x88, "Namespace Not Reachable", "A namespace that the command needs cannot be reached from here.";
        INSUFFICIENT_RESOURCES = 0x89, "Insufficient Resources", "The controller lacks the resources for this command.";
        INSUFFICIENT_PROGRAM_RESOURCES = 0x8a, "Insufficient Program Resources", "The controller lacks the resources for the program.";
        INVALID_MEMORY_NAMESPACE = 0x8b, "Invalid Memory Namespace", "There is no such memory namespace.";
        INVALID_MEMORY_RANGE_SET = 0x8c, "Invalid Memory Range Set", "The memory range set is not valid.";
        INVALID_MEMORY_RANGE_SET_ID = 0x8d, "Invalid Memory Range Set Identifier", "There is no such memory range set.";
        INVALID_PROGRAM_DATA = 0x8e, "Invalid Program Data", "The program's data is not valid.";
        INVALID_PROGRAM_INDEX = 0x8f, "Invalid Program Index", "There is no such program index.";
        INVALID_PROGRAM_TYPE = 0x90, "Invalid Program Type", "The controller does not support programs of this type.";
        MEMORY_RANGES_EXCEEDED = 0x91, "Maximum Memory Ranges Exceeded", "There can be no more memory ranges.";
        MEMORY_RANGE_SETS_EXCEEDED = 0x92, "Maximum Memory Range Sets Exceeded", "There can be no more memory range sets.";
        PROGRAMS_ACTIVATED_EXCEEDED = 0x93, "Maximum Programs Activated", "There can be no more active programs.";
        PROGRAM_BYTES_EXCEEDED = 0x94, "Maximum Program Bytes Exceeded", "There is no room for more programs.";
        MEMORY_RANGE_SET_IN_USE = 0x95, "Memory Range Set In Use", "A program uses the memory range set.";
        NO_PROGRAM = 0x96, "No Program", "There is no program at this index.";
        OVERLAPPING_MEMORY_RANGES = 0x97, "Overlapping Memory Ranges", "Memory ranges overlap.";
        PROGRAM_NOT_ACTIVATED = 0x98, "Program Not Activated", "The program is not active.";
        PROGRAM_IN_USE = 0x99, "Program In Use", "The program runs.";
        PROGRAM_INDEX_NOT_DOWNLOADABLE = 0x9a, "Program Index Not Downloadable", "No program can be loaded at this index.";
        PROGRAM_TOO_BIG = 0x9b, "Program Too Big", "The program is larger than the controller takes.";
        MEDIA_VERIFIED = 0x9c, "Successful Media Verification Read", "The read verified the media after a sanitize and returned no user data.";
        INVALID_ZONE_OPERATION = 0xb6, "Invalid Zone Operation Request", "The zone does not allow the operation.";
        ZRWA_UNAVAILABLE = 0xb7, "ZRWA Resources Unavailable", "No zone random write area is available.";
        ZONE_BOUNDARY_ERROR = 0xb8, "Zoned Boundary Error", "The command crosses the end of its zone.";
        ZONE_IS_FULL = 0xb9, "Zone Is Full", "The zone is full.";
        ZONE_IS_READ_ONLY = 0xba, "Zone Is Read Only", "The zone can only be read.";
        ZONE_IS_OFFLINE = 0xbb, "Zone Is Offline", "The zone is offline.";
        ZONE_INVALID_WRITE = 0xbc, "Zone Invalid Write", "The write does not start at the zone's write pointer.";
        TOO_MANY_ACTIVE_ZONES = 0xbd, "Too Many Active Zones", "There can be no more active zones.";
        TOO_MANY_OPEN_ZONES = 0xbe, "Too Many Open Zones", "There can be no more open zones.";
        INVALID_ZONE_TRANSITION = 0xbf, "Invalid Zone State Transition", "The zone cannot go to that state from the one that it is in.";
    }
}

/// Codes from 80h as answers to Fabrics commands (Base 2.1, "Command Specific Status Values,
/// Fabrics Commands").
pub(super) mod fabrics {
    crate::status::codes! { SCT_COMMAND:
        FABRICS_INCOMPATIBLE_FORMAT = 0x80, "Incompatible Format", "The subsystem does not support this format of the command's data.";
        FABRICS_CONTROLLER_BUSY = 0x81, "Controller Busy", "The controller serves another host.";
        FABRICS_CONNECT_INVALID = 0x82, "Connect Invalid Parameters", "A parameter of the Connect command is not valid; the result says which.";
        FABRICS_RESTART_DISCOVERY = 0x83, "Connect Restart Discovery", "The subsystem is not available here: discover again.";
        FABRICS_INVALID_HOST = 0x84, "Connect Invalid Host", "The host may not use this subsystem or controller.";
        FABRICS_INVALID_QUEUE_TYPE = 0x85, "Invalid Queue Type", "The command came on the wrong kind of queue.";
        FABRICS_DISCOVER_RESTART = 0x90, "Discover Restart", "The discovery log page changed while it was read: start over.";
        FABRICS_AUTHENTICATION_REQUIRED = 0x91, "Authentication Required", "The queue must authenticate before anything else.";
    }
}
