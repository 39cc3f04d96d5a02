//! The calls and the fault, on the model.
