//! The environments of Pleo, and where each is.

/// A set of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Environment {
    /// An imitation of Pleo on this machine.
    Sandbox,
    /// Pleo's own test system.
    Staging,
    /// Pleo itself.
    Production,
}

impl Environment {
    /// The name as written in the configuration.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The origins of its authorization server and of its API.
    pub(super) fn origins(self) -> (&'static str, &'static str) {
        match self {
            Self::Sandbox => ("http://127.0.0.1:8090", "http://127.0.0.1:8090"),
            Self::Staging => ("https://auth.staging.pleo.io", "https://external.staging.pleo.io"),
            Self::Production => ("https://auth.pleo.io", "https://external.pleo.io"),
        }
    }
}
