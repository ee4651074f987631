//! A minimal Core.
