//! Kept tokens against a scripted login host.
