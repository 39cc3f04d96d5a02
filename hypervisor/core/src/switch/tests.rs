//! Several vCPUs, on the model machine.
