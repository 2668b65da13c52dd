//! Media and Data Integrity Errors, type 2 (Base 2.1 and NVM 1.1, "Media and Data Integrity
//! Errors Definition").

crate::status::codes! { SCT_MEDIA:
    WRITE_FAULT = 0x80, "Write Fault", "The data could not be written to the media.";
    UNRECOVERED_READ_ERROR = 0x81, "Unrecovered Read Error", "The data could not be read from the media.";
    GUARD_CHECK_ERROR = 0x82, "End-to-end Guard Check Error", "The guard of the protection information does not match the data.";
    APPLICATION_TAG_CHECK_ERROR = 0x83, "End-to-end Application Tag Check Error", "The application tag is not the expected one.";
    REFERENCE_TAG_CHECK_ERROR = 0x84, "End-to-end Reference Tag Check Error", "The reference tag is not the expected one.";
    COMPARE_FAILURE = 0x85, "Compare Failure", "The data on the media differs from the data in the command.";
    ACCESS_DENIED = 0x86, "Access Denied", "The host lacks the right to access the namespace or range.";
    UNWRITTEN_BLOCK = 0x87, "Deallocated or Unwritten Logical Block", "The range holds blocks that were deallocated or never written.";
    STORAGE_TAG_CHECK_ERROR = 0x88, "End-to-End Storage Tag Check Error", "The storage tag is not the expected one.";
}
