//! Generic Command Status, type 0 (Base 2.1, "Generic Command Status Definition").
//!
//! 2Bh and 2Ch came after revision 2.2. Codes from 80h belong to the I/O command sets: NVM (80h to 84h) and KV (85h to 89h).

crate::status::codes! { SCT_GENERIC:
    SUCCESS = 0x00, "Successful Completion", "The command completed without error.";
    INVALID_OPCODE = 0x01, "Invalid Command Opcode", "The opcode is reserved or the controller does not support it.";
    INVALID_FIELD = 0x02, "Invalid Field in Command", "A field of the command holds a value that is reserved or not supported.";
    COMMAND_ID_CONFLICT = 0x03, "Command ID Conflict", "A command with this identifier is already outstanding in the queue.";
    DATA_TRANSFER_ERROR = 0x04, "Data Transfer Error", "Moving the command's data or metadata failed.";
    ABORTED_POWER_LOSS = 0x05, "Commands Aborted due to Power Loss Notification", "The controller was told that power goes away and gave the command up.";
    INTERNAL_ERROR = 0x06, "Internal Error", "Something inside the controller failed.";
    ABORTED_BY_REQUEST = 0x07, "Command Abort Requested", "An Abort command, or a reset, ended this command.";
    ABORTED_SQ_DELETION = 0x08, "Command Aborted due to SQ Deletion", "The submission queue that held the command was deleted.";
    ABORTED_FAILED_FUSED = 0x09, "Command Aborted due to Failed Fused Command", "The other half of the fused operation failed.";
    ABORTED_MISSING_FUSED = 0x0a, "Command Aborted due to Missing Fused Command", "The entry next to this half of a fused operation is not its other half.";
    INVALID_NAMESPACE = 0x0b, "Invalid Namespace or Format", "The namespace does not exist, or its format does not allow the command.";
    COMMAND_SEQUENCE_ERROR = 0x0c, "Command Sequence Error", "The command came at the wrong point of a sequence of commands.";
    INVALID_SGL_SEGMENT = 0x0d, "Invalid SGL Segment Descriptor", "An SGL segment or last segment descriptor is not valid.";
    INVALID_SGL_COUNT = 0x0e, "Invalid Number of SGL Descriptors", "A segment descriptor stands elsewhere than last in its segment.";
    INVALID_DATA_SGL_LENGTH = 0x0f, "Data SGL Length Invalid", "The data SGL is shorter than the transfer, or longer and that is not supported.";
    INVALID_METADATA_SGL_LENGTH = 0x10, "Metadata SGL Length Invalid", "The metadata SGL is shorter than the transfer, or longer and that is not supported.";
    INVALID_SGL_TYPE = 0x11, "SGL Descriptor Type Invalid", "The controller does not support this type of SGL descriptor here.";
    INVALID_CMB_USE = 0x12, "Invalid Use of Controller Memory Buffer", "The command uses the controller memory buffer in a way that is not supported.";
    INVALID_PRP_OFFSET = 0x13, "PRP Offset Invalid", "A PRP entry other than the first has an offset into its page.";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x14, "Atomic Write Unit Exceeded", "The write is longer than the controller writes atomically.";
    OPERATION_DENIED = 0x15, "Operation Denied", "The host lacks the right to do this.";
    INVALID_SGL_OFFSET = 0x16, "SGL Offset Invalid", "The offset in an SGL descriptor is not valid.";
    HOST_ID_INCONSISTENT = 0x18, "Host Identifier Inconsistent Format", "Hosts use 64-bit and 128-bit identifiers in the subsystem at once.";
    KEEP_ALIVE_EXPIRED = 0x19, "Keep Alive Timer Expired", "The host kept silent for longer than the keep alive timeout.";
    INVALID_KEEP_ALIVE = 0x1a, "Keep Alive Timeout Invalid", "The controller does not support this keep alive timeout.";
    ABORTED_PREEMPT = 0x1b, "Command Aborted due to Preempt and Abort", "Another host preempted the reservation and aborted the command.";
    SANITIZE_FAILED = 0x1c, "Sanitize Failed", "The last sanitize operation failed, and nothing has recovered from that.";
    SANITIZE_IN_PROGRESS = 0x1d, "Sanitize In Progress", "The command is not allowed while a sanitize operation runs.";
    INVALID_SGL_GRANULARITY = 0x1e, "SGL Data Block Granularity Invalid", "An SGL data block is not aligned, or not as long, as the controller needs.";
    NOT_SUPPORTED_IN_CMB_QUEUE = 0x1f, "Command Not Supported for Queue in CMB", "The controller does not take this command from a queue in its memory buffer.";
    NAMESPACE_WRITE_PROTECTED = 0x20, "Namespace is Write Protected", "The namespace is write protected.";
    COMMAND_INTERRUPTED = 0x21, "Command Interrupted", "The controller had to stop the command; it can be sent again.";
    TRANSIENT_TRANSPORT_ERROR = 0x22, "Transient Transport Error", "The transport failed for a moment; the command can be sent again.";
    PROHIBITED_BY_LOCKDOWN = 0x23, "Command Prohibited by Command and Feature Lockdown", "The command or feature has been locked down.";
    MEDIA_NOT_READY = 0x24, "Admin Command Media Not Ready", "The admin command needs the media, which is not ready yet.";
    INVALID_KEY_TAG = 0x25, "Invalid Key Tag", "The key tag is not valid for the namespace.";
    HOST_DISPERSED_NOT_ENABLED = 0x26, "Host Dispersed Namespace Support Not Enabled", "The namespace is dispersed and the host has not said that it can use such a one.";
    HOST_ID_NOT_INITIALIZED = 0x27, "Host Identifier Not Initialized", "The command needs a host identifier, and none has been set.";
    INCORRECT_KEY = 0x28, "Incorrect Key", "The key that the key tag names is not the right one.";
    FDP_DISABLED = 0x29, "FDP Disabled", "Flexible Data Placement is not enabled in the endurance group.";
    INVALID_PLACEMENT_HANDLES = 0x2a, "Invalid Placement Handle List", "The list of placement handles is not valid.";
    SANITIZE_NAMESPACE_FAILED = 0x2b, "Sanitize Namespace Failed", "The last sanitize of the namespace failed, and nothing has recovered from that.";
    SANITIZE_NAMESPACE_IN_PROGRESS = 0x2c, "Sanitize Namespace In Progress", "The command is not allowed while the namespace is sanitized.";
    LBA_OUT_OF_RANGE = 0x80, "LBA Out of Range", "The command reaches past the end of the namespace.";
    CAPACITY_EXCEEDED = 0x81, "Capacity Exceeded", "The namespace has no capacity left for this.";
    NAMESPACE_NOT_READY = 0x82, "Namespace Not Ready", "The namespace cannot be accessed now.";
    RESERVATION_CONFLICT = 0x83, "Reservation Conflict", "A reservation on the namespace forbids the command.";
    FORMAT_IN_PROGRESS = 0x84, "Format In Progress", "The namespace is being formatted.";
    INVALID_VALUE_SIZE = 0x85, "Invalid Value Size", "The namespace does not support values of this size.";
    INVALID_KEY_SIZE = 0x86, "Invalid Key Size", "The namespace does not support keys of this size.";
    KEY_DOES_NOT_EXIST = 0x87, "KV Key Does Not Exist", "There is no such key.";
    UNRECOVERED_ERROR = 0x88, "Unrecovered Error", "Reading from the medium failed for good.";
    KEY_EXISTS = 0x89, "Key Exists", "There is such a key already, and the command asked to store only a new one.";
}
