//! The practice org.
