//! The whole program, from outside. One binary: linking is the slow part.

mod check;
