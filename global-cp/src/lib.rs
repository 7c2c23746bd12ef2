//! The global control plane: owns policy, joins zones.
