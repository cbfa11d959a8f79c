//! Devices by name.

use burn::tensor::Device;

/// A name that stands for no device of this build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device `{name}` is not part of this build\nhint: this build computes on `cpu`")]
pub struct DeviceError {
    /// The name.
    pub name: String,
}

/// The device called `name`.
///
/// # Errors
///
/// If this build has no such device.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match name {
        "cpu" => Ok(Device::flex()),
        other => Err(DeviceError { name: other.to_owned() }),
    }
}
