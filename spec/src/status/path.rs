//! Path Related Status, type 3 (Base 2.1, "Path Related Status Definition").
//!
//! Codes from 70h are never sent by a controller: the host's own software makes them up.

crate::status::codes! { SCT_PATH:
    INTERNAL_PATH_ERROR = 0x00, "Internal Path Error", "The controller failed in a way that another path may not.";
    ANA_PERSISTENT_LOSS = 0x01, "Asymmetric Access Persistent Loss", "The namespace cannot be reached through this controller for good.";
    ANA_INACCESSIBLE = 0x02, "Asymmetric Access Inaccessible", "The namespace cannot be reached through this controller now.";
    ANA_TRANSITION = 0x03, "Asymmetric Access Transition", "Access to the namespace through this controller is changing.";
    CONTROLLER_PATHING_ERROR = 0x60, "Controller Pathing Error", "The controller detected an error of the path.";
    HOST_PATHING_ERROR = 0x70, "Host Pathing Error", "The host detected an error of the path.";
    ABORTED_BY_HOST = 0x71, "Command Aborted By Host", "The host gave the command up.";
}
