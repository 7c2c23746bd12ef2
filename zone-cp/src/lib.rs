//! The zone control plane: turns documents into what its proxies run.
