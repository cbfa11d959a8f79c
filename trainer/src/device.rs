//! The devices of this build by name, and what of a machine the bits of a result depend on.
//!
//! The one list of devices: flags and configs are both resolved here. It knows nothing about what is computed.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// Names of the devices that this build computes on, the default first.
pub const DEVICES: [&str; 1] = [CPU];
/// The default device.
pub const CPU: &str = "cpu";

/// A name that stands for no device of this build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device `{name}` is not part of this build\nhint: this build computes on {}", known())]
pub struct DeviceError {
    /// The name.
    pub name: String,
}

fn known() -> String {
    DEVICES.map(|name| format!("`{name}`")).join(", ")
}

/// The device called `name`.
///
/// # Errors
///
/// If this build has no such device.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match name {
        CPU => Ok(Device::flex()),
        other => Err(DeviceError { name: other.to_owned() }),
    }
}

/// The processor's architecture and what of it the results' bits depend on; elsewhere the device.
pub fn processor(device: &Device) -> String {
    if *device != Device::flex() {
        return format!("{device:?}");
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return "x86_64 avx2 fma".to_owned();
    }
    std::env::consts::ARCH.to_owned()
}

/// The machine that a run is to be made on, as far as the caller knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name, as the system has it.
    pub processor: Option<String>,
    /// Memory that is free now.
    pub available_bytes: Option<u64>,
}

/// The machine that computed steps: the same weights and rows give the same bits on equal ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputedOn {
    /// Name of the device.
    pub device: String,
    /// Instructions that the kernels choose by.
    pub processor: String,
    /// The processor's name: the order of sums depends on its caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ComputedOn {
    /// A device of this machine.
    pub fn new(name: &str, device: &Device, machine: &Machine) -> Self {
        Self { device: name.to_owned(), processor: processor(device), name: machine.processor.clone() }
    }
}

impl std::fmt::Display for ComputedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, processor, name } = self;
        write!(
            f,
            "{device} ({}{processor})",
            name.as_ref().map_or_else(String::new, |name| format!("{name}, "))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_device_is_one_and_an_error_lists_them() {
        assert!(DEVICES.iter().all(|name| device(name).is_ok()));
        let error = device("cuda:0").unwrap_err().to_string();
        assert_eq!(error, "device `cuda:0` is not part of this build\nhint: this build computes on `cpu`");
    }
}
