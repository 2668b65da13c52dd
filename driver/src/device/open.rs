//! From an address to an open device.

use std::sync::Arc;

use super::Device;
use super::vfio::Vfio;
use super::vfio_user::VfioUser;
use crate::address::Address;
use crate::controller::Config;
use crate::error::AttachError;

/// Opens the device at `address`.
pub(crate) fn open(address: &Address, config: &Config) -> Result<Arc<dyn Device>, AttachError> {
    match address {
        Address::VfioUser(path) => Ok(Arc::new(VfioUser::open(path, config.exchange_timeout)?)),
        Address::Pcie(bdf) => Ok(Arc::new(Vfio::open(*bdf)?)),
        Address::Quirky { address, .. } => open(address, config),
        // Controllers across a network have no device.
        Address::Tcp(_) => Err(AttachError::Unusable {
            address: address.to_string(),
            what: "there is no device behind this address".into(),
        }),
        #[cfg(feature = "embedded")]
        Address::Embedded(options) => Ok(Arc::new(super::embedded::Embedded::open(options)?)),
        #[cfg(not(feature = "embedded"))]
        Address::Embedded(_) => {
            Err(AttachError::NotBuilt { address: address.to_string(), feature: "embedded" })
        }
    }
}
